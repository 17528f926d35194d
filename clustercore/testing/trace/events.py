"""What can happen in a simulated cluster, one frozen class each: the lines of a trace after the first.

An event says what an observer of every node and every wire saw. Nothing in it depends on memory addresses, hashes or
the real clock, so that one seed gives one trace. A reader gets a node's whole state at any moment from what is before
it: ``Started`` says what the node found on its disk, the others what changed.

Each class is one ``kind``; the kind and the names of the fields are the format, and a change of them is a new version
(``clustercore.testing.trace.file``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

__all__ = [
    "EVENTS",
    "Appended",
    "AppliedUpTo",
    "CommittedUpTo",
    "Compacted",
    "Configured",
    "Crashed",
    "Delivered",
    "Dropped",
    "EntriesWrite",
    "EntryRef",
    "Event",
    "HardStateWrite",
    "Healed",
    "Noted",
    "OfficeChanged",
    "OtherWrite",
    "Partitioned",
    "Paused",
    "ProposalRefused",
    "Proposed",
    "ReadAnswered",
    "ReadAsked",
    "ReadDenied",
    "Resumed",
    "Scalar",
    "Sent",
    "SnapshotWrite",
    "Started",
    "Truncated",
    "Violated",
    "WriteDurable",
    "WriteFailed",
]

Scalar = str | int | float | bool | None


@attrs.frozen
class EntryRef:
    """A log entry, as far as a picture needs it."""

    index: int
    term: int
    # ``command``, ``no_op``, ...
    kind: str
    # The beginning of the command, readable.
    text: str = ""


@attrs.frozen
class Event:
    """What all events have."""

    kind: ClassVar[str]

    # Seconds of the run's own clock. Never falls.
    time: float
    # Where it happened; None for what concerns the network or the whole cluster.
    node: str | None


# --- Messages ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Sent(Event):
    """A message left ``node``. It may arrive never, once or several times."""

    kind = "sent"

    # Joins it with Delivered and Dropped. From 1; one number for each message of a run.
    message: int
    to: str
    # The message's class.
    what: str
    term: int
    # Its other fields. Entries are told as ``index:term`` in one text, data by its length.
    detail: Mapping[str, Scalar] = attrs.field(factory=dict)


@attrs.frozen
class Delivered(Event):
    """``node`` got a message."""

    kind = "delivered"

    message: int
    sender: str
    # The same message has arrived before.
    is_repeat: bool = False


@attrs.frozen
class Dropped(Event):
    """A message on its way to ``node`` was lost, and arrives no more in this way."""

    kind = "dropped"

    message: int
    reason: str


# --- Life -------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Started(Event):
    """``node`` started from its disk, as a follower."""

    kind = "started"

    term: int
    voted_for: str | None
    # What a snapshot covers, inclusive, and the term of that entry; 0 and 0 without one.
    base_index: int
    base_term: int
    commit_index: int
    # All entries after the base, which are durable.
    entries: tuple[EntryRef, ...] = ()


@attrs.frozen
class Crashed(Event):
    """``node`` ended. What was not durable may be lost."""

    kind = "crashed"

    # Its operator stopped it.
    is_orderly: bool = False


@attrs.frozen
class Paused(Event):
    """``node`` does nothing for a while, as after SIGSTOP."""

    kind = "paused"


@attrs.frozen
class Resumed(Event):
    """``node`` goes on."""

    kind = "resumed"


# --- The disk ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class HardStateWrite(Event):
    """``node`` asked for its term and vote to become durable."""

    kind = "write_hard_state"

    # Joins it with WriteDurable and WriteFailed. Each start of a node may begin anew.
    write: int
    term: int
    voted_for: str | None


@attrs.frozen
class EntriesWrite(Event):
    """``node`` asked for entries to become durable, in place of all that is stored from the first one's index on."""

    kind = "write_entries"

    write: int
    entries: tuple[EntryRef, ...]


@attrs.frozen
class SnapshotWrite(Event):
    """``node`` asked for a snapshot to become durable."""

    kind = "write_snapshot"

    write: int
    last_included_index: int
    last_included_term: int
    # Stored entries from this index on stay; None for none.
    keep_from: int | None


@attrs.frozen
class OtherWrite(Event):
    """``node`` asked for something else to become durable, which is neither its vote nor its log."""

    kind = "write_other"

    write: int
    what: str


@attrs.frozen
class WriteDurable(Event):
    """A write of ``node`` is on its disk."""

    kind = "write_durable"

    write: int


@attrs.frozen
class WriteFailed(Event):
    """A write of ``node`` failed, or reached the disk only in part."""

    kind = "write_failed"

    write: int
    reason: str


# --- The protocol -----------------------------------------------------------------------------------------------------


@attrs.frozen
class OfficeChanged(Event):
    """Role, term, vote or known leader of ``node`` changed; these are the new ones."""

    kind = "office"

    # A value of ``clustercore.interfaces.Role``.
    role: str
    term: int
    voted_for: str | None
    leader_id: str | None


@attrs.frozen
class Appended(Event):
    """Entries were added to the end of the log that ``node`` has in memory."""

    kind = "appended"

    entries: tuple[EntryRef, ...]


@attrs.frozen
class Truncated(Event):
    """``node`` dropped the entries from an index on."""

    kind = "truncated"

    from_index: int


@attrs.frozen
class Compacted(Event):
    """``node`` dropped the entries up to an index, inclusive, which a snapshot covers."""

    kind = "compacted"

    base_index: int
    base_term: int


@attrs.frozen
class CommittedUpTo(Event):
    """``node`` learned that its log is committed up to an index."""

    kind = "committed"

    commit_index: int


@attrs.frozen
class AppliedUpTo(Event):
    """The state machine of ``node`` is as of this index, after entries or a snapshot."""

    kind = "applied"

    last_applied: int


@attrs.frozen
class Configured(Event):
    """The configuration that counts on ``node`` changed."""

    kind = "configured"

    voters: tuple[str, ...]
    learners: tuple[str, ...] = ()
    # Of a joint configuration.
    old_voters: tuple[str, ...] = ()


# --- Clients ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Proposed(Event):
    """``node`` leads, and took proposed commands into its log, consecutively from an index."""

    kind = "proposed"

    term: int
    first_index: int


@attrs.frozen
class ProposalRefused(Event):
    """``node`` took no proposed command."""

    kind = "proposal_refused"

    leader_id: str | None


@attrs.frozen
class ReadAsked(Event):
    """Clients asked ``node`` for an index to read at."""

    kind = "read_asked"

    reads: tuple[int, ...]


@attrs.frozen
class ReadAnswered(Event):
    """These reads are linearizable at an index."""

    kind = "read_answered"

    reads: tuple[int, ...]
    read_index: int


@attrs.frozen
class ReadDenied(Event):
    """``node`` does not lead, so these reads were refused."""

    kind = "read_denied"

    reads: tuple[int, ...]


# --- The world --------------------------------------------------------------------------------------------------------


@attrs.frozen
class Partitioned(Event):
    """From now on only nodes of one group reach each other. A node that is in none reaches nobody."""

    kind = "partitioned"

    groups: tuple[tuple[str, ...], ...]


@attrs.frozen
class Healed(Event):
    """Everybody reaches everybody again."""

    kind = "healed"


@attrs.frozen
class Noted(Event):
    """What the run did next, in its own words: a step of a schedule, a fault, a phase."""

    kind = "noted"

    text: str


@attrs.frozen
class Violated(Event):
    """A property does not hold any more. ``node`` is where it showed, if that is known."""

    kind = "violated"

    # The property's.
    name: str
    text: str


EVENTS: Mapping[str, type[Event]] = {
    event.kind: event
    for event in (
        Sent,
        Delivered,
        Dropped,
        Started,
        Crashed,
        Paused,
        Resumed,
        HardStateWrite,
        EntriesWrite,
        SnapshotWrite,
        OtherWrite,
        WriteDurable,
        WriteFailed,
        OfficeChanged,
        Appended,
        Truncated,
        Compacted,
        CommittedUpTo,
        AppliedUpTo,
        Configured,
        Proposed,
        ProposalRefused,
        ReadAsked,
        ReadAnswered,
        ReadDenied,
        Partitioned,
        Healed,
        Noted,
        Violated,
    )
}
