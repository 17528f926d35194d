"""Nodes that are broken on purpose: the worlds and checks of the node level must find each, by what it breaks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from clustercore.interfaces.messages import MembersFailed, MembersRequest, MembersResponse
from clustercore.raft import core, reads
from clustercore.raft.effects import PersistEntries, PersistHardState
from clustercore.raft.state import RaftState
from clustercore.raft.types import LogIndex, NodeId, ReadId, Term, WriteId
from clustercore.runtime import applier, engine, forwarder, members_desk, proposals, session_table, writer
from clustercore.testing.campaign import run_campaign
from clustercore.testing.simulation import NetworkOptions, SimulatedWorld
from clustercore.testing.simulation.clients import MapClients
from clustercore.testing.simulation.level import NodeLevel
from clustercore.testing.simulation.map_machine import MapMachine
from clustercore.testing.simulation.simulating import SimulationRun
from clustercore.testing.trace import read_trace
from clustercore.testing.trace.events import Violated
from clustercore.testing.violation import PropertyViolated

pytestmark = pytest.mark.slow

Patch = pytest.MonkeyPatch


def answers_before_it_is_durable(patch: Patch) -> None:
    """Votes and acknowledgements leave at once."""

    def leave_at_once(self: engine.Engine, after: WriteId | None, leave: Callable[[], None]) -> None:
        leave()

    patch.setattr(engine.Engine, "_leave", leave_at_once)


def calls_a_write_durable_before_it_is(patch: Patch) -> None:
    """The core hears that a write is done when it begins."""
    really_write = writer.Writer._write_joined

    async def tell_first(self: writer.Writer, jobs: list[PersistHardState | PersistEntries]) -> None:
        self._on_durable(jobs[-1].write_id)
        await really_write(self, jobs)

    patch.setattr(writer.Writer, "_write_joined", tell_first)


def forwards_again_what_may_have_arrived(patch: Patch) -> None:
    """A forwarded proposal whose answer is lost is forwarded once more."""

    def send_again(self: forwarder.Forwarder, leader_id: NodeId) -> None:
        for request in self._open.values():
            if request.leader_id == leader_id and not request.settled.is_set():
                self._settle(request, forwarder._Fate.UNSENT)

    patch.setattr(forwarder.Forwarder, "give_up_on", send_again)


def proposes_again_what_was_in_its_log(patch: Patch) -> None:
    """A leader that loses its office hands its unanswered proposals to the next."""

    def queue_again(self: proposals.Proposals, term: Term) -> None:
        self.put_back(self._take_appended())

    patch.setattr(proposals.Proposals, "leadership_lost", queue_again)


def forgets_to_restore(patch: Patch) -> None:
    """A leader's snapshot moves the index and not the state."""

    async def only_count(self: applier.Applier, index: LogIndex) -> None:
        await trio.lowlevel.checkpoint()
        self._last_applied = index

    patch.setattr(applier.Applier, "_restore", only_count)


def reads_without_asking(patch: Patch) -> None:
    """A leader takes its own word for it that it still leads."""

    def answer_at_once(self: engine.Engine, read_id: ReadId) -> None:
        self._on_read_index((read_id,), self.commit_index if self.is_leader else None)

    patch.setattr(engine.Engine, "read", answer_at_once)


def reads_before_it_has_applied(patch: Patch) -> None:
    """A node knows up to where it must have applied, and does not wait for it."""

    async def wait_for_nothing(self: applier.Applier, index: LogIndex) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(applier.Applier, "wait_applied", wait_for_nothing)


def applies_every_copy_of_a_command(patch: Patch) -> None:
    """A command of a session that comes again is carried out again."""
    patch.setattr(session_table, "_answer_without_it", lambda session, sequence, stamp: None)


def tells_members_again(patch: Patch) -> None:
    """Who has told the members once tells the same again, as long as nobody wants to change them."""
    really = members_desk.MembersDesk._tell
    told: dict[members_desk.MembersDesk, MembersResponse | MembersFailed] = {}

    async def tell_again(self: members_desk.MembersDesk, request: MembersRequest) -> MembersResponse | MembersFailed:
        if request.is_settled:
            return await really(self, request)
        if self not in told:
            told[self] = await really(self, request)
        return told[self]

    patch.setattr(members_desk.MembersDesk, "_tell", tell_again)


def holds_leases_too_long(patch: Patch) -> None:
    """A leader counts on its lease for longer than those who gave it keep to it."""
    really = reads.lease_until

    def until(state: RaftState, now: float, **known: Any) -> float:
        lease = really(state, now, **known)
        return lease if lease == -math.inf else lease + 0.3 * state.config.election_timeout_s

    patch.setattr(core, "lease_until", until)


@pytest.mark.parametrize(
    ("break_it", "first_seed", "breaks"),
    # The seeds only save time: others find it too, after a while. Where two properties are broken, it depends on the
    # world which of them shows first: whether clients see the difference, or the comparison at the end.
    [
        (answers_before_it_is_durable, 0, {"durable before visible"}),
        (calls_a_write_durable_before_it_is, 0, {"durable before visible"}),
        (forwards_again_what_may_have_arrived, 4, {"linearizability"}),
        (proposes_again_what_was_in_its_log, 28, {"linearizability"}),
        (forgets_to_restore, 3, {"linearizability", "state machines are equal"}),
        (reads_without_asking, 0, {"linearizability"}),
        (reads_before_it_has_applied, 0, {"linearizability"}),
        (applies_every_copy_of_a_command, 10, {"linearizability", "sessions apply once"}),
    ],
)
def test_broken_node_is_found_by_a_property_it_breaks(
    break_it: Callable[[Patch], None], first_seed: int, breaks: set[str], monkeypatch: Patch
) -> None:
    """One of a few dozen seeds shows what is wrong."""
    break_it(monkeypatch)

    found = run_campaign(NodeLevel(), range(first_seed, first_seed + 60))

    assert found.violated is not None
    assert breaks & set(found.violated.split(", "))


# Five nodes of which two lead on slow clocks, and the others stand and vote by fast ones, as far apart as leases bear.
DRIFTING = SimulatedWorld(
    nodes=5,
    network=NetworkOptions(latency_s=0.002),
    clock_rates=(0.955, 0.955, 1.048, 1.048, 1.048),
    hides_drift=True,
    calm_s=3.0,
    faults={"isolate": 4, "transfer": 6, "heal": 4},
)


def run_drifting(seed: int) -> None:
    """Run one seed in which nobody knows how fast a clock is, and leases are used all the same."""
    assert DRIFTING.has_true_clocks
    clients = MapClients(rate=5.0)
    SimulationRun(seed, DRIFTING, MapMachine, clients.scenario, clients.check).go(None)


def test_leases_hold_while_clocks_drift_that_nobody_knows_of() -> None:
    """By as much as nodes are told that clocks may: no two leases and no two bodies of ``leading()`` overlap."""
    for seed in range(4):
        run_drifting(seed)


def test_lease_that_outlasts_its_protection_is_found_while_clocks_drift(monkeypatch: Patch) -> None:
    """Without drift a leader that nobody hears steps down in time, whatever it takes its lease for."""
    holds_leases_too_long(monkeypatch)

    with pytest.RaisesGroup(pytest.RaisesExc(PropertyViolated, match="lease"), flatten_subgroups=True):
        for seed in range(12):
            run_drifting(seed)


# The members change all the time, and operators look at them everywhere.
CHANGING = SimulatedWorld(
    nodes=5,
    calm_s=3.0,
    faults_s=20.0,
    faults={"heal": 1},
    changes={"demote": 2, "promote": 2, "read": 4},
    change_pause_s=0.3,
)


def test_node_that_tells_members_of_before_is_found(monkeypatch: Patch) -> None:
    """What an operator was told once, and is told again after a change, is older than what another knows."""
    tells_members_again(monkeypatch)
    clients = MapClients(rate=2.0)
    run = SimulationRun(0, CHANGING, MapMachine, clients.scenario, clients.check)

    newest = pytest.RaisesExc(PropertyViolated, match="an operator was told of the members of index")
    with pytest.RaisesGroup(newest, flatten_subgroups=True):
        run.go(None)


def test_broken_node_is_made_short_and_leaves_a_trace(monkeypatch: Patch, tmp_path: Path) -> None:
    """It breaks the same, with fewer kinds of faults, and the trace ends where it does."""
    calls_a_write_durable_before_it_is(monkeypatch)
    monkeypatch.setattr("clustercore.testing.simulation.level.MAX_SHRINK_RUNS", 4)
    level = NodeLevel()
    path = tmp_path / "short.jsonl"

    lines = level.shrink(0, path, lambda text: None)

    assert "broken: durable before visible" in lines
    trace = read_trace(path)
    assert isinstance(trace.events[-1], Violated)
    assert {"sent", "write_durable"} <= {event.kind for event in trace.events}
