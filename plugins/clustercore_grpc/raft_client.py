"""A client of single nodes for applications, scripts and tests: it asks one what Raft's nodes ask each other.

The requests are Raft's own, and a node answers them like any peer's: who sends ``request_vote`` or ``append_entries``
to a running cluster takes part in it. Nodes do not use this; what drives them is ``clustercore.runtime``.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import TracebackType
from typing import Self, TypeVar

import attrs
import trio

from clustercore.interfaces import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    CallStatistics,
    Discovery,
    Entry,
    Hello,
    HelloResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    Lane,
    Ledger,
    Link,
    LinkClosed,
    LogIndex,
    Message,
    NodeId,
    NodeStatus,
    PeerTimeout,
    PeerUnreachable,
    RequestVoteRequest,
    RequestVoteResponse,
    RetryCall,
    RetryPolicy,
    ServiceError,
    SnapshotMetadata,
    StatusRequest,
    StatusResponse,
    Superseded,
    Term,
    TransportError,
)
from clustercore_grpc.raft_client_config import RaftClientConfig
from clustercore_grpc.transport import GrpcTransport

__all__ = ["RaftClient"]

# Links that are kept; beyond that the one unused for longest is closed.
_MAX_LINKS = 64

MessageT = TypeVar("MessageT", bound=Message)


def _always() -> bool:
    return True


@attrs.define(eq=False)
class _Pooled:
    """The link to one node, on one lane, in one name."""

    link: Link | None = None
    # Held during a request: the next one waits for its turn.
    turn: trio.Lock = attrs.field(factory=trio.Lock)
    users: int = 0


class RaftClient:
    """Asks nodes that a discovery knows. Use it as ``async with RaftClient(discovery, config) as client:``.

    A rejection (no vote, a log that does not match) is an answer, never an error. Each call:

    - Cancellation: the request may have arrived. The link it was on is closed.
    - Raises: PeerUnreachable if nothing was sent; PeerTimeout after ``timeout``; LinkClosed if the connection ended
      before the answer; ServiceError if the node refuses the link, which no repetition would change. Each of them is
      that of the last attempt; its ``next_delay_s`` says for what wait there was no time, if that is why it is
      the last. Superseded, before an attempt, if ``still_valid`` says that what the call was made for no longer holds:
      the term or the role of whom it is made for, mostly.

    Args:
        discovery: Where the nodes are. Entered and left by the caller.
        config: See there.
        policy: Decides, within ``max_retries``, which errors are worth another attempt; without one, all are but
            ServiceError. Raft's requests are idempotent.
        rng: Draws the waits.
    """

    def __init__(
        self,
        discovery: Discovery,
        config: RaftClientConfig | None = None,
        *,
        policy: RetryPolicy | None = None,
        rng: Random | None = None,
    ) -> None:
        self._discovery = discovery
        self._config = config or RaftClientConfig()
        self._policy = policy
        self._rng = rng or Random()  # spreads waits, and keeps no secret
        self._transport = GrpcTransport(
            timeout=self._config.timeout,
            keepalive_time_ms=self._config.keepalive_time_ms,
            keepalive_timeout_ms=self._config.keepalive_timeout_ms,
            max_message_bytes=self._config.max_message_bytes,
            token=self._config.token,
            tls_certificate=self._config.tls_certificate,
            tls_key=self._config.tls_key,
            tls_authority=self._config.tls_authority,
            cluster_id=self._config.cluster_id,
        )
        self._ledger = Ledger()
        # By node, lane and name; the one used last at the end.
        self._pool: dict[tuple[NodeId, Lane, NodeId], _Pooled] = {}
        # Where each node was when last connected to.
        self._addresses: dict[str, str] = {}
        self._is_closed = False
        self._last_request_id = 0

    async def __aenter__(self) -> Self:
        """Open the transport."""
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close everything."""
        try:
            await self.close()
        finally:
            await self._transport.__aexit__(exc_type, exc, traceback)

    async def close(self) -> None:
        """Close all links now; calls under way end with LinkClosed, later ones with TransportError. Idempotent."""
        self._is_closed = True
        for pooled in self._pool.values():
            if pooled.link is not None:
                await pooled.link.aclose()
        self._pool.clear()
        await trio.lowlevel.checkpoint()

    def statistics(self) -> Mapping[str, CallStatistics]:
        """Return what was counted, by node id. Bytes, connects and pings are those of the node's newest address."""
        of_addresses = self._transport.statistics()
        return {
            target: _with_connections(counted, of_addresses.get(self._addresses.get(target, "")))
            for target, counted in self._ledger.snapshot().items()
        }

    @property
    def link_count(self) -> int:
        """How many links are open."""
        return sum(pooled.link is not None for pooled in self._pool.values())

    # --- Questions ---

    async def request_vote(
        self,
        target_node_id: str,
        candidate_id: str,
        term: int,
        last_log_index: int,
        last_log_term: int,
        *,
        still_valid: Callable[[], bool] = _always,
    ) -> RequestVoteResponse:
        """Ask a node for its vote (Raft §5.2), in the name of ``candidate_id``."""
        request = RequestVoteRequest(Term(term), NodeId(candidate_id), LogIndex(last_log_index), Term(last_log_term))
        return await self._call(target_node_id, Lane.CONTROL, candidate_id, request, RequestVoteResponse, still_valid)

    async def append_entries(
        self,
        target_node_id: str,
        leader_id: str,
        term: int,
        prev_log_index: int,
        prev_log_term: int,
        leader_commit: int = 0,
        entries: Sequence[Entry] = (),
        *,
        still_valid: Callable[[], bool] = _always,
    ) -> AppendEntriesResponse:
        """Send entries, or none as a heartbeat (Raft §5.3), in the name of ``leader_id``."""
        request = AppendEntriesRequest(
            Term(term),
            NodeId(leader_id),
            LogIndex(prev_log_index),
            Term(prev_log_term),
            LogIndex(leader_commit),
            tuple(entries),
        )
        lane = Lane.BULK if entries else Lane.CONTROL
        return await self._call(target_node_id, lane, leader_id, request, AppendEntriesResponse, still_valid)

    async def install_snapshot(
        self,
        target_node_id: str,
        leader_id: str,
        term: int,
        metadata: SnapshotMetadata,
        data: bytes,
        *,
        offset: int = 0,
        is_last: bool = True,
        still_valid: Callable[[], bool] = _always,
    ) -> InstallSnapshotResponse:
        """Send a chunk of a snapshot (Raft §7), in the name of ``leader_id``. The answer says where the next begins."""
        request = InstallSnapshotRequest(
            Term(term), NodeId(leader_id), metadata, offset, data, zlib.crc32(data), is_last
        )
        return await self._call(target_node_id, Lane.BULK, leader_id, request, InstallSnapshotResponse, still_valid)

    async def status(self, target_node_id: str) -> NodeStatus:
        """Ask a node how it is. In nobody's name: no Hello is said."""
        self._last_request_id += 1
        request = StatusRequest(self._last_request_id)
        return (await self._call(target_node_id, Lane.CONTROL, "", request, StatusResponse)).status

    # --- Attempts ---

    async def _call(
        self,
        target: str,
        lane: Lane,
        speaker: str,
        request: Message,
        response_type: type[MessageT],
        still_valid: Callable[[], bool] = _always,
    ) -> MessageT:
        """Ask until there is an answer, or no attempt or time is left."""
        operation = type(request).__name__
        call = RetryCall(target=target, operation=operation, is_idempotent=True, timeout_s=self._config.timeout)
        deadline = trio.current_time() + self._config.timeout
        retried: TransportError | None = None
        # Waits that were drawn since the node last said when to come back.
        drawn = 0
        for retry in itertools.count():
            if not still_valid():
                raise Superseded(f"{operation} to node {target!r} is made {retry} times and no more") from retried
            counters = self._ledger.of(target)
            counters.retries += retry > 0
            try:
                with counters.counted():
                    answer = await self._attempt(target, lane, speaker, request, response_type, deadline)
                self._record(retried, call, success=True)
                return answer
            except TransportError as exc:
                self._record(retried, call, success=False)
                drawn = drawn + 1 if exc.retry_after_s is None else 0
                delay_s = self._config.delay_s(drawn, self._rng) if exc.retry_after_s is None else exc.retry_after_s
                if not self._is_worth_another(exc, retry, call, delay_s, deadline):
                    raise
                retried = exc
                await trio.sleep(delay_s)
        raise AssertionError("the count has no end")

    async def _attempt(
        self,
        target: str,
        lane: Lane,
        speaker: str,
        request: Message,
        response_type: type[MessageT],
        deadline: float,
    ) -> MessageT:
        """Ask once, within the time that one attempt may take."""
        limit_s = self._config.attempt_timeout_s
        ends_at = deadline if limit_s is None else min(deadline, trio.current_time() + limit_s)
        with trio.move_on_at(ends_at):
            return await self._ask(NodeId(target), lane, NodeId(speaker), request, response_type)
        given_s = self._config.timeout if limit_s is None or ends_at == deadline else limit_s
        raise PeerTimeout(f"{type(request).__name__} to node {target!r}: no answer within {given_s:g} s")

    def _is_worth_another(
        self, error: TransportError, retry: int, call: RetryCall, delay_s: float, deadline: float
    ) -> bool:
        if isinstance(error, ServiceError) or retry >= self._config.max_retries or self._is_closed:
            return False
        if delay_s == math.inf:
            error.add_note("not tried again: the node asks for no other attempt")
            return False
        if trio.current_time() + delay_s >= deadline:
            error.next_delay_s = delay_s
            error.add_note(f"not tried again: the next attempt would be {delay_s:.3f} s later, after the timeout")
            return False
        return self._policy is None or self._policy.should_retry(error, retry, call)

    def _record(self, error: TransportError | None, call: RetryCall, *, success: bool) -> None:
        """Tell the policy how the retry ended that was made for ``error``, if this was one."""
        if self._policy is not None and error is not None:
            self._policy.record_retry(error, success, call)

    async def _ask(
        self, target: NodeId, lane: Lane, speaker: NodeId, request: Message, response_type: type[MessageT]
    ) -> MessageT:
        pooled = self._pooled((target, lane, speaker))
        pooled.users += 1
        try:
            async with pooled.turn:
                is_answered = False
                try:
                    if pooled.link is None:
                        pooled.link = await self._connect(target, lane, speaker)
                    await pooled.link.send(request)
                    answer = await pooled.link.receive()
                    if not isinstance(answer, response_type):
                        raise LinkClosed(
                            f"node {target!r} answers {type(request).__name__} with {type(answer).__name__}"
                        )
                    is_answered = True
                    return answer
                finally:
                    if not is_answered and pooled.link is not None:
                        # An answer that still comes would be taken for that to the next request.
                        link, pooled.link = pooled.link, None
                        await link.aclose()
        finally:
            pooled.users -= 1

    def _pooled(self, key: tuple[NodeId, Lane, NodeId]) -> _Pooled:
        if self._is_closed:
            raise TransportError("the client is closed")
        pooled = self._pool.pop(key, None) or _Pooled()
        self._pool[key] = pooled
        return pooled

    async def _evict(self) -> None:
        """Close the links unused for longest, while there are too many."""
        for key, pooled in list(self._pool.items()):
            if self.link_count < _MAX_LINKS:
                return
            if not pooled.users and pooled.link is not None:
                del self._pool[key]
                await pooled.link.aclose()

    async def _connect(self, target: NodeId, lane: Lane, speaker: NodeId) -> Link:
        """Open a link, and introduce the one in whose name is asked."""
        await self._evict()
        address = (await self._discovery.members()).address_of(target)
        if address is None:
            raise PeerUnreachable(f"discovery knows no address of node {target!r}")
        self._addresses[target] = address
        link = await self._transport.connect(address, lane)
        try:
            if speaker:
                await self._introduce(link, target, speaker)
        except BaseException:
            await link.aclose()
            raise
        return link

    async def _introduce(self, link: Link, target: NodeId, speaker: NodeId) -> None:
        config = self._config
        hello = Hello(
            speaker, target, cluster_id=config.cluster_id, incarnation=config.incarnation, starts=config.starts
        )
        await link.send(hello)
        answer = await link.receive()
        if not isinstance(answer, HelloResponse):
            raise LinkClosed(f"node {target!r} answers a Hello with {type(answer).__name__}")
        if answer.refusal:
            raise ServiceError(f"node {target!r} refuses the link: {answer.refusal}")
        if answer.node_id != target:
            raise ServiceError(f"node {answer.node_id!r} answers where node {target!r} is looked for")


def _with_connections(calls: CallStatistics, connections: CallStatistics | None) -> CallStatistics:
    """Join what was counted of the calls to a node with what was counted of the connections to its address."""
    if connections is None:
        return calls
    of_connections = ("bytes_sent", "bytes_received", "connects", "connects_failed", "pings", "silences", "goaways")
    return attrs.evolve(calls, **{name: getattr(connections, name) for name in of_connections})
