"""From what a simulation sees of its cores to events. Both levels of simulation use it.

A recorder is told what goes in and what comes out of each core, and finds by itself what changed in between: it keeps,
for each node, the little that it saw last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from clustercore.interfaces import Entry, NodeId
from clustercore.raft.effects import (
    Effect,
    Effects,
    PersistEntries,
    PersistHardState,
    PersistSnapshot,
    ProposalsAppended,
    ProposalsRefused,
    ReadReady,
    ReadRefused,
)
from clustercore.raft.messages import RaftMessage
from clustercore.raft.state import RaftState
from clustercore.raft.types import NO_TERM, Configuration, SnapshotMetadata
from clustercore.testing.trace import events
from clustercore.testing.trace.events import EntryRef, Event, Scalar

__all__ = ["Recorder"]

# Of a command, in a trace: enough to know it again.
MAX_TEXT = 24


@attrs.define
class _Seen:
    """What a running node showed last."""

    office: tuple[str, int, str | None, str | None]
    base: tuple[int, int]
    last_index: int
    commit_index: int
    last_applied: int
    configuration: Configuration


class Recorder:
    """Turns what happens into events, in order.

    Args:
        clock: Tells the run's own time, in seconds; it never goes back.
        sink: Takes each event, for example ``TraceWriter.write``. Without one they are kept in ``events``.
    """

    def __init__(self, clock: Callable[[], float], sink: Callable[[Event], None] | None = None) -> None:
        self.events: list[Event] = []
        self._clock = clock
        self._emit = sink if sink is not None else self.events.append
        self._seen: dict[NodeId, _Seen] = {}

    # --- Life ---

    def started(self, node: NodeId, state: RaftState) -> None:
        """A node has started; its state is what it found on its disk."""
        log = state.log
        held = log.slice(log.first_index, log.last_index)
        self._emit(
            events.Started(
                self._clock(),
                node,
                state.current_term,
                state.voted_for,
                *_base_of(state),
                state.commit_index,
                _refs(held),
            )
        )
        self._seen[node] = _look(state)
        self._configured(node, state.configuration)

    def crashed(self, node: NodeId, *, is_orderly: bool = False) -> None:
        """A node has ended, by a crash or as its operator wished."""
        self._emit(events.Crashed(self._clock(), node, is_orderly))

    def paused(self, node: NodeId) -> None:
        """A node stands still."""
        self._emit(events.Paused(self._clock(), node))

    def resumed(self, node: NodeId) -> None:
        """A node goes on after a pause."""
        self._emit(events.Resumed(self._clock(), node))

    # --- Messages ---

    def sent(self, node: NodeId, number: int, to: NodeId, message: RaftMessage) -> None:
        """A message has left a node."""
        what = type(message).__name__
        self._emit(events.Sent(self._clock(), node, number, to, what, message.term, _detail(message)))

    def delivered(self, node: NodeId, number: int, sender: NodeId, *, is_repeat: bool = False) -> None:
        """A core is about to be given a message."""
        self._emit(events.Delivered(self._clock(), node, number, sender, is_repeat))

    def dropped(self, to: NodeId, number: int, reason: str) -> None:
        """A message is lost on its way to a node."""
        self._emit(events.Dropped(self._clock(), to, number, reason))

    def partitioned(self, groups: Iterable[Iterable[NodeId]]) -> None:
        """The network was cut."""
        self._emit(events.Partitioned(self._clock(), None, tuple(tuple(sorted(group)) for group in groups)))

    def healed(self) -> None:
        """The network was mended."""
        self._emit(events.Healed(self._clock(), None))

    # --- The disk ---

    def snapshot_asked(self, node: NodeId, write: int, index: int, term: int, keep_from: int | None) -> None:
        """A node wants a snapshot of its own machine written, under a number that none of its core's writes has."""
        self._emit(events.SnapshotWrite(self._clock(), node, write, index, term, keep_from))

    def durable(self, node: NodeId, write: int) -> None:
        """A write is on a node's disk."""
        self._emit(events.WriteDurable(self._clock(), node, write))

    def failed(self, node: NodeId, write: int, reason: str) -> None:
        """A write did not, or not wholly, reach a node's disk."""
        self._emit(events.WriteFailed(self._clock(), node, write, reason))

    # --- Clients and the run itself ---

    def read_asked(self, node: NodeId, reads: Sequence[int]) -> None:
        """A node was asked for an index to read at."""
        self._emit(events.ReadAsked(self._clock(), node, tuple(reads)))

    def noted(self, text: str, node: NodeId | None = None) -> None:
        """The run does something that is worth a word."""
        self._emit(events.Noted(self._clock(), node, text))

    def violated(self, name: str, text: str, node: NodeId | None = None) -> None:
        """A property does not hold."""
        self._emit(events.Violated(self._clock(), node, name, text))

    # --- What a core did ---

    def acted(self, node: NodeId, state: RaftState, effects: Effects) -> None:
        """A core was given an input; these are its effects, and ``state`` is what it knows now."""
        seen, now = self._seen[node], _look(state)
        self._seen[node] = now
        if now.office != seen.office:
            self._emit(events.OfficeChanged(self._clock(), node, *now.office))
        end = seen.last_index
        for effect in effects:
            end = self._acted_one(node, effect, end)
        if now.last_index < end:
            self._emit(events.Truncated(self._clock(), node, now.last_index + 1))
        if now.base != seen.base:
            self._emit(events.Compacted(self._clock(), node, *now.base))
        if now.configuration != seen.configuration:
            self._configured(node, now.configuration)
        if now.commit_index != seen.commit_index:
            self._emit(events.CommittedUpTo(self._clock(), node, now.commit_index))
        if now.last_applied != seen.last_applied:
            self._emit(events.AppliedUpTo(self._clock(), node, now.last_applied))

    def _acted_one(self, node: NodeId, effect: Effect, end: int) -> int:
        """Tell an effect that is no message; return where the log in memory ends after it."""
        time = self._clock()
        match effect:
            case PersistEntries(write_id=write, entries=entries):
                if entries[0].index <= end:
                    self._emit(events.Truncated(time, node, entries[0].index))
                refs = _refs(entries)
                self._emit(events.Appended(time, node, refs))
                self._emit(events.EntriesWrite(time, node, write, refs))
                return entries[-1].index
            case PersistHardState(write_id=write, hard_state=stored):
                self._emit(events.HardStateWrite(time, node, write, stored.current_term, stored.voted_for))
            case PersistSnapshot(write_id=write, metadata=metadata, keep_from=keep_from):
                index, term = metadata.last_included_index, metadata.last_included_term
                self._emit(events.SnapshotWrite(time, node, write, index, term, keep_from))
            case ProposalsAppended(term=term, first_index=first_index):
                self._emit(events.Proposed(time, node, term, first_index))
            case ProposalsRefused(leader_id=leader_id):
                self._emit(events.ProposalRefused(time, node, leader_id))
            case ReadReady(read_ids=reads, read_index=read_index):
                self._emit(events.ReadAnswered(time, node, reads, read_index))
            case ReadRefused(read_ids=reads):
                self._emit(events.ReadDenied(time, node, reads))
            case _:
                # Messages are told when they leave; what is applied and who leads shows in the state.
                pass
        return end

    def _configured(self, node: NodeId, configuration: Configuration) -> None:
        self._emit(
            events.Configured(
                self._clock(),
                node,
                tuple(sorted(configuration.voters)),
                tuple(sorted(configuration.learners)),
                tuple(sorted(configuration.old_voters)),
            )
        )


def _look(state: RaftState) -> _Seen:
    return _Seen(
        (state.role.value, state.current_term, state.voted_for, state.leader_id),
        _base_of(state),
        state.log.last_index,
        state.commit_index,
        state.last_applied,
        state.configuration,
    )


def _base_of(state: RaftState) -> tuple[int, int]:
    base = state.log.base_index
    return base, state.log.term_at(base) or NO_TERM


def _refs(entries: Iterable[Entry]) -> tuple[EntryRef, ...]:
    return tuple(
        EntryRef(entry.index, entry.term, entry.kind.name.lower(), _readable(entry.command)) for entry in entries
    )


def _readable(command: bytes) -> str:
    """Return the beginning of a command as text, escaped where it is none."""
    text = command[:MAX_TEXT].decode("ascii", "backslashreplace")
    shown = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
    return shown if len(command) <= MAX_TEXT else shown + "..."


def _detail(message: RaftMessage) -> Mapping[str, Scalar]:
    """Return a message's fields but the term, each as one value."""
    values = {
        field.name: _scalar(getattr(message, field.name))
        for field in attrs.fields(type(message))
        if field.name != "term"
    }
    return {name: value for name, value in values.items() if value is not None}


def _scalar(value: object) -> Scalar:
    if isinstance(value, Scalar):
        return value
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, SnapshotMetadata):
        return f"{value.snapshot_id} up to {value.last_included_index}:{value.last_included_term}"
    if isinstance(value, tuple) and value and isinstance(value[0], Entry):
        return " ".join(f"{entry.index}:{entry.term}" for entry in value)
    if isinstance(value, tuple) and not value:
        return None
    # Of what later messages may carry, as much as fits into a line of a picture.
    text = str(value)
    return text if len(text) <= 200 else text[:197] + "..."
