"""Every error clustercore raises on purpose, by who failed and what the caller may do.

Facts are in fields; the text says the same in words, with what to do. A plugin translates foreign errors into these
once, at its boundary, with ``raise ... from``. ``trio.Cancelled`` is never translated.
"""

from __future__ import annotations

from clustercore.interfaces.values import SessionToken
from clustercore.raft.errors import ClusterError, InvariantError
from clustercore.raft.types import ChangeRefusal, LogIndex, NodeId

__all__ = [
    "ChangeRefused",
    "ClusterError",
    "ConfigError",
    "InvalidChange",
    "InvalidCommand",
    "InvariantError",
    "LinkClosed",
    "LogCorrupt",
    "MalformedMessage",
    "NeverApplied",
    "NodeStopped",
    "NotLeader",
    "OutcomeUnknown",
    "PeerTimeout",
    "PeerUnreachable",
    "PluginError",
    "ProposalError",
    "ProposalRefused",
    "QueueFull",
    "ResultLost",
    "ServiceError",
    "SessionExpired",
    "SessionLimit",
    "StateMachineError",
    "StorageError",
    "StorageFull",
    "Superseded",
    "TokenSettled",
    "TooStale",
    "TransferFailed",
    "TransportError",
    "VersionNotEnabled",
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


class VersionNotEnabled(ProposalRefused):
    """Not done: a member of the cluster does not know commands of this version yet. Propose an older one, or wait."""

    def __init__(self, version: int, enabled: int) -> None:
        super().__init__(
            f"the command is of version {version}, and up to {enabled} is switched on here; upgrade every member, or "
            "propose a command of an older version"
        )
        self.version = version
        self.enabled = enabled


class OutcomeUnknown(ProposalError):
    """The command may or may not be applied, now or later. Repeat it only if applying it twice is harmless.

    From a session it has a ``token``: ``resolve`` tells what became of the command.
    """

    def __init__(self, message: str, token: SessionToken | None = None) -> None:
        super().__init__(message)
        self.token = token


class ResultLost(OutcomeUnknown):
    """Done, but the result is too large to be brought here from the leader, as the text says. Repeat nothing."""


# --- Members -------------------------------------------------------------------------------------------------------


class ChangeRefused(ProposalRefused):
    """Not done: the members are as they were. ``reason`` says why, and the text what would help."""

    def __init__(self, reason: ChangeRefusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class InvalidChange(InvalidCommand):
    """Never will be done: the change contradicts itself or the members there are. The text says what to do instead."""


# --- Sessions ------------------------------------------------------------------------------------------------------


class SessionExpired(ProposalError):
    """The session has ended: the cluster heard nothing of it for too long, or it was closed. Open another.

    Nothing proposed in it will be applied any more. ``may_be_applied`` says whether the command may have been, before.
    """

    def __init__(self, session_id: int, *, may_be_applied: bool) -> None:
        super().__init__(
            f"session {session_id} has ended; the command "
            + ("may have been applied before that" if may_be_applied else "was not applied")
            + ", and will not be any more. Open another session"
        )
        self.session_id = session_id
        self.may_be_applied = may_be_applied


class SessionLimit(ProposalRefused):
    """Not done: the cluster keeps as many sessions, outcomes or bytes of results as it may. The text says which."""


class NeverApplied(ProposalError):
    """Never will be done: the command's token was resolved before the command came. Propose it anew if it is wanted."""

    def __init__(self, token: SessionToken) -> None:
        super().__init__(f"{token} was resolved before its command was applied; it will never be")
        self.token = token


class TokenSettled(ProposalError):
    """What became of this token was told before, and is not kept. Its command will not be applied any more."""

    def __init__(self, token: SessionToken) -> None:
        super().__init__(
            f"what became of {token} was told before, and is not kept; use a token of prepare() to ask again and again"
        )
        self.token = token


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
    """A message could not be carried. Raft sends what matters again by itself.

    ``retry_after_s`` is how long the peer asks to wait before another attempt, in seconds; infinite: it asks for none;
    None: it does not say. ``next_delay_s`` is set by who gives up because the wait before the next attempt, which it
    is, would have outlasted the caller's time.
    """

    def __init__(self, *args: object, retry_after_s: float | None = None) -> None:
        super().__init__(*args)
        self.retry_after_s = retry_after_s
        self.next_delay_s: float | None = None


class PeerUnreachable(TransportError):
    """No connection to the peer can be made now: nothing was sent. Back off, then try again."""


class QueueFull(PeerUnreachable):
    """Not sent: as many calls to this peer wait here already as the transport allows. Ask for less at once."""


class LinkClosed(TransportError):
    """The connection ended. What was sent last may or may not have arrived."""


class Superseded(TransportError):
    """Not tried, or not again: what the caller asked for no longer holds. An attempt before may have been done."""


class PeerTimeout(TransportError):
    """The peer did not answer in time. The request may or may not have been carried out."""


class ServiceError(TransportError):
    """The peer's service refused the call as malformed or unknown. Trying again is useless."""

    def __init__(self, *args: object, code: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(*args, retry_after_s=retry_after_s)
        # The name of gRPC's status, such as "NOT_FOUND", if it came over gRPC.
        self.code = code


class MalformedMessage(ClusterError, ValueError):
    """Bytes are not the message they should be: they were damaged, or another program or a newer version wrote them."""
