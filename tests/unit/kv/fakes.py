"""A node and a transport without a cluster or a network: commands are applied at once, calls are function calls."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing

import trio
import trio.abc

from clustercore.interfaces import (
    AcceptLink,
    Applied,
    Consistency,
    Lane,
    Link,
    LinkClosed,
    LogIndex,
    MembersHandle,
    NodeHandle,
    NodeId,
    NodeStatus,
    NodeStopped,
    PeerUnreachable,
    ReadResult,
    Role,
    Service,
    ServiceTransport,
    Term,
    TransportError,
)
from clustercore_kv import Command, KeyValueMachine, Result, decode_result, encode_command

TERM = Term(1)
LEADER = NodeId("n1")


def snapshot_of(machine: KeyValueMachine) -> bytes:
    """Return a machine's snapshot as it is now, in one."""
    with closing(machine.snapshot()) as handle:
        return b"".join(handle.chunks())


def do(machine: KeyValueMachine, command: Command, index: int | None = None) -> Result:
    """Apply a command at the next index, or at a later one, and return its result."""
    at = machine.applied_index + 1 if index is None else index
    return decode_result(machine.apply(LogIndex(at), encode_command(command)))


class FakeNode(NodeHandle):
    """The only node of its cluster: what is proposed is applied at once."""

    def __init__(self, machine: KeyValueMachine) -> None:
        self.machine = machine
        self.proposals = 0
        self.reads = 0
        # Raised by the next proposals or reads, one each, in place of carrying them out.
        self.errors: deque[Exception] = deque()
        # How long each proposal was to wait for a leader.
        self.give_up_s: list[float | None] = []
        self.is_stopped = False
        # Reads wait for a leader that never comes.
        self.hangs = False

    @property
    def node_id(self) -> NodeId:
        return LEADER

    async def propose(
        self, command: bytes, *, forward: bool = True, give_up_s: float | None = None, version: int = 1
    ) -> Applied:
        await trio.lowlevel.checkpoint()
        self.give_up_s.append(give_up_s)
        self.proposals += 1
        if self.errors:
            raise self.errors.popleft()
        self.machine.validate(command)
        index = LogIndex(self.machine.applied_index + 1)
        return Applied(index, TERM, self.machine.apply(index, command))

    async def read(
        self, query: bytes, *, consistency: Consistency = Consistency.LINEARIZABLE, max_lag_s: float = math.inf
    ) -> ReadResult:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        if self.hangs:
            await trio.sleep_forever()
        if self.errors:
            raise self.errors.popleft()
        return ReadResult(self.machine.query(query), LogIndex(self.machine.applied_index), consistency)

    def leading(self, *, cleanup_s: float | None = None) -> AbstractAsyncContextManager[Term]:
        raise NotImplementedError("the store does nothing that only a leader may")

    @property
    def members(self) -> MembersHandle:
        raise NotImplementedError("the store does not look at the members")

    def status(self) -> NodeStatus:
        if self.is_stopped:
            raise NodeStopped("stopped")
        applied = LogIndex(self.machine.applied_index)
        return NodeStatus(LEADER, Role.LEADER, TERM, LEADER, applied, applied, LogIndex(1), applied, 0, ())


class FakeTransport(ServiceTransport):
    """Calls the handlers of nodes in the same process, unless told to fail."""

    def __init__(self) -> None:
        self._services: dict[str, Service] = {}
        self._streams: dict[str, list[_FakeStream]] = defaultdict(list)
        # Addresses in the order in which they were asked, unreachable ones too, and when.
        self.asked: list[str] = []
        self.asked_at: list[float] = []
        # What becomes of the next calls to an address, one each: raised before the handler runs.
        self.before: dict[str, deque[Exception]] = defaultdict(deque)
        # Or raised after it ran, in place of its response: carried out, and the client cannot know.
        self.after: dict[str, deque[Exception]] = defaultdict(deque)
        # Or returned in place of its response.
        self.instead: dict[str, deque[bytes]] = defaultdict(deque)
        # Raised by receive() when a stream is cut.
        self.cut_error: Exception = LinkClosed("cut")

    def host(self, address: str, node: FakeNode) -> None:
        """Answer at ``address`` for a node."""
        (self._services[address],) = node.machine.services(node)

    def down(self, address: str) -> None:
        """Answer no more at ``address``, and cut the streams from there."""
        del self._services[address]
        self.cut(address)

    def cut(self, address: str) -> None:
        """End the streams from ``address`` in the middle."""
        for stream in self._streams.pop(address, []):
            stream.cut()

    def offer(self, services: Sequence[Service]) -> None:
        raise TransportError("this transport serves what it hosts")

    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        raise TransportError("this transport carries no links")

    async def connect(self, address: str, lane: Lane) -> Link:
        raise PeerUnreachable("this transport carries no links")

    async def call(self, address: str, method: str, request: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        service, name = self._find(address, method)
        response = await service.unary[name](request)
        if self.after[address]:
            raise self.after[address].popleft()
        return self.instead[address].popleft() if self.instead[address] else response

    @asynccontextmanager
    async def open_stream(
        self, address: str, method: str, request: bytes
    ) -> AsyncIterator[trio.abc.ReceiveChannel[bytes]]:
        await trio.lowlevel.checkpoint()
        service, name = self._find(address, method)
        send, receive = trio.open_memory_channel[bytes](0)
        stream = _FakeStream(receive, self)
        self._streams[address].append(stream)

        async def handle() -> None:
            try:
                async with send:
                    await service.streams[name](request, send.send)
            except trio.BrokenResourceError:
                pass  # The client has left.
            except TransportError as error:
                stream.failure = error

        async with trio.open_nursery() as nursery, receive:
            nursery.start_soon(handle)
            yield stream
            nursery.cancel_scope.cancel()

    def _find(self, address: str, method: str) -> tuple[Service, str]:
        self.asked.append(address)
        self.asked_at.append(trio.current_time())
        if self.before[address]:
            raise self.before[address].popleft()
        service = self._services.get(address)
        if service is None:
            raise PeerUnreachable(f"nothing answers at {address}")
        name, _, method = method.partition("/")
        assert name == service.name
        return service, method


class _FakeStream(trio.abc.ReceiveChannel[bytes]):
    """The client's end of a stream, which can be cut."""

    def __init__(self, inner: trio.MemoryReceiveChannel[bytes], transport: FakeTransport) -> None:
        self._inner = inner
        self._transport = transport
        self._receiving = trio.CancelScope()
        self._is_cut = False
        self.failure: TransportError | None = None

    async def receive(self) -> bytes:
        with trio.CancelScope() as self._receiving:
            if not self._is_cut:
                try:
                    return await self._inner.receive()
                except trio.EndOfChannel:
                    raise self.failure or trio.EndOfChannel from None
        raise self._transport.cut_error

    async def aclose(self) -> None:
        await self._inner.aclose()

    def cut(self) -> None:
        self._is_cut = True
        self._receiving.cancel()
