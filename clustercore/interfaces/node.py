"""What a plugin may ask of the node it runs in."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager

from clustercore.interfaces.members import MembersHandle
from clustercore.interfaces.values import Applied, Consistency, NodeStatus, ReadResult
from clustercore.raft.types import NodeId, Term

__all__ = ["NodeHandle"]


class NodeHandle(ABC):
    """A running node, as its own services see it."""

    @property
    @abstractmethod
    def node_id(self) -> NodeId:
        """The node's name in the cluster."""

    @abstractmethod
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

    @abstractmethod
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

    @abstractmethod
    def leading(self, *, cleanup_s: float | None = None) -> AbstractAsyncContextManager[Term]:
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

    @property
    @abstractmethod
    def members(self) -> MembersHandle:
        """Who belongs to the cluster, and how to change that. Whoever may propose may change the members too."""

    @abstractmethod
    def status(self) -> NodeStatus:
        """Return a picture of the node now. It never blocks."""
