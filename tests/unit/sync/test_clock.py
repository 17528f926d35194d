"""HybridLogicalClock: readings go up, whatever the wall clock does, and follow no peer too far."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from clustercore.interfaces import ConfigError, HybridTime, NodeId
from clustercore.sync import (
    ClockTooFarAhead,
    EntityStore,
    HybridLogicalClock,
    MergeOutcome,
    OffsetPolicy,
    StoreEvent,
)
from clustercore.sync.clock import BOUND_AHEAD_MS, system_time_ms
from clustercore_memory import MemoryRecords
from tests.unit.sync.fleet import UAV, Uav, Wall, exchange, make_store

HOUR_MS = 3_600_000


@given(st.lists(st.tuples(st.integers(-HOUR_MS, HOUR_MS), st.integers(0, 2 * HOUR_MS)), max_size=15))
def test_readings_go_up_whatever_the_clocks_do(steps: list[tuple[int, int]]) -> None:
    """Steps of an hour either way, and peers anywhere: each reading is above the last, and above what was taken in."""
    wall = Wall()
    clock = HybridLogicalClock(wall)
    floor = HybridTime(0)
    for step_ms, peer_ms in steps:
        wall.now_ms += step_ms
        peer = HybridTime(wall.now_ms - HOUR_MS + peer_ms, 7)
        if clock.observe(peer):
            floor = max(floor, peer)
        reading = clock.read_nowait()
        assert reading is not None
        assert reading > floor
        floor = reading


def test_reading_is_the_wall_clock_where_that_goes_up() -> None:
    """A new millisecond starts at logical 0; within one, and while the wall clock is behind, the rest counts up."""
    wall = Wall(1000)
    clock = HybridLogicalClock(wall)
    assert [clock.read_nowait() for _ in range(2)] == [HybridTime(1000), HybridTime(1000, 1)]
    wall.now_ms = 1001
    assert clock.read_nowait() == HybridTime(1001)
    wall.now_ms = 400
    assert clock.read_nowait() == HybridTime(1001, 1)
    assert clock.report().backward_jumps == 1
    assert clock.report().largest_backward_jump_ms == 601
    assert clock.report().ahead_ms == 601
    assert abs(system_time_ms() - HybridLogicalClock().wall()) < 60_000


def test_bounds_are_checked() -> None:
    """No offset at all cannot be asked of clocks."""
    with pytest.raises(ConfigError, match="max_offset_ms"):
        HybridLogicalClock(max_offset_ms=0)


@pytest.mark.parametrize(
    ("policy", "is_taken", "follows_to"),
    [
        (OffsetPolicy.QUARANTINE, False, 1000),
        (OffsetPolicy.CLAMP, True, 1500),
        (OffsetPolicy.ACCEPT, True, 9000),
    ],
)
def test_peer_too_far_ahead_is_followed_as_the_policy_says(
    policy: OffsetPolicy, is_taken: bool, follows_to: int
) -> None:
    """Within the offset every peer is followed; beyond it not at all, to the bound, or all the way."""
    clock = HybridLogicalClock(Wall(1000), policy=policy)
    assert clock.observe(HybridTime(1500, 3))
    assert clock.read_nowait() == HybridTime(1500, 4)

    clock = HybridLogicalClock(Wall(1000), policy=policy)
    assert clock.observe(HybridTime(9000)) is is_taken
    assert clock.report().refused == 1
    reading = clock.read_nowait()
    assert reading is not None
    assert reading.physical_ms == follows_to


async def test_millisecond_that_is_used_up_is_waited_for(mock_clock: MockClock) -> None:
    """After 65,536 readings the clock waits for the next millisecond, and says that it did."""
    mock_clock.autojump_threshold = 0
    start = trio.current_time()
    clock = HybridLogicalClock(lambda: 1000 + round((trio.current_time() - start) * 1000))
    for _ in range(2**16):
        assert clock.read_nowait() is not None
    assert clock.read_nowait() is None

    assert await clock.read() == HybridTime(1001)
    assert clock.report().waits == 1


async def test_wall_clock_that_does_not_come_is_not_waited_for(mock_clock: MockClock) -> None:
    """If the wall clock was set back by an hour, the clock goes on without it rather than wait an hour."""
    mock_clock.autojump_threshold = 0
    clock = HybridLogicalClock(Wall(1000), bound_ms=1000 + HOUR_MS)
    assert await clock.read() == HybridTime(1001 + HOUR_MS)
    assert await clock.read() == HybridTime(1001 + HOUR_MS, 1)
    # And one that stands is waited for as long as the bound may be ahead.
    stands = HybridLogicalClock(Wall(1000), bound_ms=1500)
    before = trio.current_time()
    assert (await stands.read()).physical_ms == 1501
    assert 0 < trio.current_time() - before < 2 * BOUND_AHEAD_MS / 1000


async def test_no_reading_is_repeated_after_a_crash(mock_clock: MockClock) -> None:
    """A store that was killed reads above all that it may have stamped, though its wall clock is set back by 5 s."""
    mock_clock.autojump_threshold = 0
    start = trio.current_time()
    offset_ms = 0

    def wall() -> int:
        return 1_700_000_000_000 + offset_ms + round((trio.current_time() - start) * 1000)

    records = MemoryRecords()
    store = make_store("a", records=records, wall=wall)
    await store.__aenter__()
    stamped = []
    for number in range(20):
        await store.put(UAV, "u1", Uav(str(number)))
        stamped.append(store.stamps(UAV, "u1")["status"].hybrid_time)
        await trio.sleep(0.7)
    # Killed: nothing is said in parting.
    await records.__aexit__(None, None, None)

    offset_ms = -5_000
    async with make_store("a", records=records, wall=wall) as again:
        await again.put(UAV, "u1", Uav("back"))
        assert again.stamps(UAV, "u1")["status"].hybrid_time > max(stamped)


async def test_write_too_far_ahead_waits_for_its_time() -> None:
    """It is held, with an event, over a restart too; this node's clock does not follow; it is taken when it is due."""
    told: list[StoreEvent] = []
    records, wall, fast = MemoryRecords(), Wall(1000), Wall(31_000)
    async with make_store("b", wall=fast) as b:
        async with make_store("a", wall=wall, records=records, on_event=told.append) as a:
            await b.put(UAV, "u1", Uav("idle"))
            report = await a.apply(b.changes().changes, NodeId("b"))

            assert set(report.outcomes) == {MergeOutcome.HELD}
            assert a.held == 3
            assert a.get(UAV, "u1") is None
            event = told[0]
            assert isinstance(event, ClockTooFarAhead)
            assert (event.kind, event.entity_id, event.ahead_ms) == ("uav", "u1", 30_000)
            assert a.clock.last_ms < 1500
            await b.update(UAV, "u1", status="busy")
            await a.apply(b.changes().changes, NodeId("b"))
            assert a.held == 3

        wall.now_ms = 30_600
        async with make_store("a", wall=wall, records=records) as a:
            assert a.held == 3
            await a.release_held()
            assert a.held == 0
            assert a.get(UAV, "u1") == Uav("busy")
            assert a.canonical_bytes() == b.canonical_bytes()


async def test_writes_that_wait_are_looked_at_when_they_are_due() -> None:
    """However many there are, one that is not due costs nothing, and each is taken in its time, whatever came to it."""
    looked: list[int] = []

    class Counting(HybridLogicalClock):
        def takes(self, time: HybridTime) -> bool:
            looked.append(time.physical_ms)
            return super().takes(time)

    wall, fast = Wall(1000), Wall(100_000)
    clock = Counting(wall)
    async with (
        make_store("b", wall=fast) as b,
        EntityStore(NodeId("a"), [UAV], MemoryRecords(), clock=clock) as a,
    ):
        for number in range(50):
            fast.now_ms += 1000
            await b.put(UAV, f"u{number}", Uav("idle"))
        await a.apply(b.changes().changes, NodeId("b"))
        fast.now_ms += 1000
        await b.update(UAV, "u0", status="busy")
        await a.apply(b.changes().changes, NodeId("b"))
        assert a.held == 150

        looked.clear()
        await a.apply(())
        assert len(looked) == 1
        for number in range(1, 50):
            wall.now_ms = 100_500 + 1000 * number
            await a.apply(())
            assert a.get(UAV, f"u{number - 1}") == (Uav("idle") if number > 1 else None)
        wall.now_ms = fast.now_ms
        await a.release_held()
        assert a.held == 0
        assert a.canonical_bytes() == b.canonical_bytes()


async def test_write_too_far_ahead_can_be_taken() -> None:
    """By another policy it is applied at once, and told of all the same."""
    told: list[StoreEvent] = []
    clock = HybridLogicalClock(Wall(1000), policy=OffsetPolicy.CLAMP)
    async with (
        make_store("b", wall=Wall(31_000)) as b,
        EntityStore(NodeId("a"), [UAV], MemoryRecords(), clock=clock, on_event=told.append) as a,
    ):
        await b.put(UAV, "u1", Uav("idle"))
        await exchange(a, b)
        assert a.get(UAV, "u1") == Uav("idle")
        assert {type(event) for event in told} == {ClockTooFarAhead}
        # Versions, not clocks, order what follows.
        await a.update(UAV, "u1", status="busy")
        await exchange(a, b)
        assert b.get(UAV, "u1") == Uav("busy")
