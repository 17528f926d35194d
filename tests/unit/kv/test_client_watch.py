"""A client's watch: every change once and in order, across lost connections and nodes, or a clear end."""

from __future__ import annotations

from random import Random

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import InvalidCommand, LinkClosed, PeerTimeout, ServiceError
from clustercore_kv import Delete, KeyValueClient, KeyValueMachine, KeyValueWatch, KvEvent, Put, WatchFellBehind
from tests.unit.kv.fakes import FakeNode, FakeTransport, do


class Cluster:
    """Two nodes that apply the same commands, a transport to them, and a client that begins with the first."""

    def __init__(self, history_events: int = 1000) -> None:
        self.nodes = [FakeNode(KeyValueMachine(history_events=history_events)) for _ in range(2)]
        self.transport = FakeTransport()
        for address, node in zip("ab", self.nodes, strict=True):
            self.transport.host(address, node)
        self.client = KeyValueClient(self.transport, ["a", "b"], rng=Random(1))

    def do(self, command: Put | Delete) -> None:
        """Apply a command on both nodes."""
        for node in self.nodes:
            do(node.machine, command)


async def take(watch: KeyValueWatch, count: int) -> list[KvEvent]:
    """Return the next changes, which must come."""
    with trio.fail_after(10):
        return [await watch.__anext__() for _ in range(count)]


async def test_watch_tells_every_change_after_it_began() -> None:
    """Once inside the block, every change of the prefix is told in order."""
    cluster = Cluster()
    cluster.do(Put("k", b"0"))

    async with cluster.client.watch("k") as watch:
        assert watch.revision == 1
        cluster.do(Put("k", b"1"))
        cluster.do(Put("other", b""))
        cluster.do(Delete("k"))

        assert await take(watch, 2) == [KvEvent("k", b"1", 2), KvEvent("k", None, 4)]
        assert watch.revision == 4


async def test_watch_goes_on_from_a_scan() -> None:
    """A watch after a scan's applied index misses nothing in between and repeats nothing."""
    cluster = Cluster()
    cluster.do(Put("k", b"1"))
    page = await cluster.client.scan("k", local=True)
    cluster.do(Put("k", b"2"))

    async with cluster.client.watch("k", after_revision=page.applied_index) as watch:
        assert await take(watch, 1) == [KvEvent("k", b"2", 2)]


@pytest.mark.parametrize("error", [LinkClosed("cut"), PeerTimeout("silent"), trio.EndOfChannel()])
async def test_watch_goes_on_at_another_node(error: Exception) -> None:
    """When the stream is cut, however that shows, the watch goes on elsewhere without a gap or a repetition."""
    cluster = Cluster()
    cluster.transport.cut_error = error

    async with cluster.client.watch("k") as watch:
        told: list[KvEvent] = []
        for address in ("a", "b", "a"):
            assert cluster.transport.asked[-1] == address
            for _ in range(2):
                cluster.do(Put("k", b""))
                told += await take(watch, 1)
            cluster.transport.cut(address)
            cluster.do(Put("k", b""))
            told += await take(watch, 1)

    assert [event.revision for event in told] == list(range(1, 10))
    assert cluster.transport.asked == ["a", "b", "a", "b"]


async def test_watch_goes_on_at_node_that_lags() -> None:
    """At a node that has applied less than was told already, nothing is told twice."""
    cluster = Cluster()

    async with cluster.client.watch("k") as watch:
        do(cluster.nodes[0].machine, Put("k", b"1"))
        do(cluster.nodes[0].machine, Put("k", b"2"))
        assert [event.revision for event in await take(watch, 2)] == [1, 2]
        cluster.transport.down("a")
        await wait_all_tasks_blocked()
        for value in (b"1", b"2", b"3"):
            do(cluster.nodes[1].machine, Put("k", value))

        assert await take(watch, 1) == [KvEvent("k", b"3", 3)]


async def test_watch_waits_for_a_node(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    """Entering waits until some node answers."""
    cluster = Cluster()
    cluster.transport.down("a")
    cluster.transport.down("b")

    async def come_back() -> None:
        await trio.sleep(5)
        cluster.transport.host("b", cluster.nodes[1])

    nursery.start_soon(come_back)
    async with cluster.client.watch() as watch:
        assert trio.current_time() >= 5
        cluster.do(Put("k", b""))
        assert await take(watch, 1) == [KvEvent("k", b"", 1)]


async def test_slow_watch_is_told_it_fell_behind() -> None:
    """A reader slower than the history raises once it has returned what it was told, and again each time it asks."""
    cluster = Cluster(history_events=10)

    async with cluster.client.watch() as watch:
        for _ in range(5):
            cluster.do(Put("k", b""))
            await wait_all_tasks_blocked()
        for _ in range(50):
            cluster.do(Put("k", b""))

        told: list[int] = []

        async def read_on() -> None:
            async for event in watch:
                told.append(event.revision)

        with pytest.raises(WatchFellBehind) as raised:
            await read_on()
        assert told == list(range(1, len(told) + 1))
        assert raised.value.revision == told[-1]
        assert raised.value.oldest_revision == 45
        with pytest.raises(WatchFellBehind):
            await watch.__anext__()


async def test_watch_from_revision_no_longer_held_does_not_start() -> None:
    """Asking for changes that no node holds any more raises on entering, with the oldest revision that works."""
    cluster = Cluster(history_events=2)
    for _ in range(5):
        cluster.do(Put("k", b""))

    with pytest.raises(WatchFellBehind) as raised:
        async with cluster.client.watch(after_revision=1):
            pass

    assert (raised.value.revision, raised.value.oldest_revision) == (1, 3)


async def test_watch_of_impossible_prefix_is_refused() -> None:
    """A prefix that no key can have is refused before anything is sent."""
    cluster = Cluster()

    with pytest.raises(InvalidCommand):
        async with cluster.client.watch("p" * 1025):
            pass

    assert cluster.transport.asked == []


async def test_watch_where_no_such_service_answers_ends() -> None:
    """ServiceError is not tried elsewhere."""
    cluster = Cluster()
    cluster.transport.before["a"].append(ServiceError("no such method"))

    with pytest.raises(ServiceError):
        async with cluster.client.watch():
            pass


async def test_error_in_the_block_comes_out_as_it_is() -> None:
    """An exception raised inside the block is not wrapped in a group by the watch's own nursery."""
    cluster = Cluster()

    with pytest.raises(KeyError, match="mine"):
        async with cluster.client.watch():
            raise KeyError("mine")


async def test_watch_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    """Leaving the block, by its end or by cancellation, ends the stream and the watch."""
    cluster = Cluster()

    with trio.move_on_after(1) as scope:
        async with cluster.client.watch() as cancelled:
            await cancelled.__anext__()
    assert scope.cancelled_caught
    async with cluster.client.watch() as watch:
        pass

    with pytest.raises(LinkClosed):
        await watch.__anext__()


async def test_timeout_around_one_change_loses_none(autojump_clock: trio.testing.MockClock) -> None:
    """A reader may give up waiting for the next change and ask again; the stream is not disturbed."""
    cluster = Cluster()

    async with cluster.client.watch() as watch:
        with trio.move_on_after(1):
            await watch.__anext__()
        cluster.do(Put("k", b"1"))
        cluster.do(Put("k", b"2"))

        assert [event.revision for event in await take(watch, 2)] == [1, 2]
    assert cluster.transport.asked == ["a"]
