"""What replicas ask each other: sessions, increments, and what is sent by hand. ``comparison`` has the rest.

The schema is ``protos/clustercore/v1/sync.proto``, and says what a third party must know. Here it stands again, as
tables; ``wire`` turns them into bytes.
"""

from __future__ import annotations

from enum import IntEnum

import attrs

from clustercore.interfaces import NodeId
from clustercore.sync.changes import Change
from clustercore.sync.checkpoints import START, Cursor
from clustercore.sync.wire import (
    CHANGES,
    CURSOR,
    DATA,
    FLAG,
    LIMIT,
    MAYBE_CURSOR,
    NUMBER,
    TEXT,
    TEXTS,
    WALL_MS,
    Field,
    SyncMessage,
    TimedMessage,
    choice,
)

__all__ = [
    "OpenRequest",
    "OpenResponse",
    "PullRequest",
    "PullResponse",
    "PushRequest",
    "PushResponse",
    "Resync",
    "ResyncReason",
    "SyncSession",
]


class ResyncReason(IntEnum):
    """Why a receiver cannot go on from where it was."""

    NONE = 0
    # It was never here, or has forgotten that it was.
    FIRST = 1
    # The source answers this session no more: it was started anew, or has another one with this receiver.
    UNKNOWN_SESSION = 2
    # The source's store is not the one that the receiver's checkpoint is of.
    EPOCH = 3
    # The source has gone back behind what the receiver fetched: its disk was taken back to an earlier day.
    WENT_BACK = 4
    # The log is not kept back to where the receiver was.
    BEHIND_FLOOR = 5
    # The receiver's store is not the one that acknowledged what it says it holds.
    RECEIVER_EPOCH = 6
    # The receiver holds less than it acknowledged: its disk was taken back to an earlier day.
    RECEIVER_WENT_BACK = 7
    # The receiver has not compared everything yet, and was told that it has to.
    NOT_COMPARED = 8
    # A delta began after what the receiver holds.
    GAP = 9
    # What a newer version gives for a reason, and this one does not know.
    OTHER = 15


REASON = choice(ResyncReason.OTHER)


class SyncSession(IntEnum):
    """What a node asks its peer to begin."""

    NONE = 0
    INCREMENTAL = 1
    FULL = 2


# --- Sessions and increments -----------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class OpenRequest(SyncMessage):
    """A receiver's wish for a session."""

    node_id: NodeId
    # The epoch of the receiver's store.
    epoch: str
    # What it wants; empty for all kinds.
    kinds: tuple[str, ...] = ()
    # Its checkpoint: of which epoch of the source, where, and of which session; "" and b"" if it has none.
    source_epoch: str = ""
    cursor: Cursor = START
    session_id: bytes = b""

    SCHEMA = (
        Field(1, "node_id", TEXT),
        Field(2, "epoch", TEXT),
        Field(3, "kinds", TEXTS),
        Field(4, "source_epoch", TEXT),
        Field(5, "cursor", CURSOR),
        Field(6, "session_id", DATA),
    )


@attrs.frozen(kw_only=True)
class OpenResponse(TimedMessage):
    """A session, and whether the receiver may go on from its checkpoint."""

    session_id: bytes
    # The epoch of the source's store.
    epoch: str
    # NONE: it may. Otherwise everything has to be compared first.
    reason: ResyncReason = ResyncReason.NONE
    # What the source has fetched from the receiver, by its own checkpoint: of which epoch, in which session, and up to
    # which change. A receiver that knows less of itself was taken back to an earlier day.
    known_epoch: str = ""
    known_session_id: bytes = b""
    known_seq: int = 0

    SCHEMA = (
        Field(1, "session_id", DATA),
        Field(2, "epoch", TEXT),
        Field(3, "reason", REASON),
        Field(4, "known_epoch", TEXT),
        Field(5, "known_session_id", DATA),
        Field(6, "known_seq", NUMBER),
        WALL_MS,
    )


@attrs.frozen(kw_only=True)
class PullRequest(SyncMessage):
    """A question for the changes after a cursor, which the receiver holds durably: so it is an acknowledgement too."""

    session_id: bytes
    cursor: Cursor
    # What the receiver takes at most in one answer; one record of any size is taken.
    max_changes: int
    max_bytes: int

    SCHEMA = (
        Field(1, "session_id", DATA),
        Field(2, "cursor", CURSOR),
        Field(3, "max_changes", LIMIT),
        Field(4, "max_bytes", LIMIT),
    )


@attrs.frozen(kw_only=True)
class PullResponse(TimedMessage):
    """A delta: what leads from one cursor to another."""

    # Whoever holds less than this must not apply it.
    start: Cursor
    # None: the same.
    end: Cursor | None = None
    changes: tuple[Change, ...] = ()
    # How many changes the source has after the end, those included that it keeps back.
    behind: int = 0
    # Whether it would send more at once.
    has_more: bool = False

    SCHEMA = (
        Field(1, "start", CURSOR),
        Field(2, "end", MAYBE_CURSOR),
        Field(3, "changes", CHANGES),
        Field(4, "behind", NUMBER),
        Field(5, "has_more", FLAG),
        WALL_MS,
    )

    @property
    def reached(self) -> Cursor:
        """Where whoever was at the start is when all of it is applied."""
        return self.start if self.end is None else self.end


@attrs.frozen
class Resync(SyncMessage):
    """Instead of an answer: the receiver has to open a session anew, and perhaps to compare everything."""

    reason: ResyncReason

    # The field ``resync`` of every answer in a session, which is alone then.
    SCHEMA = (Field(15, "reason", REASON),)


# --- By hand ---------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class PushRequest(SyncMessage):
    """Changes that a node sends of itself; and whether the peer is to fetch the rest."""

    node_id: NodeId
    changes: tuple[Change, ...] = ()
    # Which session of its own with the sender the peer is to begin.
    session: SyncSession = SyncSession.NONE
    # Of which kinds; empty for all.
    kinds: tuple[str, ...] = ()

    SCHEMA = (
        Field(1, "node_id", TEXT),
        Field(2, "changes", CHANGES),
        Field(3, "session", choice(SyncSession.NONE)),
        Field(4, "kinds", TEXTS),
    )


@attrs.frozen(kw_only=True)
class PushResponse(SyncMessage):
    """What became of them at the peer."""

    applied: int = 0
    duplicate: int = 0
    stale: int = 0
    # Deletions that the sender has forgotten of, or never heard of; see ``ApplyReport.rebuttals``.
    rebuttals: tuple[Change, ...] = ()

    SCHEMA = (
        Field(1, "applied", NUMBER),
        Field(2, "duplicate", NUMBER),
        Field(3, "stale", NUMBER),
        Field(4, "rebuttals", CHANGES),
    )
