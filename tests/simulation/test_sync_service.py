"""The sync service beside real nodes: its schedule, its calls by hand, and what a peer that is slow or gone means."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from clustercore import Node
from clustercore.interfaces import ConfigError, NodeId, NodeStopped, PeerTimeout, PeerUnreachable
from clustercore.sync import ClockStanding, EntityStore, SyncConfig, SyncService
from clustercore.sync.source import Source
from clustercore_memory import MemoryNetwork, MemoryRecords, MemoryStorage, MemoryTransport
from clustercore_retry import CategoryRetryPolicy
from clustercore_static import StaticDiscovery
from tests.simulation.cluster import Journal
from tests.simulation.sync_members import NAMES, are_equal, open_cluster
from tests.unit.sync.fleet import MISSION, UAV, Mission, Uav

pytestmark = pytest.mark.slow


async def test_members_are_in_step_after_the_first_session_and_after_each_interval(autojump_clock: MockClock) -> None:
    """Full at the start; an edit is everywhere after an interval and its jitter; nothing is left for full syncs."""
    async with open_cluster() as members:
        await members["a"].store.put(MISSION, "m", Mission("RUNNING", 10))
        await trio.sleep(40)
        assert are_equal(members)
        for number in range(20):
            await members["abc"[number % 3]].store.put(UAV, f"u{number}", Uav("idle", number))

        await trio.sleep(36)

        assert are_equal(members)
        await trio.sleep(600)
        statuses = [status for member in members.values() for status in member.service.status().values()]
        assert all(status.sessions["full"] in (2, 3) and status.sessions["incremental"] >= 15 for status in statuses)
        assert all(member.service.repaired_by_full == 0 for member in members.values())
        assert all(status.lag_s < 36 and status.lag_changes == 0 for status in statuses)


async def test_entity_is_sent_by_hand_to_all_others_at_once(autojump_clock: MockClock) -> None:
    """Also a deletion; and what the call says must be what the store says."""
    async with open_cluster(config=SyncConfig(incremental_interval_s=1e6)) as members:
        a = members["a"]
        await trio.sleep(1)
        await a.store.put(MISSION, "m", Mission("RUNNING", 10))

        results = await a.service.sync(MISSION, "m", "create")

        assert [(result.peer, result.error, result.applied) for result in results] == [("b", None, 2), ("c", None, 2)]
        assert are_equal(members)
        await a.store.delete(MISSION, "m")
        with pytest.raises(ConfigError, match="is deleted here"):
            await a.service.sync(MISSION, "m", "update")
        await a.service.sync("mission", "m", "delete")
        assert members["c"].store.get(MISSION, "m") is None
        with pytest.raises(ConfigError, match="there is nothing of mission 'other'"):
            await a.service.sync(MISSION, "other", "update")
        with pytest.raises(ConfigError, match="must be"):
            await a.service.sync(MISSION, "m", "upsert")  # type: ignore[arg-type]  # which is no operation


@pytest.mark.parametrize("incremental", [True, False])
async def test_sync_all_fetches_from_all_and_lets_all_fetch(incremental: bool, autojump_clock: MockClock) -> None:
    """What was written on any of them is on all of them soon after the call."""
    async with open_cluster(config=SyncConfig(incremental_interval_s=1e6)) as members:
        await trio.sleep(1)
        await members["a"].service.sync_all()
        for name, member in members.items():
            await member.store.put(UAV, name, Uav("idle"))

        results = await members["a"].service.sync_all(incremental=incremental)
        await trio.sleep(1)

        assert [result.session.kind.value for result in results if result.session] == [
            "incremental" if incremental else "full"
        ] * 2
        assert {name for name in NAMES if members["a"].store.get(UAV, name)} == {"a", "b", "c"}
        assert [member.store.get(UAV, "a") for member in members.values()] == [Uav("idle")] * 3
        with pytest.raises(ConfigError, match="no kind 'drone'"):
            await members["a"].service.sync_all("drone")


async def test_sync_all_of_a_kind_fetches_that_alone_by_a_checkpoint_of_its_own(autojump_clock: MockClock) -> None:
    """Full at first, then increments; other kinds wait for their turn, and what came twice is a duplicate."""
    async with open_cluster(config=SyncConfig(incremental_interval_s=1e6, window_s=0)) as members:
        await trio.sleep(1)
        a, b = members["a"], members["b"]
        await a.service.sync_all()
        before = a.service.status()[NodeId("b")].last_success_at
        for number in range(3):
            await b.store.put(UAV, f"u{number}", Uav("idle"))
            await b.store.put(MISSION, f"m{number}", Mission("PLANNED", 0))
            await trio.sleep(1)
            results = await a.service.sync_all(UAV)

            sessions = [result.session for result in results if result.session]
            assert [session.kind.value for session in sessions] == ["incremental" if number else "full"] * 2
            assert sessions[0].applied == 3
            assert a.store.get(UAV, f"u{number}") == Uav("idle")
            assert not list(a.store.ids(MISSION))

        # The others are asked for the same.
        await a.store.put(UAV, "mine", Uav("idle"))
        await a.store.put(MISSION, "mine", Mission("PLANNED", 0))
        await a.service.sync_all(UAV)
        await trio.sleep(1)
        assert b.store.get(UAV, "mine") == Uav("idle")
        assert b.store.get(MISSION, "mine") is None

        # Nothing is said of being in step, nor of what has been seen of deletions.
        assert a.service.status()[NodeId("b")].last_success_at == before
        await b.store.delete(UAV, "u0")
        await a.service.sync_all(UAV)
        await a.service.sync_all(UAV)
        assert a.store.get(UAV, "u0") is None
        assert b.service.acknowledged([NodeId("a")])[NodeId("a")] < b.store.seq - 5

        await a.service.sync_all()
        await trio.sleep(1)
        assert set(a.store.ids(MISSION)) == {"m0", "m1", "m2", "mine"}
        assert are_equal(members, "ab")
        status = a.service.status()[NodeId("b")]
        assert status.duplicate >= 7
        assert a.service.repaired_by_full == 0
        full = await a.service.sync_all("mission", incremental=False)
        assert [result.session.kind.value for result in full if result.session] == ["full", "full"]


async def test_schedule_waits_to_be_started_where_it_is_told_to(autojump_clock: MockClock) -> None:
    """Until then peers are answered, and calls by hand work; nothing else is fetched."""
    async with open_cluster(start=False) as members:
        await members["a"].store.put(UAV, "u", Uav("idle"))
        await trio.sleep(100)
        assert members["b"].service.status() == {}

        members["b"].service.start_sync_service()
        await trio.sleep(5)

        assert members["b"].store.get(UAV, "u") == Uav("idle")
        assert members["c"].store.get(UAV, "u") is None


async def test_slow_peer_delays_only_itself(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """c never answers a pull; a and b are in step with each other as ever, and say what is wrong with c."""
    pull = Source.pull
    is_slow = False

    async def be_slow(self: Source, request: object) -> object:
        if is_slow and self._store.node_id == "c":
            await trio.sleep_forever()
        return await pull(self, request)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(Source, "pull", be_slow)
    async with open_cluster(retry=CategoryRetryPolicy()) as members:
        await trio.sleep(1)
        is_slow = True
        before = members["a"].service.status()[NodeId("b")].failures
        for number in range(10):
            await members["ab"[number % 2]].store.put(UAV, f"u{number}", Uav("idle"))
            await trio.sleep(36)
            assert are_equal(members, "ab")

        status = members["a"].service.status()
        assert status[NodeId("b")].failures == before
        assert status[NodeId("c")].failures > 5
        assert "did not answer" in status[NodeId("c")].last_error
        # Retried within the slot, by the policy.
        assert status[NodeId("c")].failures > 360 / 30
        # c itself fetches from the others, and they from each other what came by way of c.
        assert are_equal(members)


async def test_peer_that_is_gone_is_told_by_name_and_comes_back_in_step(autojump_clock: MockClock) -> None:
    """A call by hand says whom it did not reach; the schedule keeps trying."""
    async with open_cluster() as members:
        await trio.sleep(1)
        members["c"].stop()
        await trio.sleep(1)
        await members["a"].store.put(UAV, "u", Uav("idle"))

        results = await members["a"].service.sync(UAV, "u")

        assert [result.peer for result in results if result.error is None] == ["b"]
        assert isinstance(results[1].error, PeerUnreachable | PeerTimeout)
        with pytest.raises(NodeStopped):
            await members["c"].service.sync_all()


async def test_service_of_another_nodes_store_is_refused() -> None:
    """Two nodes must never write under one name."""
    async with EntityStore(NodeId("x"), [UAV], MemoryRecords()) as store:
        node = Node(
            "a",
            machine=Journal(),
            transport=MemoryTransport(MemoryNetwork(), "a"),
            storage=MemoryStorage(),
            discovery=StaticDiscovery({"a": "a"}),
            companions=[SyncService(store)],
        )
        with pytest.raises(ConfigError, match="store is of node 'x'"):
            async with node:
                pass


async def test_acknowledged_says_what_each_peer_durably_holds(autojump_clock: MockClock) -> None:
    """By it tombstones are collected: what not all have seen stays."""
    async with open_cluster() as members:
        a = members["a"]
        await a.store.put(UAV, "u", Uav("idle"))
        await trio.sleep(80)

        peers = [NodeId("b"), NodeId("c"), NodeId("never")]

        assert a.service.acknowledged(peers) == {"b": a.store.seq, "c": a.store.seq, "never": 0}


async def test_node_whose_clock_is_off_says_so_of_itself_until_it_is_set_right(autojump_clock: MockClock) -> None:
    """Of three one is 450 ms ahead: it alone is told, once, and is degraded by its own word."""
    ahead_ms = {"b": 450}
    told: list[ClockStanding] = []
    async with open_cluster(ahead_ms=ahead_ms, on_clock_change=told.append) as members:
        await trio.sleep(100)
        offset = members["a"].service.status()[NodeId("b")].clock
        assert offset is not None
        assert abs(offset.offset_ms - 450) <= offset.error_ms < 10
        assert offset.age_s < 36
        standings = {name: member.service.clock_standing() for name, member in members.items()}
        assert {name for name, standing in standings.items() if standing.is_off} == {"b"}
        assert [(standing.is_off, standing.against) for standing in told] == [(True, ("a", "c"))]
        degraded = {name: member.node.status().health.degraded for name, member in members.items()}
        assert degraded == {"a": "", "b": "its wall clock is 450 ms ahead of those of most members", "c": ""}

        ahead_ms["b"] = 0
        await trio.sleep(40)

        assert [standing.is_off for standing in told] == [True, False]
        assert {member.node.status().health.degraded for member in members.values()} == {""}


async def test_node_between_two_wrong_clocks_accuses_itself_of_nothing(autojump_clock: MockClock) -> None:
    """Those on either side are each far from both others; it is not, though it agrees with neither."""
    told: list[ClockStanding] = []
    async with open_cluster(ahead_ms={"b": 60_000, "c": -60_000}, on_clock_change=told.append) as members:
        await trio.sleep(100)

        assert [member.service.clock_standing().is_off for member in members.values()] == [False, True, True]
        assert sorted(standing.offset_ms for standing in told) == [
            pytest.approx(-90_000, abs=20),
            pytest.approx(90_000, abs=20),
        ]
