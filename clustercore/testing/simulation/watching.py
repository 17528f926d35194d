"""What must hold between the nodes of a cluster, looked at after every input of every core.

The protocol level checks more, on cores alone. Here is what whole nodes can break although their cores do not: what is
on the disks when something is taken for committed, and what reaches the state machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from clustercore.interfaces import Applied, Entry, LogIndex, NodeId, Role, StoredState, Term
from clustercore.raft.core import RaftCore
from clustercore.raft.effects import Apply, Effects, RestoreSnapshot
from clustercore.raft.state import RaftState
from clustercore.runtime import assembly
from clustercore.testing.trace import ObservedCore, Wiretap
from clustercore.testing.violation import PropertyViolated

__all__ = ["Watch"]


@attrs.define(eq=False)
class _Seen:
    """What a running core showed last."""

    state: RaftState
    term: Term
    commit_index: LogIndex


class Watch:
    """Sees every core of one run.

    Args:
        disks: Returns what is synced on each machine's disk, by name, at this moment.
    """

    def __init__(self, disks: Callable[[], dict[str, StoredState]]) -> None:
        self._disks = disks
        self._seen: dict[NodeId, _Seen] = {}
        self._leaders: dict[Term, NodeId] = {}
        # What was handed to a state machine first, for each index; the command is None where a snapshot had it.
        self._applied: dict[LogIndex, Entry] = {}
        # What was on disks that were lost: what it acknowledged before counts for what is committed after.
        self._lost: dict[str, StoredState] = {}
        # How much the run did.
        self.elections = self.commits = self.restores = self.inputs = 0

    @contextmanager
    def watching(self, wiretap: Wiretap | None) -> Iterator[None]:
        """Let every node that starts meanwhile run on a core that is watched, and traced if a wiretap is given."""
        names = vars(assembly)
        real = names["RaftCore"]

        def make_core(**arguments: Any) -> RaftCore:
            return _WatchedCore(self, **arguments) if wiretap is None else _TracedCore(self, wiretap, **arguments)

        names["RaftCore"] = make_core
        try:
            yield
        finally:
            names["RaftCore"] = real

    def state_of(self, name: str) -> RaftState | None:
        """Return what the core of a machine knows, or knew when it ended; None if it never ran."""
        seen = self._seen.get(NodeId(name))
        return None if seen is None else seen.state

    def is_full_member(self, name: str) -> bool:
        """Say whether a machine knows itself as a voter with the disk it has, by a committed configuration."""
        state = self.state_of(name)
        if state is None or not state.is_configuration_committed:
            return False
        server = state.configuration.get(state.node_id)
        return server is not None and server.is_voter and server.incarnation == state.incarnation

    def has_lost_disk(self, name: str) -> bool:
        """Say whether a machine has lost a disk and is no full member since."""
        return name in self._lost and not self.is_full_member(name)

    def forget(self, name: str) -> None:
        """Take what a machine's core knew for nothing: its disk is about to be lost."""
        self._seen.pop(NodeId(name), None)
        self._lost[name] = self._disks()[name]

    def started(self, state: RaftState) -> None:
        """Begin anew with a node."""
        self._seen[state.node_id] = _Seen(state, state.current_term, state.commit_index)

    def acted(self, state: RaftState, effects: Effects) -> None:
        """Look at a core after an input."""
        self.inputs += 1
        seen = self._seen[state.node_id]
        if state.current_term != seen.term:
            if state.current_term < seen.term:
                self._fail("never backwards", f"the term fell from {seen.term} to {state.current_term}", "", state)
            seen.term = state.current_term
        if state.role is Role.LEADER and self._leaders.get(state.current_term) != state.node_id:
            self._take_office(state)
        if state.commit_index != seen.commit_index:
            if state.commit_index < seen.commit_index:
                self._fail("never backwards", f"the commit index fell from {seen.commit_index}", "", state)
            seen.commit_index = state.commit_index
            if state.role is Role.LEADER:
                self._check_durable(state)
        for effect in effects:
            if isinstance(effect, Apply):
                self._check_applied(state, effect.entries)
            elif isinstance(effect, RestoreSnapshot):
                self.restores += 1

    def _take_office(self, state: RaftState) -> None:
        other = self._leaders.setdefault(state.current_term, state.node_id)
        if other != state.node_id:
            text = f"{other} and {state.node_id} both lead in term {state.current_term}"
            self._fail("election safety", text, "Raft Figure 3, §5.2", state)
        self.elections += 1

    def _check_durable(self, state: RaftState) -> None:
        """What a leader takes for committed is on a majority's disks at this moment; and so all before it."""
        index, configuration, disks = state.commit_index, state.configuration, self._disks()
        term = state.log.term_at(index)
        holders = {
            name
            for name, stored in disks.items()
            if _holds(stored, index, term) or (name in self._lost and _holds(self._lost[name], index, term))
        }
        for voters in (configuration.voters, configuration.old_voters):
            if voters and 2 * len(holders & {str(voter) for voter in voters}) <= len(voters):
                self._fail(
                    "committed is durable",
                    f"entry {index} of term {term} is committed, and of {sorted(voters)} it is on the disks of "
                    f"{sorted(holders)} only",
                    "thesis §10.2.1",
                    state,
                )

    def _check_applied(self, state: RaftState, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            first = self._applied.get(entry.index)
            if first is None:
                self._applied[entry.index] = entry
                self.commits += 1
            elif first is not entry and first != entry:
                text = f"{state.node_id} applies {entry}, and another applied {first}"
                self._fail("state machine safety", text, "Raft Figure 3, §5.4.3", state)

    def check_acknowledged(self, applied: Applied, command: bytes | None = None) -> None:
        """Check that what a client was told is what was applied there: it can never be lost then."""
        entry = self._applied.get(applied.index)
        if entry is None or entry.term != applied.term or command not in (None, entry.command):
            raise PropertyViolated("acknowledged is kept", f"a client was told {applied}; applied was {entry}")

    def _fail(self, name: str, text: str, source: str, state: RaftState) -> None:
        raise PropertyViolated(name, text, source, state.node_id)


def _holds(stored: StoredState, index: LogIndex, term: Term | None) -> bool:
    if stored.snapshot is not None and index <= stored.snapshot.last_included_index:
        return True
    if not stored.entries:
        return False
    place = index - stored.entries[0].index
    return 0 <= place < len(stored.entries) and stored.entries[place].term == term


class _WatchedCore(RaftCore):
    """A core that is watched. It does what a RaftCore does, to the letter."""

    def __init__(self, watch: Watch, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._watch = watch
        watch.started(self.state)

    def _finish(self) -> Effects:
        effects = super()._finish()
        self._watch.acted(self.state, effects)
        return effects


class _TracedCore(ObservedCore):
    """A core that is watched and traced."""

    def __init__(self, watch: Watch, wiretap: Wiretap, **arguments: Any) -> None:
        super().__init__(wiretap, **arguments)
        self._watch = watch
        watch.started(self.state)

    def _finish(self) -> Effects:
        effects = super()._finish()
        self._watch.acted(self.state, effects)
        return effects
