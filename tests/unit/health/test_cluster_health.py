"""The checker tied to discovery: who is monitored, who gets work, who is taken out, and what stands in the way."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore import ClusterHealth, Guard, HealthConfig, HealthEvent, HealthEventKind
from clustercore.health.guards import Facts, blocking_guard
from clustercore.health.own_score import Sign
from clustercore.interfaces import (
    Applied,
    Configuration,
    Consistency,
    HealthStatus,
    LogIndex,
    Member,
    MemberMetadata,
    MembersHandle,
    NodeHandle,
    NodeId,
    NodeSite,
    NodeStatus,
    ReadResult,
    Role,
    Term,
)
from clustercore_memory import MemoryDiscovery, MemoryNetwork, MemoryRegistry, MemoryTransport, SourceFault
from tests.unit.health.fakes import DRAIN, FAIL, OK, FakeProbe

ME = NodeId("a")
# Without jitter, and with a flap damping that is out of the way.
CONFIG = HealthConfig(jitter=0.0)
FOUND_S = CONFIG.worst_case_detection_s
GONE_S = FOUND_S + CONFIG.deregister_after_s


class FakeNode(NodeHandle):
    """A node that leads when the test says so."""

    def __init__(self, voters: Iterable[str]) -> None:
        self.configuration = Configuration.of(voters, cluster_id="c")
        self.term = Term(7)
        self._leads = trio.Event()
        self._ends = trio.Event()

    @property
    def node_id(self) -> NodeId:
        return ME

    def lead(self, term: int) -> None:
        self.term = Term(term)
        self._ends = trio.Event()
        self._leads.set()

    def step_down(self) -> None:
        self._leads = trio.Event()
        self._ends.set()

    @asynccontextmanager
    async def leading(self, *, cleanup_s: float | None = None) -> AsyncIterator[Term]:
        await self._leads.wait()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def end() -> None:
                    await self._ends.wait()
                    scope.cancel()

                nursery.start_soon(end)
                yield self.term

    def status(self) -> NodeStatus:
        zero = LogIndex(0)
        return NodeStatus(ME, Role.LEADER, self.term, ME, zero, zero, zero, zero, 0, (), self.configuration)

    async def propose(
        self, command: bytes, *, forward: bool = True, give_up_s: float | None = None, version: int = 1
    ) -> Applied:
        raise NotImplementedError("health proposes nothing")

    async def read(
        self, query: bytes, *, consistency: Consistency = Consistency.LINEARIZABLE, max_lag_s: float = math.inf
    ) -> ReadResult:
        raise NotImplementedError("health reads nothing")

    @property
    def members(self) -> MembersHandle:
        raise NotImplementedError("health changes no members")


@attrs.define
class Bench:
    """A registry, the probes of its nodes, and the health of node "a", which leads."""

    registry: MemoryRegistry
    discovery: MemoryDiscovery
    health: ClusterHealth
    node: FakeNode
    probes: dict[str, FakeProbe]

    @property
    def registered(self) -> str:
        return "".join(member.node_id for member in self.registry.members)

    @property
    def monitored(self) -> str:
        return "".join(self.health.checker.monitored)

    @property
    def view(self) -> str:
        return "".join(member.node_id for member in self.health.view)

    def kinds(self, node_id: str) -> list[HealthEventKind | Guard]:
        """Return what was done about a node, a blocked removal as its guard."""
        return [event.guard or event.kind for event in self.health.events if event.node_id == node_id]

    def fail(self, names: str) -> None:
        for name in names:
            self.probes[name].answer = FAIL

    def heal(self, names: str) -> None:
        for name in names:
            self.probes[name].answer = OK


@asynccontextmanager
async def bench(
    names: str = "abcde",
    *,
    config: HealthConfig = CONFIG,
    without: Guard | None = None,
    voters: str | None = None,
    leads: bool = True,
) -> AsyncIterator[Bench]:
    """Run the health of node "a" inside the block, all nodes well and known to be."""
    registry = MemoryRegistry([Member(NodeId(name), f"at-{name}", MemberMetadata(role="voter")) for name in names])
    discovery = MemoryDiscovery(registry)
    probes = {name: FakeProbe() for name in names}
    health = ClusterHealth(
        discovery,
        config,
        probe=lambda member: probes[member.node_id],
        guards=frozenset(Guard) - {without},
        rng=Random(1),
    )
    node = FakeNode(names if voters is None else voters)
    if leads:
        node.lead(7)
    async with discovery, trio.open_nursery() as nursery:
        site = NodeSite(node=node, transport=MemoryTransport(MemoryNetwork(), "a"), peers=dict)
        nursery.start_soon(health.run, site)
        await trio.sleep(20.37)
        yield Bench(registry, discovery, health, node, probes)
        nursery.cancel_scope.cancel()


# --- The ordinary way -------------------------------------------------------------------------------------------------


async def test_unhealthy_node_leaves_the_view_at_once_and_discovery_after_the_hold(autojump_clock: MockClock) -> None:
    """The view drops a node when it turns unhealthy, discovery after the hold, and both have it back as it was."""
    async with bench() as on:
        assert (on.view, on.registered) == ("abcde", "abcde")
        registration = on.registry.members[4]

        on.fail("e")
        await trio.sleep(FOUND_S)
        assert (on.view, on.registered) == ("abcd", "abcde")
        node = on.health.checker.node("e")
        assert node is not None
        turned = node.since
        await trio.sleep(turned + CONFIG.deregister_after_s - trio.current_time() - 0.01)
        assert on.registered == "abcde"
        await trio.sleep(0.02)
        assert (on.view, on.registered) == ("abcd", "abcd")

        on.heal("e")
        await trio.sleep(CONFIG.max_check_interval_s + CONFIG.check_interval * CONFIG.success_threshold)
        assert (on.view, on.registered) == ("abcde", "abcde")
        assert on.registry.members[4] == registration
        assert on.kinds("e") == [HealthEventKind.DEREGISTERED, HealthEventKind.REGISTERED]
        assert [event.term for event in on.health.events] == [7, 7]
        assert set(on.node.configuration.voters) == set("abcde")


async def test_short_illness_leaves_the_registration(autojump_clock: MockClock) -> None:
    """A node that is well again before the hold is over was never taken out; the hold begins anew the next time."""
    async with bench() as on:
        for _ in range(3):
            on.fail("b")
            await trio.sleep(FOUND_S + 0.2 * CONFIG.deregister_after_s)
            assert on.view == "acde"
            on.heal("b")
            await trio.sleep(CONFIG.max_check_interval_s + 30)
            assert on.view == "abcde"

        assert on.registered == "abcde"
        assert on.kinds("b") == []


async def test_nodes_are_monitored_from_registration_until_they_are_gone(autojump_clock: MockClock) -> None:
    """Registering starts the monitoring, a new address restarts it; who is neither registered nor a member is none."""
    async with bench("abc") as on:
        assert on.monitored == "bc"
        on.probes["x"] = FakeProbe()
        on.registry.register(Member(NodeId("x"), "at-x"))
        await trio.sleep(11)
        assert on.health.checker.status("x") is HealthStatus.HEALTHY
        on.probes["x"] = FakeProbe()
        on.registry.register(Member(NodeId("x"), "elsewhere"))
        await trio.sleep(11)
        assert on.probes["x"].asked_at

        on.registry.deregister(NodeId("x"))
        on.registry.deregister(NodeId("c"))
        await wait_all_tasks_blocked()
        # A member is registered again by the leader: its registration was lost, it was not removed.
        assert on.monitored == "bc"
        assert on.registered == "abc"
        on.node.configuration = Configuration.of("ab", cluster_id="c")
        on.registry.deregister(NodeId("c"))
        await wait_all_tasks_blocked()
        assert on.monitored == "b"
        assert on.registered == "ab"


async def test_node_removed_from_the_cluster_while_out_stays_out(autojump_clock: MockClock) -> None:
    """A node that an operator removed does not come back into discovery because it is well."""
    async with bench() as on:
        on.fail("e")
        await trio.sleep(GONE_S)
        assert on.registered == "abcd"
        on.node.configuration = Configuration.of("abcd", cluster_id="c")
        on.registry.register(Member(NodeId("a"), "at-a", MemberMetadata(role="changed")))
        await wait_all_tasks_blocked()
        on.heal("e")
        await trio.sleep(200)

        assert on.registered == "abcd"
        assert "e" not in on.monitored


async def test_new_leader_gives_back_what_the_old_one_took_out(autojump_clock: MockClock) -> None:
    """Whoever leads registers a member that is well and missing, also if another took it out."""
    async with bench(leads=False) as on:
        on.fail("e")
        await trio.sleep(FOUND_S)
        on.registry.deregister(NodeId("e"))
        await wait_all_tasks_blocked()
        on.heal("e")
        await trio.sleep(CONFIG.max_check_interval_s + 30)
        assert on.registered == "abcd"
        on.node.lead(8)
        await wait_all_tasks_blocked()

        assert on.registered == "abcde"
        assert on.health.events[-1] == HealthEvent(
            HealthEventKind.REGISTERED, NodeId("e"), trio.current_time(), Term(8), None, "at at-e, as before"
        )


async def test_node_that_its_source_finds_unwell_is_taken_out_as_well(autojump_clock: MockClock) -> None:
    """A source with checks of its own withdraws a dead node before anybody here has: it is registered all the same."""
    async with bench() as on:
        on.fail("e")
        on.discovery._known.tell(on.registry.members, unwell=[NodeId("e")])
        await trio.sleep(0.01)
        assert (on.view, on.registered) == ("abcd", "abcde")
        await trio.sleep(GONE_S)

        assert on.registered == "abcd"
        assert on.kinds("e") == [HealthEventKind.DEREGISTERED]


async def test_node_that_registers_itself_while_unhealthy_gets_the_hold_anew(autojump_clock: MockClock) -> None:
    """A node that comes back by itself is not taken out in the same moment, but after another hold."""
    async with bench() as on:
        on.fail("e")
        await trio.sleep(GONE_S)
        assert on.registered == "abcd"
        on.registry.register(Member(NodeId("e"), "at-e"))
        await trio.sleep(CONFIG.deregister_after_s - 1)
        assert on.registered == "abcde"
        await trio.sleep(2)
        assert on.registered == "abcd"


async def test_events_and_views_are_told(autojump_clock: MockClock) -> None:
    """Events go to callbacks, views to whoever iterates, newest first; the snapshot is JSON."""
    async with bench() as on:
        heard: list[HealthEvent] = []
        on.health.on_event(heard.append)
        views = on.health.views()
        assert [member.node_id for member in await anext(views)] == list("abcde")
        on.fail("e")
        await trio.sleep(GONE_S)
        assert [member.node_id for member in await anext(views)] == list("abcd")
        assert heard == list(on.health.events)
        told = json.loads(json.dumps(on.health.snapshot()))
        assert (told["view"], told["out"]) == (["a", "b", "c", "d"], ["e"])
        assert told["events"][0]["kind"] == "deregistered"
        with trio.move_on_after(100) as scope:
            await anext(views)
        assert scope.cancelled_caught


async def test_long_illness_suggests_a_replacement_once(autojump_clock: MockClock) -> None:
    """A member that stays unhealthy is told to the operator, once; nothing is done about it."""
    async with bench() as on:
        on.fail("e")
        await trio.sleep(FOUND_S + CONFIG.suggest_replacement_after_s * 3)

        assert on.kinds("e") == [HealthEventKind.DEREGISTERED, HealthEventKind.REPLACEMENT_SUGGESTED]
        assert set(on.node.configuration.voters) == set("abcde")


async def test_view_waits_for_no_discovery(autojump_clock: MockClock) -> None:
    """While a removal waits for a discovery that does not answer, the view goes on following the checks."""
    async with bench("abcdefg", voters="a") as on:
        on.fail("g")
        await trio.sleep(FOUND_S + CONFIG.deregister_after_s - 15)
        on.discovery.fault = SourceFault.OUTAGE
        on.fail("f")
        with trio.fail_after(100):
            while on.health.checker.status("f") is not HealthStatus.UNHEALTHY:  # noqa: ASYNC110 - to see the very moment
                await trio.sleep(0.01)
        await trio.lowlevel.checkpoint()
        assert on.view == "abcde"


# --- Discovery that does not answer -----------------------------------------------------------------------------------


async def test_discovery_that_does_not_answer_is_tried_again(autojump_clock: MockClock) -> None:
    """A removal that discovery does not carry out is told, raises the score, and is tried again."""
    async with bench() as on:
        on.fail("e")
        await trio.sleep(FOUND_S)
        on.discovery.fault = SourceFault.OUTAGE
        await trio.sleep(CONFIG.deregister_after_s + 60)
        assert on.registered == "abcde"
        assert on.health.checker.own_score.score > 0
        assert HealthEventKind.FAILED in on.kinds("e") or Guard.OWN_HEALTH in on.kinds("e")

        on.discovery.fault = SourceFault.NONE
        await trio.sleep(200)
        assert on.registered == "abcd"
        assert on.health.checker.own_score.score == 0


@pytest.mark.parametrize("fault", [SourceFault.EMPTY, SourceFault.NONSENSE, SourceFault.STALE])
async def test_discovery_that_lies_stops_no_monitoring(fault: SourceFault, autojump_clock: MockClock) -> None:
    """Whatever the source answers, the members go on being monitored."""
    async with bench() as on:
        on.discovery.fault = fault
        await trio.sleep(100)

        assert on.monitored == "bcde"
        assert on.view == "abcde"


# --- Guards: each keeps what would be removed without it --------------------------------------------------------------


@pytest.mark.parametrize("without", [None, Guard.NOT_LEADER])
async def test_guard_not_leader(without: Guard | None, autojump_clock: MockClock) -> None:
    """A node that does not lead takes nobody out."""
    async with bench(without=without, leads=False) as on:
        on.fail("e")
        await trio.sleep(GONE_S)

        assert (on.registered == "abcd") == (without is not None)
        assert (Guard.NOT_LEADER in on.kinds("e")) == (without is None)


@pytest.mark.parametrize("without", [None, Guard.TERM])
async def test_guard_term(without: Guard | None, autojump_clock: MockClock) -> None:
    """A leader that has heard of a later term takes nobody out: it is fenced."""
    async with bench(without=without) as on:
        on.node.term = Term(8)
        on.fail("e")
        await trio.sleep(GONE_S)

        assert (on.registered == "abcd") == (without is not None)
        assert (Guard.TERM in on.kinds("e")) == (without is None)


@pytest.mark.parametrize("without", [None, Guard.OWN_HEALTH])
async def test_guard_own_health(without: Guard | None, autojump_clock: MockClock) -> None:
    """A checker whose event loop lags takes nobody out until it has recovered."""
    async with bench(without=without) as on:
        on.fail("e")
        for _ in range(int(GONE_S + 30)):
            on.health.checker.own_score.note(Sign.LOOP_LAG)
            await trio.sleep(1)
        assert (on.registered == "abcd") == (without is not None)
        assert (Guard.OWN_HEALTH in on.kinds("e")) == (without is None)

        await trio.sleep(200)
        assert on.registered == "abcd"


@pytest.mark.parametrize("without", [None, Guard.PANIC])
async def test_guard_panic(without: Guard | None, autojump_clock: MockClock) -> None:
    """With less than half of the nodes healthy nobody is taken out, and all get work: the checker doubts itself."""
    config = attrs.evolve(CONFIG, cliff_share=1.0)
    async with bench("abcdefg", config=config, without=without, voters="a") as on:
        for name in "defg":
            on.fail(name)
            await trio.sleep(5)
        await trio.sleep(GONE_S)

        assert on.view == on.registered
        assert (on.registered == "abcdefg") == (without is None)
        assert any(Guard.PANIC in on.kinds(name) for name in "defg") == (without is None)


@pytest.mark.parametrize("without", [None, Guard.CLIFF])
async def test_guard_cliff(without: Guard | None, autojump_clock: MockClock) -> None:
    """Of those that turn unhealthy together none is taken out for a while, also when the panic is over."""
    async with bench("abcde", without=without, voters="a") as on:
        for name in "cde":
            report = on.probes[name].report
            assert report is not None
            on.fail(name)
            report(DRAIN)
        await trio.sleep(15)
        on.heal("de")
        await trio.sleep(GONE_S)
        assert on.health.checker.status("c") is HealthStatus.UNHEALTHY
        assert on.health.checker.status("d") is HealthStatus.HEALTHY

        assert (on.registered == "abde") == (without is not None)
        assert (Guard.CLIFF in on.kinds("c")) == (without is None)
        await trio.sleep(CONFIG.cliff_hold_s)
        assert on.registered == "abde"


@pytest.mark.parametrize("without", [None, Guard.SHARE])
async def test_guard_share(without: Guard | None, autojump_clock: MockClock) -> None:
    """No more than a third of the nodes is out at a time, but one always may be."""
    async with bench("abcde", without=without, voters="a") as on:
        for name in "de":
            on.fail(name)
            await trio.sleep(20)
        await trio.sleep(GONE_S)

        assert len(on.registered) == (4 if without is None else 3)
        assert sum(Guard.SHARE in on.kinds(name) for name in "de") == (1 if without is None else 0)


@pytest.mark.parametrize("without", [None, Guard.QUORUM])
async def test_guard_quorum(without: Guard | None, autojump_clock: MockClock) -> None:
    """Never fewer voters than a quorum are registered, be there ever so many other nodes."""
    async with bench("abcdefghi", without=without, voters="abc") as on:
        for name in "bc":
            on.fail(name)
            await trio.sleep(20)
        await trio.sleep(GONE_S)

        assert len(on.registered) == (8 if without is None else 7)
        assert sum(Guard.QUORUM in on.kinds(name) for name in "bc") == (1 if without is None else 0)


def facts(**changes: Any) -> Facts:
    """Return what there is to know about the removal of "e", against which nothing speaks."""
    nodes = frozenset(map(NodeId, "abcde"))
    usual = Facts(
        node_id=NodeId("e"),
        own_id=ME,
        leading_term=Term(7),
        highest_term=Term(7),
        is_frozen=False,
        fell_in_cliff=False,
        nodes=nodes,
        well=nodes - {NodeId("e")},
        in_service=nodes,
        configuration=Configuration.of("abcde"),
    )
    return attrs.evolve(usual, **changes)


@pytest.mark.parametrize(
    ("changes", "guard"),
    [
        ({}, None),
        ({"node_id": ME}, Guard.SELF),
        ({"leading_term": None}, Guard.NOT_LEADER),
        ({"highest_term": Term(8)}, Guard.TERM),
        ({"is_frozen": True}, Guard.OWN_HEALTH),
        ({"well": frozenset("ab")}, Guard.PANIC),
        ({"well": frozenset("abc")}, None),
        ({"fell_in_cliff": True}, Guard.CLIFF),
        ({"in_service": frozenset("abce")}, Guard.SHARE),
        ({"in_service": frozenset("abce"), "nodes": frozenset("abcdefg")}, Guard.SHARE),
        ({"configuration": Configuration.of("ae")}, Guard.QUORUM),
        ({"configuration": Configuration.of("abc", old_voters="ae")}, Guard.QUORUM),
        ({"configuration": Configuration.of("abc")}, None),
    ],
)
def test_guards_say_what_stands_in_the_way(changes: dict[str, object], guard: Guard | None) -> None:
    """Each row: what is different from a removal against which nothing speaks, and the guard that speaks up."""
    assert blocking_guard(facts(**changes), CONFIG, frozenset(Guard)) is guard
    if guard is not None:
        assert blocking_guard(facts(**changes), CONFIG, frozenset(Guard) - {guard}) is not guard


# --- Flapping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_damped", [True, False])
async def test_flapping_node_is_damped(is_damped: bool, autojump_clock: MockClock) -> None:
    """A node that turns back and forth is kept out of the view longer and longer, instead of in and out of it."""
    config = attrs.evolve(CONFIG, flap_changes=5 if is_damped else 1_000_000)
    async with bench(config=config) as on:
        changes = 0
        seen = on.view
        report = on.probes["e"].report
        assert report is not None
        for turn in range(60):
            report(DRAIN if turn % 2 == 0 else OK)
            report(DRAIN if turn % 2 == 0 else OK)
            on.probes["e"].answer = DRAIN if turn % 2 == 0 else OK
            await trio.sleep(15)
            changes += on.view != seen
            seen = on.view

        assert (changes <= 8) if is_damped else (changes >= 50)
        assert on.registered == "abcde"
        # Well again for good, it has its work back after the hold at the latest.
        on.heal("e")
        await trio.sleep(config.max_flap_hold_s + 60)
        assert on.view == "abcde"
