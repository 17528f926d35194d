"""A client's way from node to node."""

from __future__ import annotations

from random import Random

import trio
import trio.testing

from clustercore_kv.route import Route, Router


async def test_route_begins_afresh_after_an_answer(autojump_clock: trio.testing.MockClock) -> None:
    """An answer ends the series of failures: the next pause comes after a whole round and is the first one again."""
    route = Route(Router(["a", "b"], Random(1), 1.0, 100.0))
    for _ in range(9):
        await route.advance()
    assert trio.current_time() > 4

    route.arrived()
    begin = trio.current_time()
    await route.advance()
    assert trio.current_time() == begin
    await route.advance()

    assert 0.8 <= trio.current_time() - begin <= 1.2


async def test_pause_stays_bounded_after_many_rounds(autojump_clock: trio.testing.MockClock) -> None:
    """However long the nodes are away, a pause is about the longest at most."""
    route = Route(Router(["a"], Random(1), 0.02, 1.0))
    for _ in range(100):
        begin = trio.current_time()
        await route.advance()
        assert 0 < trio.current_time() - begin <= 1.2
