"""The protocol level as a rule-based state machine: Hypothesis chooses each step, and looks at the world after it.

The invariants here say the paper's properties of whole logs, as it does, and know nothing of what was seen before: a
second opinion on those that are checked incrementally while a step is carried out.
"""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from clustercore.raft.state import RaftState
from clustercore.raft.types import LogIndex, NodeId, Role, Term
from clustercore.testing.invariants import Invariants
from clustercore.testing.protocol import Choice, Kind, World, WorldPlan
from clustercore.testing.protocol.choices import OPENING
from clustercore.testing.protocol.liveness import heal
from clustercore.testing.protocol.moves import carry_out
from clustercore.testing.protocol.tracing import trace_run
from clustercore.testing.strategies import plans

NUMBERS = st.integers(0, 0xFFFF)
MESSAGES = [
    *[Kind.DELIVER_OLDEST] * 4,
    *[Kind.DELIVER_ANY, Kind.DELIVER_LINK] * 2,
    *[Kind.DUPLICATE, Kind.REPLAY, Kind.DROP, Kind.DROP_SNAPSHOT, Kind.SERVE],
]
DISKS = [Kind.FLUSH, Kind.FLUSH, Kind.SYNC, Kind.REPORT, Kind.SNAPSHOT]
TIME = [Kind.HEARTBEAT, Kind.HEARTBEAT, Kind.EXPIRE, Kind.LATE, Kind.WAIT]
CLIENTS = [Kind.PROPOSE, Kind.PROPOSE, Kind.READ, Kind.TRANSFER]
MEMBERS = [Kind.CHANGE_MEMBERS, Kind.CHANGE_MEMBERS, Kind.COME_BACK]
CRASHES = [Kind.CRASH, Kind.CRASH_AFTER_PROMISE, Kind.START, Kind.START, Kind.LOSE_DISK]
LINKS = [
    *[Kind.RECONNECT] * 3,
    *[Kind.PARTITION, Kind.CUT_ONE_WAY, Kind.BRIDGE, Kind.ISOLATE_LEADER, Kind.UNREACHABLE],
]
SPELLS = [Kind.CALM, Kind.AMONG, Kind.REIGN, Kind.STAND, Kind.STAND]


class ProtocolMachine(RuleBasedStateMachine):
    """A world of cores, and one rule for each part of it that an adversary has a hand in."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = WorldPlan()
        self.watcher = Invariants()
        self.world: World | None = None
        self.choices: list[Choice] = []
        self.is_broken = False

    @initialize(plan=plans(), leads=st.booleans())
    def build(self, plan: WorldPlan, leads: bool) -> None:
        """Start all nodes; mostly there is a leader at first."""
        self.plan = plan
        self.watcher = Invariants(has_true_drift=plan.has_true_drift)
        self.world = World.of(plan, watchers=[self.watcher])
        for choice in OPENING if leads else ():
            self._take(choice)

    def _take(self, choice: Choice) -> None:
        assert self.world is not None
        self.choices.append(choice)
        try:
            carry_out(self.world, self.plan, choice, len(self.choices))
        except Exception:
            # Who has failed is not healed.
            self.is_broken = True
            trace_run(self.plan, self.choices, title="state machine", heals=False).keep("state machine")
            raise

    @rule(kind=st.sampled_from(MESSAGES), first=NUMBERS, second=NUMBERS)
    def message(self, kind: Kind, first: int, second: int) -> None:
        """Deliver, lose or repeat."""
        self._take((kind, first, second))

    @rule(kind=st.sampled_from(DISKS), first=NUMBERS, second=NUMBERS)
    def disk(self, kind: Kind, first: int, second: int) -> None:
        """Finish writes, or tell of them, or ask for some."""
        self._take((kind, first, second))

    @rule(kind=st.sampled_from(TIME), first=NUMBERS, second=NUMBERS)
    def time(self, kind: Kind, first: int, second: int) -> None:
        """Let a deadline pass."""
        self._take((kind, first, second))

    @rule(kind=st.sampled_from(CLIENTS), first=NUMBERS, second=NUMBERS)
    def client(self, kind: Kind, first: int, second: int) -> None:
        """Ask a node for something."""
        self._take((kind, first, second))

    @rule(kind=st.sampled_from(MEMBERS), first=NUMBERS, second=NUMBERS)
    def member(self, kind: Kind, first: int, second: int) -> None:
        """Change the members."""
        self._take((kind, first, second))

    @rule(kind=st.sampled_from(CRASHES), first=NUMBERS, second=NUMBERS)
    def crash(self, kind: Kind, first: int, second: int) -> None:
        """Stop a node, or start one."""
        self._take((kind, first, second))

    @rule(kind=st.sampled_from(LINKS), first=NUMBERS, second=NUMBERS)
    def link(self, kind: Kind, first: int, second: int) -> None:
        """Cut the network, or mend it."""
        self._take((kind, first, second))

    @rule(kind=st.sampled_from(SPELLS), first=NUMBERS, second=NUMBERS)
    def spell(self, kind: Kind, first: int, second: int) -> None:
        """Let much happen at once."""
        self._take((kind, first, second))

    # --- The paper's properties, of whole logs ---

    @invariant()
    def each_term_has_one_leader(self) -> None:
        """Election Safety (Raft Figure 3)."""
        leaders = [state.current_term for state in self._states() if state.role is Role.LEADER]
        assert len(set(leaders)) == len(leaders)

    @invariant()
    def logs_match(self) -> None:
        """Log Matching (Raft Figure 3): where two logs agree on a term, they agree on all before it."""
        logs = [self._log_of(name) for name in (self.world.nodes if self.world is not None else ())]
        for number, first in enumerate(logs):
            for second in logs[:number]:
                common = sorted(first.keys() & second.keys())
                agreeing = [index for index in common if first[index][0] == second[index][0]]
                if agreeing:
                    assert all(first[index] == second[index] for index in common if index <= agreeing[-1])

    @invariant()
    def committed_prefixes_agree(self) -> None:
        """State Machine Safety (Raft Figure 3): what two nodes have committed is the same."""
        committed: dict[LogIndex, tuple[Term, bytes]] = {}
        for state, name in zip(self._states(), self._up(), strict=True):
            for index, entry in self._log_of(name).items():
                if index <= state.commit_index:
                    assert committed.setdefault(index, entry) == entry

    @invariant()
    def nothing_changed_unseen(self) -> None:
        """Logs are as they were written, and durable as far as the cores believe."""
        if self.world is not None:
            self.watcher.look_at_all(self.world)

    def teardown(self) -> None:
        """Once all faults end, the cluster makes progress."""
        if self.world is not None and not self.is_broken:
            heal(self.world, self.plan.seed)

    def _up(self) -> Sequence[NodeId]:
        nodes = self.world.nodes if self.world is not None else {}
        return [name for name, node in nodes.items() if node.is_up]

    def _states(self) -> Sequence[RaftState]:
        return [self.world.nodes[name].core.state for name in self._up()] if self.world is not None else []

    def _log_of(self, name: NodeId) -> dict[LogIndex, tuple[Term, bytes]]:
        assert self.world is not None
        log = self.world.nodes[name].core.state.log
        held = log.slice(log.first_index, log.last_index) if log.last_index > log.base_index else ()
        return {entry.index: (entry.term, entry.command) for entry in held}


@pytest.mark.slow
def test_any_steps_are_safe_and_heal() -> None:
    """Whatever Hypothesis chooses, step by step."""
    some = settings(max_examples=max(40, settings().max_examples // 5), stateful_step_count=40, deadline=None)
    run_state_machine_as_test(ProtocolMachine, settings=some)
