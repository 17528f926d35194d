"""Node: a member of a cluster, as an async context manager.

Long because it is all that an application calls, each call with its contract; what is done is done by the parts that
``Assembly`` joins.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from random import Random
from types import TracebackType
from typing import Self

import attrs
import trio

from clustercore.interfaces.companion import NodeCompanion
from clustercore.interfaces.discovery import Discovery, DiscoverySnapshot
from clustercore.interfaces.errors import (
    ConfigError,
    InvalidCommand,
    NodeStopped,
    NotLeader,
    TooStale,
    VersionNotEnabled,
)
from clustercore.interfaces.members import MembersHandle
from clustercore.interfaces.node import NodeHandle
from clustercore.interfaces.state_machine import StateMachine
from clustercore.interfaces.storage import Storage, StorageIdentity, StoredState
from clustercore.interfaces.transport import ServiceTransport, Transport
from clustercore.interfaces.values import Applied, Consistency, NodeStatus, ReadResult, RoleChange, SessionToken
from clustercore.raft.entry import EntryKind
from clustercore.raft.types import BEFORE_LOG, Configuration, LogIndex, NodeId, Role, Term
from clustercore.runtime.addresses import is_for_peers
from clustercore.runtime.assembly import Assembly
from clustercore.runtime.config import NodeConfig
from clustercore.runtime.founding import Founding
from clustercore.runtime.groups import sole_error
from clustercore.runtime.names import name_fault
from clustercore.runtime.presence import NOTHING_KNOWN
from clustercore.runtime.replicated_state import FIRST_VERSION, ReplicatedState
from clustercore.runtime.session_entries import Outcome, VersionedCommand, decode_answer, encode_version_entry
from clustercore.runtime.sessions import Session, SessionClient
from clustercore.runtime.snapshot_stream import restore_stored

__all__ = ["Node"]

logger = logging.getLogger("clustercore")


class Node(NodeHandle):
    """A member of a Raft cluster: your state machine, replicated.

    Use it as an async context manager, once. Everything it starts lives in its block and ends with it; an error inside
    the node (a full disk, a broken state machine) cancels the block's body and leaves the block as one typed
    ``ClusterError``. Leaving the block stops the node: it answers nobody afterwards, and proposals that still wait in
    other tasks end with NodeStopped (not done) or OutcomeUnknown.
    """

    def __init__(
        self,
        node_id: str,
        *,
        machine: StateMachine,
        transport: Transport,
        storage: Storage,
        discovery: Discovery,
        voters: Iterable[str] | None = None,
        join: bool | Iterable[str] = False,
        founding: Founding | None = None,
        advertise: str | None = None,
        companions: Sequence[NodeCompanion] = (),
        config: NodeConfig | None = None,
        rng: Random | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare a node; entering its block starts it.

        Args:
            node_id: This node's name, unique in the cluster and the same after a restart.
            machine: The replicated state, in its initial state.
            transport, storage, discovery: Plugins, not entered yet; the node enters and leaves them.
            voters: The ids of the nodes that form the cluster, this one's usually among them, the same on every node;
                once it is formed, the log says who belongs to it. By default those of a discovery whose members are
                fixed, and this one. Empty: this node waits until a member adds it (``members.add``).
            join: Instead of voters: ask a running cluster to add this node, as a learner that votes when it has caught
                up, at the addresses given and those that discovery knows; True asks the latter alone. A storage that
                belongs to a cluster already asks nobody, so the same call serves at every start; one that was removed
                stays so, until it is added elsewhere or starts with an empty storage.
            founding: Instead of both, where nobody names the voters: how many the cluster is to begin with, and which
                node founds it, the same on every node. The founder waits until enough nodes that discovery knows wait
                for it, forms the cluster, and all others are added to it, in whatever order they come up. A storage
                that belongs to a cluster just goes on.
            advertise: Where peers and clients are to reach this node, if that is not where the transport says that it
                listens: behind a translation of addresses, or when it listens on all interfaces.
            companions: What else runs in the node's nursery and answers on its listener, such as a sync service.
            config: Limits and timing.
            wall_clock: The time of day in seconds, against which the monotonic clock is checked for lease reads.
            rng: Where election timeouts and back-off come from; hand in a seeded one for a run that can be repeated.

        Raises: ConfigError if the node id is empty or has more than 255 bytes, ``voters`` and ``join`` are given both,
            or the transport carries less than the configuration allows, or does not carry the services of companions.
        """
        if not node_id:
            raise ConfigError("node_id is empty; it must be this node's unique name")
        if too_long := name_fault({"node_id": node_id}):
            raise ConfigError(too_long)
        self._node_id = NodeId(node_id)
        self._machine = machine
        self._transport = transport
        self._storage = storage
        self._discovery = discovery
        if join is not False and voters is not None:
            raise ConfigError("voters and join are given both; a node that is to be added forms no cluster")
        if isinstance(join, str):
            raise ConfigError(f"join is {join!r}; it must be a list of addresses, or True")
        if founding is not None and (voters is not None or join is not False):
            raise ConfigError("founding is given, and so is voters or join; the founder alone forms the cluster")
        if founding is not None:
            founding.label(self._node_id)
        self._founding = founding
        self._join = None if join is False else () if join is True else tuple(join)
        self._advertise = advertise
        if advertise is not None:
            _check_address(transport, f"advertise = {advertise!r}", advertise)
        for address in self._join or ():
            _check_address(transport, f"join = {list(self._join or ())!r}", address)
        if companions and not isinstance(transport, ServiceTransport):
            raise ConfigError(f"{type(transport).__name__} carries no services, and the companions need one that does")
        self._companions = tuple(companions)
        self._voters = None if voters is None else frozenset(NodeId(voter) for voter in voters)
        self._config = config if config is not None else NodeConfig()
        self._config.check_transport(transport.max_message_bytes)
        self._wall_clock = wall_clock
        self._rng = rng if rng is not None else Random()
        self._was_entered = False
        self._lifetime = self._live()
        # Set while the node runs.
        self._assembly: Assembly | None = None
        self._address: str | None = None

    # --- Life ---

    async def __aenter__(self) -> Self:
        """Open the plugins, read what is stored, and take part in the cluster.

        Returns once peers can connect; ``wait_leader`` waits for the cluster to be able to serve.

        Raises:
            StorageError, LogCorrupt: the storage cannot be used.
            StateMachineError: the stored snapshot cannot be restored.
            TransportError: the transport cannot listen.
            ConfigError: no voters are known, or the storage is another node's. While the node runs, it ends the block
                if ``join`` can never succeed: another node has this one's id or address.
        """
        if self._was_entered:
            raise RuntimeError("a Node is entered once; make a new one to start it again")
        self._was_entered = True
        await self._lifetime.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Stop the node. A write under way is finished first; nothing is answered afterwards.

        A leader whose block ended without an error hands over first, if a follower is fit, for at most an election
        timeout.
        """
        return await self._lifetime.__aexit__(exc_type, exc, traceback)

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        body_error: BaseException | None = None
        failure: BaseException | None = None
        try:
            async with self._storage, self._discovery, self._transport:
                stored = await self._storage.load()
                identity = await self._identify_storage(stored)
                replicated = ReplicatedState(self._machine)
                await restore_stored(replicated, self._storage)
                known = await self._known_members()
                assembly = Assembly(
                    node=self,
                    configuration=Configuration.of(self._initial_voters(known)),
                    replicated=replicated,
                    transport=self._transport,
                    storage=self._storage,
                    stored=stored,
                    identity=identity,
                    discovery=self._discovery,
                    known=known,
                    join=self._join,
                    founding=self._founding,
                    companions=self._companions,
                    config=self._config,
                    rng=self._rng,
                    wall_clock=self._wall_clock,
                )
                async with trio.open_nursery() as nursery:
                    listens = await nursery.start(self._transport.serve, assembly.acceptor.accept)
                    assembly.address = self._address = self._told_address(listens)
                    self._discovery.use_health(lambda: assembly.status().health)
                    nursery.start_soon(assembly.presence.tell)
                    with trio.move_on_after(self._config.raft.election_timeout_s):
                        # Others can find it then; a source that does not answer keeps it from nothing.
                        await assembly.presence.is_told.wait()
                    assembly.start(nursery)
                    self._assembly = assembly
                    try:
                        yield
                        # Only after a clean end: a node that fails or is cancelled stops at once.
                        assembly.vitals.drain()
                        await trio.sleep(self._config.drain_s)
                        self._assembly = None
                        await assembly.leave()
                    except BaseException as error:
                        body_error = error
                        raise
                    finally:
                        self._assembly = None
                        assembly.stop()
                        nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            failure = sole_error(group, body_error)
            if failure is None:
                raise
        if failure is not None:
            # Outside the except clause, so that the error does not get the group it was in as its context.
            raise failure

    def _told_address(self, listens: str) -> str:
        """Return the address to tell of this node, which has to be of use to others if they are to add it."""
        address = self._advertise or listens
        is_added = self._join is not None or self._founding is not None
        if is_added and not is_for_peers(address):
            raise ConfigError(f"{address} is nowhere that others reach this node; advertise an address")
        return address

    async def _identify_storage(self, stored: StoredState) -> StorageIdentity:
        """Count this start, on a storage that is this node's or nobody's yet."""
        found = stored.identity
        if found is not None and found.node_id != self._node_id:
            raise ConfigError(
                f"the storage is that of node {found.node_id!r}, and this is node {self._node_id!r}; each node needs a "
                "storage of its own, and keeps its node_id"
            )
        if found is None:
            # Also the time: a generator that a test seeded would give a wiped storage the name of the one before.
            name = f"{self._rng.getrandbits(64):016x}{int(self._wall_clock() * 1e6):x}"
            found = StorageIdentity(self._node_id, name, starts=0)
        # Saved before anything is answered. The longer one stays until what was promised with it is kept.
        timeout_s = max(found.election_timeout_s, self._config.raft.election_timeout_s)
        identity = attrs.evolve(found, starts=found.starts + 1, election_timeout_s=timeout_s)
        await self._storage.save_identity(identity)
        return identity

    async def _known_members(self) -> DiscoverySnapshot:
        """Wait for discovery if it is to say who the first voters are; nothing else needs it before the node serves."""
        return await self._discovery.members() if self._discovery.is_fixed else NOTHING_KNOWN

    def _initial_voters(self, known: DiscoverySnapshot) -> frozenset[NodeId]:
        if self._join is not None or self._founding is not None:
            return frozenset()
        if self._voters is None and not self._discovery.is_fixed:
            raise ConfigError(
                f"voters is not given, and {type(self._discovery).__name__} may know other nodes at another time; name "
                "the ids of all nodes whose votes count, the same on every node"
            )
        if self._voters is None:
            return frozenset(member.node_id for member in known.members) | {self._node_id}
        return self._voters

    def _running(self) -> Assembly:
        if self._assembly is None:
            raise NodeStopped(f"node {self._node_id!r} is not running; nothing was done")
        return self._assembly

    # --- Use ---

    @property
    def node_id(self) -> NodeId:
        """This node's name in the cluster."""
        return self._node_id

    @property
    def address(self) -> str:
        """Where peers and clients reach this node.

        Raises: NodeStopped before the node has started.
        """
        if self._address is None:
            raise NodeStopped(f"node {self._node_id!r} has not started; its address is not known yet")
        return self._address

    async def propose(
        self, command: bytes, *, forward: bool = True, give_up_s: float | None = None, version: int = 1
    ) -> Applied:
        """Replicate a command and wait until it is applied on the leader.

        Waits for room when too much is pending, and for a leader when none is known; bound it with a cancel scope.

        Args:
            command: What ``StateMachine.apply`` gets, on every node.
            forward: On a node that is not the leader, pass the command on. False raises NotLeader instead.
            give_up_s: Raise ProposalRefused once the command has waited this many seconds for room or for a leader. A
                cancel scope cannot tell that from a command whose outcome is unknown. None waits on.
            version: The version of the machine's commands that this one is made for, at most what is switched on.
                ``StateMachine.apply_version`` gets it.

        Cancellation: the outcome is unknown, except that a command still waiting for room or a leader is not done.
        Raises:
            InvalidCommand: never will be done: refused by the state machine, or larger than the limit.
            VersionNotEnabled: not done: not every member of the cluster knows the version.
            NotLeader: not done (only with ``forward=False``).
            ProposalRefused: not done: see ``give_up_s``; or the leader's limits are lower than here, or it is stopping.
            NodeStopped: not done.
            OutcomeUnknown: may still be done: the leader changed, or the connection to it was lost.
        """
        assembly = self._running()
        self._check_command(command, version)
        if version == FIRST_VERSION:
            return await assembly.submitter.submit(EntryKind.COMMAND, command, forward=forward, give_up_s=give_up_s)
        entry = encode_version_entry(VersionedCommand(version, command))
        applied = await assembly.submitter.submit(EntryKind.VERSION, entry, forward=forward, give_up_s=give_up_s)
        answer = decode_answer(applied.result)
        if answer.outcome is not Outcome.APPLIED:
            raise VersionNotEnabled(version, self.command_version)
        return Applied(applied.index, applied.term, answer.result)

    def _check_command(self, command: bytes, version: int) -> None:
        """Refuse a command that may not be proposed.

        Raises: InvalidCommand, VersionNotEnabled.
        """
        limit = self._config.max_command_bytes
        if len(command) > limit:
            raise InvalidCommand(f"the command has {len(command)} bytes; max_command_bytes allows {limit}")
        if version < FIRST_VERSION:
            raise InvalidCommand(f"version is {version}; it must be at least {FIRST_VERSION}")
        enabled = self.command_version
        if version > enabled:
            # What is switched on here comes before this command in the log of every leader to come.
            raise VersionNotEnabled(version, enabled)
        self._machine.validate(command)

    @property
    def command_version(self) -> int:
        """The highest version of the application's commands that is switched on, as far as this node has applied.

        It is the highest one that all members of the cluster have announced (``StateMachine.version``), and never
        falls. Propose no command of a higher version.

        Raises: NodeStopped if the node is not running.
        """
        return self._running().replicated.command_version

    @asynccontextmanager
    async def session(self, *, ttl_s: float = 60.0, give_up_s: float | None = None) -> AsyncIterator[Session]:
        """Open a session, in which each command is applied exactly once: ``async with node.session() as s``.

        The session repeats what may be lost, whoever leads. Leaving the block closes it, which takes a second at most;
        with commands in it that are not resolved or released it is left to expire instead, so that their tokens can be
        resolved for ``ttl_s`` more.

        Args:
            ttl_s: The session expires when the cluster hears nothing of it for so many seconds in which it has a
                leader. The node keeps it alive while the block lasts. From 1 second to 30 days.
            give_up_s: Raise ProposalRefused or OutcomeUnknown if it is not open after so many seconds. None waits on.

        Cancellation: nobody uses the session that may have been opened, and it expires.
        Raises:
            ConfigError: ``ttl_s`` is out of range.
            SessionLimit: the cluster keeps as many sessions as it may.
            ProposalRefused, OutcomeUnknown: see ``give_up_s``. There may be a session then that expires unused.
            NodeStopped: the node is not running.
        """
        assembly = self._running()
        async with self._session_client(assembly).open(assembly.nursery, ttl_s, give_up_s) as session:
            yield session

    async def resolve(self, token: SessionToken, *, give_up_s: float | None = None) -> Applied | None:
        """Learn what became of a command of any session, such as one of a program that has ended.

        If it was not applied, from now on it never will be. Repeats itself until there is an answer. The answer stays
        the same as long as the session lives and has not released the token.

        Returns: where it was applied, and its result; None if it was not and never will be.

        Cancellation: the command may or may not be kept from being applied; resolve it again.
        Raises: as ``Session.resolve``.
        """
        return await self._session_client(self._running()).resolve(token, give_up_s)

    def _session_client(self, assembly: Assembly) -> SessionClient:
        return SessionClient(
            assembly.submitter,
            check=self._check_command,
            command_version=lambda: assembly.replicated.command_version,
            max_outstanding=self._config.max_session_outstanding,
        )

    async def read(
        self, query: bytes, *, consistency: Consistency = Consistency.LINEARIZABLE, max_lag_s: float = math.inf
    ) -> ReadResult:
        """Ask the state machine, without going through the log.

        Any node answers from its own state machine; for the first two consistencies it first asks the leader up to
        where it must have applied, and waits for a leader if none is known: bound it with a cancel scope.

        Args:
            query: What ``StateMachine.query`` gets, on this node.
            consistency: What the read promises. LEASE falls back to LINEARIZABLE where no lease is held, as on any node
                but the leader; the result says which it got.
            max_lag_s: For STALE only: raise TooStale if this node is further behind its leader than so many seconds.

        Cancellation: nothing happened; a read changes nothing.
        Raises:
            InvalidCommand: the state machine can never answer this query.
            TooStale: see ``max_lag_s``.
            StateMachineError: the state machine raised anything else from ``query``. The node goes on.
            NodeStopped: the node is not running.
        """
        assembly = self._running()
        await trio.lowlevel.checkpoint()
        if consistency is Consistency.STALE:
            await assembly.applier.wait_applied(BEFORE_LOG)
            lag_s = assembly.engine.lag_s()
            if lag_s > max_lag_s:
                raise TooStale(self._node_id, lag_s, max_lag_s)
            value, index = assembly.applier.query(query)
            return ReadResult(value, index, consistency, lag_s)
        if consistency is Consistency.LEASE:
            result = await self._read_under_lease(assembly, query)
            if result is not None:
                return result
        await assembly.applier.wait_applied(await assembly.read_indexes.get())
        value, index = assembly.applier.query(query)
        return ReadResult(value, index, Consistency.LINEARIZABLE)

    async def _read_under_lease(self, assembly: Assembly, query: bytes) -> ReadResult | None:
        """Read without asking anyone; None if this node holds no lease, or not to the end of the read."""
        if assembly.lease_until() <= trio.current_time():
            return None
        await assembly.applier.wait_applied(assembly.engine.commit_index)
        value, index = assembly.applier.query(query)
        # The query took time, in which this process may even have been stopped.
        if assembly.lease_until() <= trio.current_time():
            return None
        return ReadResult(value, index, Consistency.LEASE)

    @asynccontextmanager
    async def leading(self, *, cleanup_s: float | None = None) -> AsyncIterator[Term]:
        """Run the block's body only while this node leads: ``async with node.leading() as term:``.

        Waits until this node leads. The body is cancelled, and the block left without an error, when it leads no more.
        Another node's body cannot begin before, as long as no two clocks drift apart by more than ``max_clock_drift``,
        no machine is suspended, and this body ends within ``cleanup_s`` of being cancelled. A transfer of leadership
        waits for the body to end.

        Args:
            cleanup_s: How long before the lease ends the body is cancelled, in seconds; by default a quarter of the
                election timeout.

        Yields: the term, as a fencing token. It grows with every leader: have what the body touches refuse a lower one.

        Cancellation: of the caller's own scope, as everywhere.
        Raises:
            ConfigError: ``cleanup_s`` leaves nothing of a lease.
            NodeStopped: the node is not running, or stopped before it led.
        """
        raft = self._config.raft
        cleanup_s = raft.election_timeout_s / 4 if cleanup_s is None else cleanup_s
        longest_s = raft.election_timeout_s / (1 + raft.max_clock_drift) - 2 * raft.heartbeat_interval_s
        if not 0 <= cleanup_s < longest_s:
            raise ConfigError(f"cleanup_s is {cleanup_s}; it must be at least 0 and below {longest_s:.3f} seconds")
        async with self._running().leaderships.hold(cleanup_s) as term:
            yield term

    async def transfer_leadership(self, target: str | None = None) -> NodeId:
        """Hand over to another voter (thesis §3.10), by default the most up-to-date one; return who leads then.

        Proposals wait meanwhile, and then go to the new leader. Without success after an election timeout this node
        goes on leading.

        Cancellation: the transfer goes on by itself.
        Raises:
            NotLeader: this node does not lead.
            ConfigError: ``target`` is not another voter.
            TransferFailed: nobody took over in time, the target refuses, was lost or lags too far behind, or no
                follower is fit; the text says which.
            NodeStopped: the node is not running, or stopped before another was known to lead.
        """
        assembly = self._running()
        status = assembly.status()
        if status.role is not Role.LEADER:
            raise NotLeader(self._node_id, status.leader_id)
        peers = [peer.node_id for peer in status.peers]
        if target is not None and target not in peers:
            raise ConfigError(f"target is {target!r}; it must be another voter, one of {peers}")
        if target is None:
            return await assembly.hand_overs.to_best()
        return await assembly.hand_overs.to(NodeId(target))

    @property
    def members(self) -> MembersHandle:
        """Who belongs to the cluster, and how to change that; see ``MembersHandle``.

        Raises: NodeStopped if the node is not running.
        """
        return self._running().members

    def status(self) -> NodeStatus:
        """Return a picture of the node now. It never blocks.

        Raises: NodeStopped if the node is not running.
        """
        return self._running().status()

    async def wait_leader(self) -> NodeId:
        """Wait until a leader is known and return its id.

        It may have changed by the time you use it. Cancellation: nothing happens.

        Raises: NodeStopped.
        """
        async for change in self.role_changes():
            if change.leader_id is not None:
                return change.leader_id
        raise NodeStopped(f"node {self._node_id!r} has stopped; no leader will be known here")

    async def wait_removed(self) -> LogIndex:
        """Wait until this node knows that it was removed from the cluster; return the index of members without it.

        It finds out within a few election timeouts, also after a restart. It stays up, and may be added again.
        Cancellation: nothing happens.

        Raises: NodeStopped.
        """
        async for index in self._running().duties.removed:
            if index is not None:
                return index
        raise NodeStopped(f"node {self._node_id!r} has stopped; it was not removed until then")

    def role_changes(self) -> AsyncIterator[RoleChange]:
        """Iterate over the node's role, term and leader: the present ones first, then each time the newest.

        A slow reader misses those between, and is never behind. It ends when the node stops.

        Raises: NodeStopped if the node is not running.
        """
        return aiter(self._running().engine.role)


def _check_address(transport: Transport, what: str, address: str) -> None:
    try:
        transport.check_address(address)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from None
