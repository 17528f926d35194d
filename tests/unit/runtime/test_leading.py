"""The bodies that run while this node leads, and who waits for their end."""

from __future__ import annotations

import math

import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.raft.types import Term
from clustercore.runtime.leading import Leaderships


async def test_everybody_who_waits_for_the_end_is_told(nursery: trio.Nursery) -> None:
    """Two that wait at once are both woken when the last body has ended, and not before."""
    leaderships = Leaderships(lease_until=lambda: math.inf, term=lambda: Term(1))
    may_end = [trio.Event(), trio.Event()]
    told: list[str] = []

    async def lead(number: int) -> None:
        async with leaderships.hold(0.0):
            await may_end[number].wait()

    async def wait(name: str) -> None:
        await leaderships.wait_ended()
        told.append(name)

    for number in (0, 1):
        nursery.start_soon(lead, number)
    await wait_all_tasks_blocked()
    for name in ("first", "second"):
        nursery.start_soon(wait, name)
    await wait_all_tasks_blocked()

    may_end[0].set()
    await wait_all_tasks_blocked()
    assert told == []
    may_end[1].set()
    await wait_all_tasks_blocked()
    assert sorted(told) == ["first", "second"]
