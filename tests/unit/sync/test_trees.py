"""The digest trees of a store: that they follow it, also where its log does not tell all."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.sync.schedule import SyncKind
from clustercore.sync.trees import DigestTrees
from tests.unit.sync.fleet import UAV, Uav, Wall, make_store
from tests.unit.sync.pairs import open_replica


async def test_trees_forget_what_was_collected() -> None:
    """They are those of a store that never had it."""
    async with make_store("a") as a:
        trees = DigestTrees(a)
        for name in ("u1", "u2"):
            await a.put(UAV, name, Uav("idle"))
        await trees.catch_up()
        await a.delete(UAV, "u1")
        await a.collect_tombstones({}, grace_s=-1)

        await trees.catch_up()

        afresh = DigestTrees(a)
        await afresh.catch_up()
        assert (trees.root("uav"), trees.seq) == (afresh.root("uav"), afresh.seq)
        assert len(trees.of("uav")) == 3


async def test_trees_forget_what_was_collected_behind_a_later_change() -> None:
    """A deletion that came late and is old goes first, and the one before it later: the floor of the log stays."""
    wall = Wall()
    async with make_store("a", wall=wall) as a, make_store("b", wall=wall) as b:
        await b.put(UAV, "old", Uav("idle"))
        await b.delete(UAV, "old")
        wall.now_ms += 1000
        await a.put(UAV, "young", Uav("idle"))
        await a.delete(UAV, "young")
        await a.apply(b.changes().changes)
        trees = DigestTrees(a)
        for more_ms in (0, 1000):
            collected = await a.collect_tombstones({}, grace_s=0.5, now_ms=wall.now_ms + more_ms)
            assert collected.collected == 1
            await trees.catch_up()

        assert len(trees.of("uav")) == 0


async def test_catching_up_that_was_cancelled_goes_on_the_next_time() -> None:
    """Nothing is taken in twice, nor left out."""
    async with make_store("a") as a:
        trees = DigestTrees(a)
        for number in range(300):
            await a.put(UAV, f"u{number}", Uav("idle"))
        with trio.CancelScope() as scope:
            scope.cancel()
            await trees.catch_up()
        assert scope.cancelled_caught

        await trees.catch_up()

        assert len(trees.of("uav")) == 900


async def test_comparison_under_way_misses_nothing_while_the_trees_are_built_anew() -> None:
    """A source that answered from half of a tree would leave out records that the receiver then goes past."""
    async with open_replica("a") as a, open_replica("b") as b:
        for number in range(400):
            await a.store.put(UAV, f"u{number}", Uav("idle"))
        await a.store.put(UAV, "gone", Uav("idle"))
        await a.store.delete(UAV, "gone")
        has_collected = False

        async def collect_before_fetching(method: str, request: bytes) -> bytes:
            nonlocal has_collected
            if method == "Fetch" and not has_collected:
                has_collected = True
                assert (await a.store.collect_tombstones({}, grace_s=-1)).collected == 1
                async with trio.open_nursery() as nursery:
                    # Another receiver's question, which is answered no sooner than this one.
                    nursery.start_soon(a.trees.catch_up)
                    await trio.lowlevel.checkpoint()
                    response = await a.call(method, request)
                    nursery.cancel_scope.cancel()
                    return response
            return await a.call(method, request)

        await b.fetch_from(a, SyncKind.FULL, call=collect_before_fetching)
        await wait_all_tasks_blocked()

        assert has_collected
        assert b.store.canonical_bytes() == a.store.canonical_bytes()
