"""Every error clustercore raises on purpose, by who failed and what the caller may do.

Facts are in fields; the text says the same in words, with what to do. A plugin translates foreign errors into these
once, at its boundary, with ``raise ... from``. ``trio.Cancelled`` is never translated.
"""

from __future__ import annotations

from clustercore.raft.errors import ClusterError, InvariantError
from clustercore.raft.types import LogIndex, NodeId

__all__ = [
    "ClusterError",
    "ConfigError",
    "InvalidCommand",
    "InvariantError",
    "LinkClosed",
    "LogCorrupt",
    "NodeStopped",
    "NotLeader",
    "OutcomeUnknown",
    "PeerTimeout",
    "PeerUnreachable",
    "PluginError",
    "ProposalError",
    "ProposalRefused",
    "ServiceError",
    "StateMachineError",
    "StorageError",
    "StorageFull",
    "TooStale",
    "TransferFailed",
    "TransportError",
]


class ConfigError(ClusterError, ValueError):
    """The configuration is wrong: the text names the key, the value and what is allowed. Correct it and start again."""


class PluginError(ClusterError):
    """A plugin is not installed or cannot be loaded: the text lists what is installed."""


class NodeStopped(ClusterError):
    """The node has left its ``async with`` block. The request was not done; ask another node."""


# --- Proposals -----------------------------------------------------------------------------------------------------


class ProposalError(ClusterError):
    """A proposal did not end with a result. Its subclasses say what is known of it."""


class NotLeader(ProposalError):
    """Not done: this node is not the leader and was told not to forward. Ask ``leader_id``, when it is known."""

    def __init__(self, node_id: NodeId, leader_id: NodeId | None) -> None:
        super().__init__(
            f"node {node_id!r} is not the leader; "
            + (f"ask {leader_id!r}" if leader_id is not None else "no leader is known, try again after an election")
        )
        self.node_id = node_id
        self.leader_id = leader_id


class ProposalRefused(ProposalError):
    """Not done: nothing was appended. Trying again later is safe."""


class InvalidCommand(ProposalError, ValueError):
    """Never will be done: the state machine or a size limit refuses this command. Trying again is useless."""


class OutcomeUnknown(ProposalError):
    """The command may or may not be applied, now or later. Repeat it only if applying it twice is harmless."""


class TooStale(ClusterError):
    """A stale read found this node further behind its leader than the caller allows. Ask the leader, or allow more."""

    def __init__(self, node_id: NodeId, lag_s: float, max_lag_s: float) -> None:
        super().__init__(f"node {node_id!r} is {lag_s:.3f} s behind its leader; max_lag_s allows {max_lag_s}")
        self.lag_s = lag_s
        self.max_lag_s = max_lag_s


class TransferFailed(ClusterError):
    """The leadership was not handed over: the text says why, and who leads now. Trying again later is safe."""


class StateMachineError(ClusterError):
    """The state machine raised from ``apply``, which its contract forbids. The node halts; the cause is chained."""

    def __init__(self, index: LogIndex, message: str) -> None:
        super().__init__(message)
        self.index = index


# --- Storage -------------------------------------------------------------------------------------------------------


class StorageError(ClusterError):
    """The disk failed. The node stops: after a failed write or fsync nobody knows what the disk holds."""


class StorageFull(StorageError):
    """No space is left. Make room, then start the node again; nothing acknowledged is lost."""


class LogCorrupt(StorageError):
    """What is stored fails its own checks: a vote or an acknowledged entry may be forgotten. Do not start from it."""


# --- Transport -----------------------------------------------------------------------------------------------------


class TransportError(ClusterError):
    """A message could not be carried. Raft sends what matters again by itself."""


class PeerUnreachable(TransportError):
    """No connection to the peer can be made now: nothing was sent. Back off, then try again."""


class LinkClosed(TransportError):
    """The connection ended. What was sent last may or may not have arrived."""


class PeerTimeout(TransportError):
    """The peer did not answer in time. The request may or may not have been carried out."""


class ServiceError(TransportError):
    """The peer's service refused the call as malformed or unknown. Trying again is useless."""
