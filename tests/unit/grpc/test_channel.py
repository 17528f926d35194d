"""How calls share the connections to one address: how many there are, who waits, and when one is opened again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore.interfaces import PeerUnreachable, QueueFull
from clustercore_grpc import ChannelState
from clustercore_grpc.channel import Channel, PoolOptions
from clustercore_grpc.errors import StreamBroken

ADDRESS = "n1:7101"


@attrs.define(eq=False)
class FakeConnection:
    """A connection that carries two streams at once; a stream is a number."""

    stream_count: int = 0
    end_reason: str | None = None
    going_away: str | None = None
    waiting: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    @property
    def has_room(self) -> bool:
        return self.stream_count < 2

    @property
    def waiting_count(self) -> int:
        return len(self.waiting)

    def abort(self, reason: str) -> None:
        self.end_reason = reason
        self.waiting.unpark_all()

    async def open_stream(self, headers: list[tuple[str, str]], request: bytes) -> int:
        while not self.has_room and self.end_reason is None and self.going_away is None:
            await self.waiting.park()
        if self.end_reason or self.going_away:
            raise StreamBroken(self.end_reason or self.going_away)
        self.stream_count += 1
        return self.stream_count

    def close_stream(self) -> None:
        self.stream_count -= 1
        self.waiting.unpark()


class Bench:
    """A channel, and what it dialled."""

    def __init__(self, *, most: int = 1, pending: int = 100, waits: bool = False) -> None:
        self.made: list[FakeConnection] = []
        # When it dialled, in Trio's time.
        self.attempts: list[float] = []
        self.is_up = True
        self.hold = trio.Event()
        self.hold.set()
        dial: Callable[[str], Any] = self.dial
        self.channel = Channel(ADDRESS, dial, PoolOptions(most, pending, waits))

    async def dial(self, address: str) -> FakeConnection:
        assert address == ADDRESS
        self.attempts.append(trio.current_time())
        await self.hold.wait()
        if not self.is_up:
            raise PeerUnreachable(f"no connection to {ADDRESS}: refused")
        self.made.append(FakeConnection())
        return self.made[-1]

    async def open(self) -> FakeConnection:
        """Open a stream; return the connection it is on."""
        opened: Any = await self.channel.open_stream(list, b"")
        connection: FakeConnection = opened[0]
        return connection


# --- How many ---------------------------------------------------------------------------------------------------------


async def test_calls_share_one_connection_while_it_has_room() -> None:
    """The second one opens no other, even if it comes while the first is connecting."""
    bench = Bench(most=4)
    bench.hold = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.open)
        nursery.start_soon(bench.open)
        await wait_all_tasks_blocked()
        bench.hold.set()

    assert [connection.stream_count for connection in bench.made] == [2]


async def test_full_connection_gets_another_beside_it_up_to_the_limit() -> None:
    """Two streams each on three connections; the seventh waits for a place, and gets the first that is free."""
    bench = Bench(most=3)
    for _ in range(6):
        await bench.open()
    assert [connection.stream_count for connection in bench.made] == [2, 2, 2]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.open)
        await wait_all_tasks_blocked()
        assert sum(connection.waiting_count for connection in bench.made) == 1
        next(connection for connection in bench.made if connection.waiting_count).close_stream()
    assert [connection.stream_count for connection in bench.made] == [2, 2, 2]


async def test_those_who_wait_spread_over_the_connections() -> None:
    """Each joins the shortest queue."""
    bench = Bench(most=2)
    for _ in range(4):
        await bench.open()

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(bench.open)
            await wait_all_tasks_blocked()
        assert [connection.waiting_count for connection in bench.made] == [2, 2]
        nursery.cancel_scope.cancel()


async def test_connection_beyond_the_first_is_closed_when_it_is_not_used(autojump_clock: MockClock) -> None:
    """A minute after its last call, at the next one."""
    bench = Bench(most=2)
    for _ in range(3):
        await bench.open()
    bench.made[1].close_stream()
    bench.made[0].close_stream()
    await trio.sleep(59)
    await bench.open()
    assert bench.made[1].end_reason is None
    bench.made[0].close_stream()
    await trio.sleep(2)

    await bench.open()

    assert [connection.end_reason for connection in bench.made] == [None, "unused"]


async def test_connection_that_goes_away_is_replaced_and_its_waiters_move() -> None:
    """No call fails for it."""
    bench = Bench()
    await bench.open()
    await bench.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.open)
        await wait_all_tasks_blocked()
        bench.made[0].going_away = "GOAWAY"
        bench.made[0].waiting.unpark_all()

    assert [connection.stream_count for connection in bench.made] == [2, 1]


# --- Who waits --------------------------------------------------------------------------------------------------------


async def test_no_more_calls_wait_than_are_allowed() -> None:
    """The next one fails at once with nothing sent; a call that needs not wait is never refused for it."""
    bench = Bench(pending=2)
    await bench.open()
    await bench.open()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(bench.open)
        await wait_all_tasks_blocked()
        with pytest.raises(QueueFull, match="2 calls wait already, which is all that max_pending allows"):
            await bench.open()
        nursery.cancel_scope.cancel()
    bench.made[0].close_stream()

    await bench.open()


async def test_cancelled_calls_do_not_count_among_those_who_wait() -> None:
    """Wherever they were."""
    bench = Bench(pending=1)
    bench.hold = trio.Event()
    for _ in range(3):
        with trio.move_on_after(0):
            await bench.open()
    bench.hold.set()
    for _ in range(2):
        await bench.open()
    for _ in range(3):
        with trio.move_on_after(0):
            await bench.open()
    bench.made[0].close_stream()

    await bench.open()


# --- Connecting again -------------------------------------------------------------------------------------------------


async def fail(bench: Bench) -> str:
    """Make a call that finds nobody; return what it is told."""
    with pytest.raises(PeerUnreachable) as caught:
        await bench.open()
    return str(caught.value)


async def test_attempts_are_further_and_further_apart(autojump_clock: MockClock) -> None:
    """100 ms, times 1.6, up to 3 s, each by a fifth more or less; a call in between fails at once and says when."""
    bench = Bench()
    bench.is_up = False
    for _ in range(4000):
        assert ADDRESS in await fail(bench)
        await trio.sleep(0.01)

    waits = [later - earlier for earlier, later in zip(bench.attempts, bench.attempts[1:], strict=False)]
    middles = [0.1, 0.16, 0.256, 0.41, 0.655, 1.049, 1.678, 2.684, 3, 3]
    for wait, middle in zip(waits, middles, strict=False):
        assert 0.8 * middle <= wait <= 1.2 * middle + 0.02
    assert len(waits) > len(middles)
    assert "refused; the next attempt is due in" in await fail(bench)


async def test_success_begins_the_waits_anew(autojump_clock: MockClock) -> None:
    """A peer that was reached and is lost again is tried again soon."""
    bench = Bench()
    bench.is_up = False
    for _ in range(1000):
        await fail(bench)
        await trio.sleep(0.01)
    bench.is_up = True
    await trio.sleep(4)
    await bench.open()
    bench.made[0].abort("lost")
    bench.is_up = False
    await fail(bench)
    await trio.sleep(0.13)
    before = len(bench.attempts)

    await fail(bench)

    assert len(bench.attempts) == before + 1


async def test_peer_that_was_heard_is_tried_at_once(autojump_clock: MockClock) -> None:
    """It need not wait for the moment that was set before."""
    bench = Bench()
    bench.is_up = False
    for _ in range(2000):
        await fail(bench)
        await trio.sleep(0.01)
    bench.is_up = True
    assert "the next attempt is due" in await fail(bench)

    bench.channel.heard()

    await bench.open()


async def test_call_waits_for_the_next_attempt_if_it_is_to(autojump_clock: MockClock) -> None:
    """``wait_for_ready``: no call fails, however often connecting does."""
    bench = Bench(waits=True)
    bench.is_up = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.open)
        nursery.start_soon(bench.open)
        await trio.sleep(10)
        assert 6 <= len(bench.attempts) <= 12
        bench.is_up = True

    assert [connection.stream_count for connection in bench.made] == [2]


async def test_failure_to_open_another_connection_fails_no_call(autojump_clock: MockClock) -> None:
    """There is one that works: the call waits for a place there."""
    bench = Bench(most=2)
    await bench.open()
    await bench.open()
    bench.is_up = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.open)
        nursery.start_soon(bench.open)
        await trio.sleep(0.01)
        assert len(bench.attempts) == 2
        for _ in range(2):
            bench.made[0].close_stream()


async def test_states_are_told(autojump_clock: MockClock) -> None:
    """All six."""
    bench = Bench()
    states = [bench.channel.state]
    bench.is_up = False
    await fail(bench)
    states.append(bench.channel.state)
    await trio.sleep(1)
    states.append(bench.channel.state)
    bench.is_up, bench.hold = True, trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.open)
        await wait_all_tasks_blocked()
        states.append(bench.channel.state)
        bench.hold.set()
    states.append(bench.channel.state)
    bench.made[0].going_away = "GOAWAY"
    states.append(bench.channel.state)
    bench.channel.shut("unused")
    states.append(bench.channel.state)

    assert states == [
        ChannelState.IDLE,
        ChannelState.TRANSIENT_FAILURE,
        ChannelState.IDLE,
        ChannelState.CONNECTING,
        ChannelState.READY,
        ChannelState.DRAINING,
        ChannelState.SHUTDOWN,
    ]
    assert bench.made[0].end_reason == "unused"
