"""The watcher that gathers facts and makes every check after every event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from clustercore.raft.effects import Effects, PersistEntries, PersistSnapshot
from clustercore.raft.types import LogIndex, NodeId, Role
from clustercore.testing.invariants.bookkeeping import Bookkeeping
from clustercore.testing.invariants.check_quorum import CheckQuorum
from clustercore.testing.invariants.committed_durably import CommittedDurably
from clustercore.testing.invariants.committed_forever import CommittedForever
from clustercore.testing.invariants.committed_survives import CommittedSurvives
from clustercore.testing.invariants.could_win import CouldWin
from clustercore.testing.invariants.durable_before_visible import DurableBeforeVisible
from clustercore.testing.invariants.elected_by_quorum import ElectedByQuorum
from clustercore.testing.invariants.election_safety import ElectionSafety
from clustercore.testing.invariants.facts import Facts, Invariant, Node, Packet, Seen, World
from clustercore.testing.invariants.hand_over import HandOver
from clustercore.testing.invariants.leader_append_only import LeaderAppendOnly
from clustercore.testing.invariants.leader_completeness import LeaderCompleteness
from clustercore.testing.invariants.leases import Leases
from clustercore.testing.invariants.log_matching import LogMatching
from clustercore.testing.invariants.loyalty import Loyalty
from clustercore.testing.invariants.match_index import MatchIndex
from clustercore.testing.invariants.never_backwards import NeverBackwards
from clustercore.testing.invariants.newest_members import NewestMembers
from clustercore.testing.invariants.one_answer import OneAnswer
from clustercore.testing.invariants.one_vote import OneVote
from clustercore.testing.invariants.only_voters_lead import OnlyVotersLead
from clustercore.testing.invariants.quorum_intersection import QuorumIntersection
from clustercore.testing.invariants.read_index import ReadIndex
from clustercore.testing.invariants.recovery import Recovery
from clustercore.testing.invariants.sessions_apply_once import SessionsApplyOnce
from clustercore.testing.invariants.snapshot_keeps_suffix import SnapshotKeepsSuffix
from clustercore.testing.invariants.stale_messages import StaleMessages
from clustercore.testing.invariants.state_machine_safety import StateMachineSafety
from clustercore.testing.protocol.disk import Write
from clustercore.testing.protocol.world import Watcher
from clustercore.testing.violation import PropertyViolated

__all__ = ["PROPERTIES", "Invariants"]

# The paper's five first: where several break at once, the best known is told.
PROPERTIES: tuple[type[Invariant], ...] = (
    ElectionSafety,
    LeaderAppendOnly,
    LogMatching,
    LeaderCompleteness,
    StateMachineSafety,
    OneVote,
    ElectedByQuorum,
    OnlyVotersLead,
    NewestMembers,
    NeverBackwards,
    DurableBeforeVisible,
    # What it cuts is mostly committed, too.
    SnapshotKeepsSuffix,
    CommittedDurably,
    CommittedForever,
    CommittedSurvives,
    QuorumIntersection,
    Recovery,
    ReadIndex,
    MatchIndex,
    StaleMessages,
    CheckQuorum,
    CouldWin,
    Loyalty,
    HandOver,
    OneAnswer,
    Bookkeeping,
    Leases,
    SessionsApplyOnce,
)


class Invariants(Watcher):
    """Checks properties of a world after every event, and raises PropertyViolated for the first that does not hold.

    Args:
        properties: Which ones.
        has_true_drift: Whether the clocks run apart by no more than the cores are told; otherwise leases promise
            nothing, and are not checked.
    """

    def __init__(self, *, properties: Sequence[type[Invariant]] = PROPERTIES, has_true_drift: bool = True) -> None:
        self.facts = Facts()
        self.checks = [make(self.facts) for make in properties if has_true_drift or make is not Leases]

        def of(name: str) -> list[Callable[..., None]]:
            return [
                getattr(check, name)
                for check in self.checks
                if getattr(type(check), name) is not getattr(Invariant, name)
            ]

        self._on_started, self._on_received, self._on_acted = of("started"), of("received"), of("acted")
        self._on_released, self._on_stored, self._on_settled = of("released"), of("stored"), of("settled")
        self._on_appended, self._on_replaced = of("appended"), of("replaced")
        self._on_applied_once = of("applied_once")
        self._on_took_office, self._on_committed = of("took_office"), of("committed")

    # --- Watcher ---

    def started(self, world: World, node: Node) -> None:
        """Begin anew with a node."""
        state = node.core.state
        log = state.log
        held = log.slice(log.first_index, log.last_index) if log.last_index > log.base_index else ()
        self.facts.seen[node.node_id] = Seen(
            state.current_term,
            state.voted_for,
            state.role,
            state.commit_index,
            state.last_applied,
            log.base_index,
            [entry.term for entry in held],
        )
        for hook in self._on_started:
            hook(world, node)

    def received(self, world: World, node: Node, packet: Packet) -> None:
        """Pass it on."""
        for hook in self._on_received:
            hook(world, node, packet)

    def acted(self, world: World, node: Node, effects: Effects, origin: NodeId | None) -> None:
        """Follow the log, and pass it on."""
        for effect in effects:
            kind = type(effect)
            if kind is PersistEntries:
                self._append(world, node, effect)
            elif kind is PersistSnapshot:
                self._replace(world, node, effect)
        for hook in self._on_acted:
            hook(world, node, effects, origin)

    def released(self, world: World, node: Node, packet: Packet) -> None:
        """Pass it on."""
        for hook in self._on_released:
            hook(world, node, packet)

    def applied_once(self, world: World, session_id: int, sequence: int, index: LogIndex) -> None:
        """Pass it on."""
        for hook in self._on_applied_once:
            hook(world, session_id, sequence, index)

    def stored(self, world: World, node: Node, write: Write) -> None:
        """Pass it on."""
        for hook in self._on_stored:
            hook(world, node, write)

    def settled(self, world: World, node: Node) -> None:
        """Find what changed, have it checked, and remember it."""
        state, seen = node.core.state, self.facts.seen[node.node_id]
        term, role = state.current_term, state.role
        if role is Role.LEADER and (seen.role is not role or seen.term != term):
            for hook in self._on_took_office:
                hook(world, node)
            self.facts.leaders[term] = node.node_id
            self.facts.last_led_term = max(self.facts.last_led_term, term)
        commit_index = state.commit_index
        if commit_index > seen.commit_index:
            self._commit(world, node, LogIndex(seen.commit_index + 1), commit_index)
        for hook in self._on_settled:
            hook(world, node, seen)
        seen.term, seen.voted_for, seen.role = term, state.voted_for, role
        seen.commit_index, seen.last_applied = commit_index, state.last_applied

    # --- The log ---

    def _append(self, world: World, node: Node, effect: Any) -> None:
        entries, seen = effect.entries, self.facts.seen[node.node_id]
        place = entries[0].index - seen.base_index - 1
        cut = seen.terms[place:]
        for hook in self._on_appended:
            hook(world, node, entries, cut)
        del seen.terms[place:]
        seen.terms.extend([entry.term for entry in entries])

    def _replace(self, world: World, node: Node, effect: Any) -> None:
        snapshot, keeps_log = effect.metadata, effect.keep_from is not None
        index, term = snapshot.last_included_index, snapshot.last_included_term
        for hook in self._on_replaced:
            hook(world, node, index, term, keeps_log=keeps_log)
        if not keeps_log:
            seen = self.facts.seen[node.node_id]
            seen.base_index = index
            seen.terms.clear()

    def _commit(self, world: World, node: Node, first: LogIndex, last: LogIndex) -> None:
        for hook in self._on_committed:
            hook(world, node, first, last)
        facts, log = self.facts, node.core.state.log
        for number in range(max(first, facts.last_committed + 1), last + 1):
            index = LogIndex(number)
            term = log.term_at(index)
            if term is None:
                raise PropertyViolated(
                    "committed is durable",
                    f"{node.node_id} takes entry {index} for committed, which nobody committed, by a snapshot",
                    "Raft §7",
                    node.node_id,
                )
            facts.committed[index] = term
            facts.committed_in[index] = node.core.state.current_term
        facts.last_committed = max(facts.last_committed, last)

    # --- At length ---

    def look_at_all(self, world: World) -> None:
        """Compare whole logs and disks with what was seen of them: it takes as long as they are."""
        for node in world.nodes.values():
            if not node.is_up:
                continue
            state, seen = node.core.state, self.facts.seen[node.node_id]
            log = state.log
            for number in range(log.first_index, log.last_index + 1):
                index = LogIndex(number)
                term = log.term_at(index)
                if index > seen.base_index and seen.term_at(index) != term:
                    self._fail(node, "log matching", f"entry {index} of {node.node_id} changed without a write")
                if index <= state.durable_index and (term is None or not node.disk.holds(index, term)):
                    self._fail(node, "a core's state is consistent", f"entry {index} of {node.node_id} is not on disk")

    def _fail(self, node: Node, name: str, text: str) -> None:
        raise PropertyViolated(name, text, "", node.node_id)
