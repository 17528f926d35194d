"""How long an edit may take to get to another node, as docs/explanation/convergence.md states it.

Each bound is held against thousands of edits at random times, on virtual clocks; and it must nearly be reached, so that
one that is too wide, or a schedule that is quicker than it says, is noticed as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from random import Random
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from clustercore.sync import EntityStore, SyncConfig
from clustercore.sync.messages import PullResponse
from clustercore_retry import CategoryRetryPolicy
from tests.simulation.sync_line import Line, Member, open_line
from tests.unit.docs_pages import page
from tests.unit.repository import reads_repository
from tests.unit.sync.fleet import MISSION, UAV, Mission, Uav

pytestmark = pytest.mark.slow

CONFIG = SyncConfig()
RTT_S = 0.2
# Two sessions with one peer begin no further apart than this: the first may be early by the jitter, the second late.
PAUSE_S = CONFIG.incremental_interval_s * (1 + 2 * CONFIG.jitter)
# What a session takes until a batch is there: one question, and where everything is compared three.
ANSWER_S = 3 * RTT_S
SEEDS = range(60 if os.environ.get("HYPOTHESIS_PROFILE") == "ci" else 6)
# For how long there are edits in each run, and the mean time between those at random times, in seconds.
UNTIL_S = 600.0
MEAN_S = 6.0

PAIR = {"a": "b", "b": "a"}
# a and c reach each other only by way of b.
RELAY = {"a": "b", "b": "ac", "c": "b"}


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run in virtual time."""
    trio.run(main, clock=MockClock(autojump_threshold=0))


def staleness(member: Member, *, group: str | None = None) -> list[float]:
    """How long each edit took to get here. None may be missing."""
    assert member.awaited == []
    return [lag for lag, edit in member.seen if group is None or edit.group == group]


async def draw_times(line: Line, rng: Random, until: float) -> AsyncIterator[int]:
    """Count up at random times, and at the worst ones: when an answer has just left."""
    number = 0
    while trio.current_time() < until:
        with trio.move_on_after(rng.expovariate(1 / MEAN_S)):
            await line.asked.wait()
        await trio.sleep(0.001)
        number += 1
        yield number


async def edit_uavs(line: Line, rng: Random, *, until: float = UNTIL_S) -> None:
    """Change key fields of UAVs at ``a``, now and then."""
    async for number in draw_times(line, rng, until):
        name = f"u{rng.randrange(50)}"
        put = partial(_put, kind=UAV, entity_id=name, entity=Uav(f"status {number}"))
        await line.edit("a", put, ("uav", name, "status"))


async def edit_missions(line: Line, rng: Random, *, until: float = UNTIL_S) -> None:
    """Write missions anew at ``a``, each once, now and then: their names are no key field."""
    async for number in draw_times(line, rng, until):
        name = f"m{number}"
        put = partial(_put, kind=MISSION, entity_id=name, entity=Mission("RUNNING", number, f"name {number}"))
        await line.edit("a", put, ("mission", name, "progress"), ("mission", name, "rest"))


async def _put(store: EntityStore, *, kind: Any, entity_id: str, entity: Any) -> None:
    await store.put(kind, entity_id, entity)


async def settle(line: Line) -> None:
    """Wait until all has come everywhere, as far as it comes at all."""
    await trio.sleep(6 * PAUSE_S)
    assert all(member.service is None or member.service.repaired_by_full == 0 for member in line.members.values())


# --- A healthy link ---


def test_key_fields_are_at_the_peer_after_one_pause_and_an_answer() -> None:
    """An edit waits for the next session at most. Full syncs take the place of increments, and are no later."""
    found: list[float] = []

    async def main(seed: int) -> None:
        async with open_line(PAIR, config=CONFIG, seed=seed, rtt_s=RTT_S) as line:
            await edit_uavs(line, Random(seed))
            await settle(line)
            found.extend(staleness(line["b"]))

    for seed in SEEDS:
        run(partial(main, seed))

    assert len(found) > 80 * len(SEEDS)
    assert 0.95 * (PAUSE_S + ANSWER_S) < max(found) <= PAUSE_S + ANSWER_S


async def edit_and_settle(line: Line, rng: Random) -> None:
    """Have edits of missions, and wait until they are everywhere."""
    await edit_missions(line, rng)
    await settle(line)


def mission_lags(
    neighbours: Mapping[str, str],
    at: str,
    story: Callable[[Line, Random], Awaitable[None]],
    options: Mapping[str, Any] | None = None,
) -> dict[str, list[float]]:
    """Play a story by each seed, and return how long the edits of each group of missions took to get to a member."""
    found: dict[str, list[float]] = {"progress": [], "rest": []}

    async def main(seed: int) -> None:
        async with open_line(neighbours, config=CONFIG, seed=seed, rtt_s=RTT_S, options=options) as line:
            await story(line, Random(seed))
            for group, lags in found.items():
                lags.extend(staleness(line[at], group=group))

    for seed in SEEDS:
        run(partial(main, seed))
    return found


def test_other_fields_of_an_entity_that_rests_come_by_the_window_later() -> None:
    """A session that meets the entity within the window leaves them to the next one."""
    found = mission_lags(PAIR, "b", edit_and_settle)

    bound = PAUSE_S + CONFIG.window_s + ANSWER_S
    assert max(found["progress"]) <= PAUSE_S + ANSWER_S
    assert PAUSE_S + ANSWER_S < max(found["rest"]) <= bound


async def stay_restless(line: Line) -> None:
    """Change a mission's key fields within each window, for ever."""
    progress = 0
    while True:
        await trio.sleep(CONFIG.window_s / 2)
        progress += 1
        store = line["a"].store
        assert store is not None
        await store.update(MISSION, "m", progress=progress)


async def rename(line: Line, rng: Random, *, until: float = UNTIL_S) -> None:
    """Change what is no key field of that mission, now and then."""
    async for number in draw_times(line, rng, until):
        await line.edit("a", partial(_rename, name=f"{number}"), ("mission", "m", "rest"))


async def _rename(store: EntityStore, *, name: str) -> None:
    await store.update(MISSION, "m", name=name)


def test_other_fields_of_an_entity_that_never_rests_come_by_the_limit() -> None:
    """The first session after the limit sends all that there is."""
    found: list[float] = []

    async def main(seed: int) -> None:
        async with open_line(PAIR, config=CONFIG, seed=seed, rtt_s=RTT_S) as line, trio.open_nursery() as nursery:
            await line.edit("a", partial(_put, kind=MISSION, entity_id="m", entity=Mission("RUNNING", 0)))
            nursery.start_soon(stay_restless, line)
            await rename(line, Random(seed), until=2 * UNTIL_S)
            await settle(line)
            found.extend(staleness(line["b"]))
            nursery.cancel_scope.cancel()

    for seed in SEEDS:
        run(partial(main, seed))

    bound = CONFIG.window_limit_s + PAUSE_S + ANSWER_S
    assert 0.9 * bound < max(found) <= bound


def test_each_node_on_the_way_adds_a_pause() -> None:
    """Through a relay key fields take two; the window counts from the edit, so it is added once."""
    found = mission_lags(RELAY, "c", edit_and_settle)

    hops = 2 * (PAUSE_S + ANSWER_S)
    assert 0.85 * hops < max(found["progress"]) <= hops
    assert 0.85 * (hops + CONFIG.window_s) < max(found["rest"]) <= hops + CONFIG.window_s


def test_entity_that_is_edited_without_a_pause_is_told_all_the_same() -> None:
    """There is always a newer edit on its way to the disk. One that is durable must not wait for it to rest."""
    found: list[float] = []

    async def main(seed: int) -> None:
        config = attrs.evolve(CONFIG, incremental_interval_s=1.0, full_interval_s=10.0, window_s=0.1, window_limit_s=1)
        async with open_line(PAIR, config=config, seed=seed, rtt_s=RTT_S, write_s=0.01) as line:
            number = 0
            while trio.current_time() < 30:
                number += 1
                put = partial(_put, kind=UAV, entity_id="u", entity=Uav(f"status {number}"))
                await line.edit("a", put, ("uav", "u", "status"))
            await settle(line)
            found.extend(staleness(line["b"]))

    for seed in SEEDS:
        run(partial(main, seed))

    # At the source an answer waits for the edit that is under way; at the receiver for its data to be on disk.
    assert max(found) <= 1.2 + ANSWER_S + 4 * 0.01


# --- One lost message, one peer that is down ---

METHODS = ("Open", "Pull", "Compare", "Buckets", "Fetch")


async def lose_one(line: Line, rng: Random, *, method: str, part: str) -> None:
    """Have edits at a, and lose the next message of one kind between b, which asks, and a."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(edit_missions, line, rng)
        # Late enough for a session that compares everything to be still to come while there are edits.
        await trio.sleep(rng.uniform(100, 280))
        if method == "Open":
            # With a peer that was started anew a session is opened.
            await line.stop("a")
            await line.start("a")
        line.to_lose = ("b", method, part)
    assert line.lost_at is not None
    await settle(line)


@pytest.mark.parametrize("part", ["request", "response"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("is_retried", [False, True])
def test_after_a_lost_message_the_next_session_brings_it(method: str, part: str, is_retried: bool) -> None:
    """Whichever it was: without a retry policy it costs one pause, with one the patience for one call and a little."""
    options = {"retry": CategoryRetryPolicy(rng=Random(1))} if is_retried else {}
    found = mission_lags(PAIR, "b", partial(lose_one, method=method, part=part), options)

    longer_s = CONFIG.call_timeout_s + 1.0 if is_retried else PAUSE_S
    # A session that is begun anew asks twice more.
    bound = PAUSE_S + longer_s + ANSWER_S + 2 * RTT_S
    assert max(found["progress"]) <= bound
    assert max(found["rest"]) <= bound + CONFIG.window_s
    if not is_retried:
        assert max(found["progress"]) > 0.75 * bound


@pytest.mark.parametrize("part", ["request", "response"])
def test_lost_answer_does_not_begin_the_limit_anew(part: str) -> None:
    """Also when it is the one with all that a restless entity kept back: it comes with the next session."""
    found: list[float] = []

    async def main(seed: int) -> None:
        async with open_line(PAIR, config=CONFIG, seed=seed, rtt_s=RTT_S) as line, trio.open_nursery() as nursery:
            await line.edit("a", partial(_put, kind=MISSION, entity_id="m", entity=Mission("RUNNING", 0)))
            nursery.start_soon(stay_restless, line)
            nursery.start_soon(rename, line, Random(seed))
            await trio.sleep(Random(seed).uniform(100, 300))
            line.to_lose = ("b", "Pull", part)
            await trio.sleep(UNTIL_S)
            assert line.lost_at is not None
            await settle(line)
            found.extend(staleness(line["b"]))
            nursery.cancel_scope.cancel()

    for seed in range(3 * len(SEEDS)):
        run(partial(main, seed))

    assert CONFIG.window_limit_s + PAUSE_S < max(found) <= CONFIG.window_limit_s + 2 * PAUSE_S + ANSWER_S


@pytest.mark.parametrize("name", ["a", "b"])
def test_peer_that_was_down_is_told_within_a_pause_of_its_return(name: str) -> None:
    """Whether it is the one that asks, or the one that is asked."""
    found: list[float] = []

    async def main(seed: int) -> None:
        rng = Random(seed)
        async with open_line(PAIR, config=CONFIG, seed=seed, rtt_s=RTT_S) as line:
            await trio.sleep(rng.uniform(40, 80))
            if name == "b":
                await line.stop("b")
            for number in range(20):
                entity = f"u{number}"
                put = partial(_put, kind=UAV, entity_id=entity, entity=Uav("idle"))
                await line.edit("a", put, ("uav", entity, "status"))
            if name == "a":
                await line.stop("a")
            await trio.sleep(rng.uniform(0, 100))
            if name == "a":
                # The worst time: b has just asked.
                await line.asked.wait()
            await line.start(name)
            back_at = trio.current_time()
            await settle(line)
            assert line["b"].awaited == []
            found.extend(edit.durable_at + lag - back_at for lag, edit in line["b"].seen)

    for seed in range(5 * len(SEEDS)):
        run(partial(main, seed))

    # It looks for its peers at once, and has the first session with each within an interval.
    bound = (PAUSE_S if name == "a" else CONFIG.incremental_interval_s) + ANSWER_S + 2 * RTT_S
    assert 0.9 * bound < max(found) <= bound


# --- The net ---


def test_what_an_increment_misses_a_full_sync_brings() -> None:
    """Planted: answers that leave out what they claim to hold. No edit is later than the next full sync."""
    found: list[float] = []

    def leave_out(method: str, response: bytes) -> bytes:
        if method != "Pull":
            return response
        answer = PullResponse.decode(response)
        return attrs.evolve(answer, changes=()).encode()

    async def main(seed: int) -> None:
        async with open_line(PAIR, config=CONFIG, seed=seed, rtt_s=RTT_S) as line:
            line.tamper = leave_out
            await edit_uavs(line, Random(seed), until=1000)
            await trio.sleep(2 * CONFIG.full_interval_s)
            found.extend(staleness(line["b"]))

    for seed in SEEDS:
        run(partial(main, seed))

    bound = CONFIG.full_interval_s + 2 * CONFIG.jitter * CONFIG.incremental_interval_s + ANSWER_S
    assert 0.98 * bound < max(found) <= bound


# --- The page ---


@reads_repository
def test_page_states_these_bounds() -> None:
    """The figures on it are those of the defaults."""
    window_s, limit_s, interval_s = CONFIG.window_s, CONFIG.window_limit_s, CONFIG.incremental_interval_s
    # CategoryRetryPolicy waits for less than a second before it tries again what timed out.
    retried_s = CONFIG.call_timeout_s + 1.0
    full_s = CONFIG.full_interval_s + 2 * CONFIG.jitter * interval_s
    expected = [PAUSE_S, PAUSE_S, PAUSE_S + window_s, PAUSE_S + limit_s, 2 * PAUSE_S + window_s, 2 * PAUSE_S]
    expected += [PAUSE_S + retried_s, PAUSE_S, interval_s, full_s]

    text = (
        page("docs/explanation/convergence.md").partition("## How old what one reads may be")[2].partition("\n## ")[0]
    )
    found = [int(seconds) for seconds in re.findall(r"\| (\d+) s(?: for two)? \|$", text, re.MULTILINE)]

    assert found == [round(seconds) for seconds in expected]
