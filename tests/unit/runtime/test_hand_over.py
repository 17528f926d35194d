"""Asking for a transfer, and hearing what became of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore.interfaces import NodeStopped, TransferFailed
from clustercore.raft.types import NodeId, TransferFailure
from clustercore.runtime.hand_over import HandOvers

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
LIMIT_S = 1.1


@attrs.define
class Bench:
    """Node "a", which leads; the test is its core."""

    nursery: trio.Nursery
    fit: list[NodeId] = attrs.field(factory=lambda: [B, C])
    begun: list[NodeId] = attrs.field(factory=list)
    ends: list[object] = attrs.field(factory=list)
    hand_overs: HandOvers = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.hand_overs = HandOvers(
            A,
            begin=self.begun.append,
            best_successor=lambda: self.fit[0] if self.fit else None,
            limit_s=LIMIT_S,
        )

    async def start(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Ask in a task of its own, and note what comes of it."""

        async def note() -> None:
            try:
                self.ends.append(await ask())
            except (TransferFailed, NodeStopped) as error:
                self.ends.append(f"{type(error).__name__}: {error}")

        self.nursery.start_soon(note)
        await wait_all_tasks_blocked()


@pytest.fixture
def bench(nursery: trio.Nursery) -> Bench:
    """A node whose followers are fit."""
    return Bench(nursery)


async def test_transfer_ends_with_another_leader_whoever_it_is(bench: Bench) -> None:
    """Everybody who asked is told who leads."""
    await bench.start(lambda: bench.hand_overs.to(B))
    await bench.start(lambda: bench.hand_overs.to(C))
    assert bench.begun == [B, C]

    bench.hand_overs.leader_known(C)
    await wait_all_tasks_blocked()

    assert bench.ends == [C, C]


async def test_transfer_that_is_given_up_says_why(bench: Bench) -> None:
    """To those who wait for that target, and for them it is settled then."""
    await bench.start(lambda: bench.hand_overs.to(B))
    await bench.start(lambda: bench.hand_overs.to(C))

    bench.hand_overs.given_up(B, TransferFailure.FAR_BEHIND)
    bench.hand_overs.given_up(B, TransferFailure.REFUSED)
    bench.hand_overs.leader_known(C)
    await wait_all_tasks_blocked()

    text = "TransferFailed: 'a' goes on leading: the target 'b' lacks too much of the log"
    assert sorted(map(str, bench.ends)) == [text, "c"]


async def test_best_successor_that_is_lost_is_followed_by_the_next(bench: Bench) -> None:
    """Until one takes over."""
    await bench.start(bench.hand_overs.to_best)
    bench.fit = [C]
    bench.hand_overs.given_up(B, TransferFailure.UNREACHABLE)
    await wait_all_tasks_blocked()
    assert bench.begun == [B, C]

    bench.hand_overs.leader_known(C)
    await wait_all_tasks_blocked()
    assert bench.ends == [C]


@pytest.mark.parametrize("failure", [TransferFailure.REFUSED, TransferFailure.TIMED_OUT])
async def test_the_same_successor_is_asked_once_and_time_is_taken_once(bench: Bench, failure: TransferFailure) -> None:
    """One that refused would again; and whoever waited for an election timeout waits for no second one."""
    await bench.start(bench.hand_overs.to_best)
    if failure is TransferFailure.TIMED_OUT:
        bench.fit = [C]

    bench.hand_overs.given_up(B, failure)
    await wait_all_tasks_blocked()

    assert bench.begun == [B]
    assert bench.ends == [f"TransferFailed: 'a' goes on leading: the target 'b' {failure.value}"]


async def test_nobody_fit_is_said_at_once(bench: Bench) -> None:
    """Nothing is begun."""
    bench.fit = []

    await bench.start(bench.hand_overs.to_best)

    assert bench.begun == []
    assert bench.ends == ["TransferFailed: no follower of 'a' is connected and up to date; it goes on leading"]


async def test_core_that_says_nothing_has_lost_the_office(bench: Bench, autojump_clock: MockClock) -> None:
    """It stepped down, and no new leader is known within the limit."""
    await bench.start(lambda: bench.hand_overs.to(B))

    await trio.sleep(LIMIT_S)
    await wait_all_tasks_blocked()

    assert bench.ends == ["TransferFailed: 'a' does not lead any more, and no other leader is known yet"]


async def test_node_that_stops_says_so(bench: Bench) -> None:
    """Whether the target takes over will not be known here: that is no failed transfer."""
    await bench.start(lambda: bench.hand_overs.to(B))

    bench.hand_overs.stop()
    await wait_all_tasks_blocked()

    assert bench.ends == ["NodeStopped: node 'a' has stopped; whether 'b' takes over is not known here"]


@pytest.mark.parametrize("outcome", ["another leads", "given up", "no time left", "nobody is fit"])
async def test_leaving_never_fails(bench: Bench, outcome: str, autojump_clock: MockClock) -> None:
    """The node stops in any case; it says whether another leads."""
    if outcome == "nobody is fit":
        bench.fit = []
    await bench.start(bench.hand_overs.leave)
    if outcome == "another leads":
        bench.hand_overs.leader_known(B)
    elif outcome == "given up":
        bench.hand_overs.given_up(B, TransferFailure.TIMED_OUT)
    await trio.sleep(LIMIT_S)
    await wait_all_tasks_blocked()

    assert bench.ends == [outcome == "another leads"]
