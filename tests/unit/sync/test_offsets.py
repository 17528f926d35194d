"""How far clocks are apart, by what answers say, and whose clock it is that is wrong."""

from __future__ import annotations

import logging

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustercore.interfaces import NodeId
from clustercore.sync.offsets import (
    SAMPLES,
    ClockJudge,
    ClockOffset,
    ClockStanding,
    ClockWatch,
    OffsetFilter,
    Reading,
)

BEGIN_MS = 1_700_000_000_000.0
DAY_MS = 86_400_000.0


@attrs.define(eq=False)
class Clocks:
    """Two machines' clocks: true time, and what each machine makes of it."""

    # Seconds since the beginning, and how much of it the monotonic clock missed while the machine slept.
    now: float = 1000.0
    slept: float = 0.0
    mine_ahead_ms: float = 0.0
    theirs_ahead_ms: float = 0.0

    def mine(self) -> Reading:
        return Reading(self.now - self.slept, int(BEGIN_MS + 1000 * self.now + self.mine_ahead_ms))

    def theirs(self) -> int:
        return int(BEGIN_MS + 1000 * self.now + self.theirs_ahead_ms)

    @property
    def offset_ms(self) -> float:
        """What is to be found out."""
        return self.theirs_ahead_ms - self.mine_ahead_ms

    def ask(self, found: OffsetFilter, *, there_s: float = 0.001, back_s: float = 0.001) -> None:
        """Have a question answered."""
        sent = self.mine()
        self.now += there_s
        said = self.theirs()
        self.now += back_s
        found.add(sent, self.mine(), said)

    def estimate(self, found: OffsetFilter) -> ClockOffset:
        """Return what is known now."""
        offset = found.estimate(self.now - self.slept)
        assert offset is not None
        return offset


delays = st.floats(0, 5)
offsets = st.floats(-DAY_MS, DAY_MS)


@given(
    mine=offsets, theirs=offsets, ways=st.lists(st.tuples(delays, delays, st.floats(0, 60)), min_size=1, max_size=12)
)
def test_true_offset_is_within_the_error(mine: float, theirs: float, ways: list[tuple[float, float, float]]) -> None:
    """Whatever the ways there and back take, however unequal they are, while nobody sets a clock."""
    clocks, found = Clocks(mine_ahead_ms=mine, theirs_ahead_ms=theirs), OffsetFilter(1000)
    for there_s, back_s, pause_s in ways:
        clocks.now += pause_s
        clocks.ask(found, there_s=there_s, back_s=back_s)

        offset = clocks.estimate(found)

        # A microsecond for the arithmetic of floats.
        assert abs(offset.offset_ms - clocks.offset_ms) <= offset.error_ms + 0.001
        assert offset.error_ms <= 500 * (there_s + back_s) + 2.1


def test_sample_with_the_shortest_way_counts() -> None:
    """A slow answer after it takes nothing from it, but that it grows old."""
    clocks, found = Clocks(theirs_ahead_ms=300), OffsetFilter()
    clocks.ask(found)
    first = clocks.estimate(found)
    clocks.now += 30
    clocks.ask(found, there_s=2.0, back_s=0.0)

    offset = clocks.estimate(found)

    assert offset.offset_ms == first.offset_ms == pytest.approx(300, abs=2)
    assert offset.error_ms == pytest.approx(first.error_ms + 3.2)
    assert offset.age_s == pytest.approx(32)


def test_old_samples_say_nothing() -> None:
    """They are as many as there are, and as old as they may be: then nothing is known."""
    clocks, found = Clocks(), OffsetFilter(max_age_s=100)
    assert found.estimate(0) is None
    clocks.ask(found)
    for _ in range(SAMPLES - 1):
        clocks.now += 1
        clocks.ask(found, there_s=1.0)
    assert clocks.estimate(found).error_ms < 5

    clocks.now += 1
    clocks.ask(found, there_s=1.0)
    assert clocks.estimate(found).error_ms > 500

    clocks.now += 101
    assert found.estimate(clocks.now) is None


@pytest.mark.parametrize("step_ms", [-3_600_000, -700, 700, 3_600_000])
@pytest.mark.parametrize("whose", ["mine_ahead_ms", "theirs_ahead_ms"])
def test_clock_that_is_set_counts_from_the_next_answer(whose: str, step_ms: float) -> None:
    """Those before it cannot be true together with that, however good they were."""
    clocks, found = Clocks(), OffsetFilter()
    for _ in range(SAMPLES):
        clocks.ask(found, there_s=0.0001, back_s=0.0)
        clocks.now += 30
    setattr(clocks, whose, step_ms)

    clocks.ask(found, there_s=0.02, back_s=0.0)

    offset = clocks.estimate(found)
    assert abs(offset.offset_ms - clocks.offset_ms) <= offset.error_ms
    assert offset.error_ms < 15


@pytest.mark.parametrize("sleeps", [False, True])
@pytest.mark.parametrize("is_answered", [False, True])
def test_clock_that_is_set_during_a_question_is_doubt(is_answered: bool, sleeps: bool) -> None:
    """Also that of a machine that slept meanwhile: its monotonic clock stood, and the answer is an hour old."""
    clocks, found = Clocks(), OffsetFilter()
    clocks.ask(found)
    good = clocks.estimate(found)

    sent = clocks.mine()
    said = clocks.theirs()
    if sleeps:
        clocks.now += 3600
        clocks.slept += 3600
    else:
        clocks.mine_ahead_ms += 3_600_000
    if not is_answered:
        said = clocks.theirs()
    found.add(sent, clocks.mine(), said)

    offset = clocks.estimate(found)
    if sleeps:
        assert abs(offset.offset_ms - clocks.offset_ms) <= offset.error_ms
    assert offset.offset_ms == good.offset_ms
    clocks.ask(found)
    offset = clocks.estimate(found)
    assert abs(offset.offset_ms - clocks.offset_ms) <= offset.error_ms < 5


# --- Whose clock it is -----------------------------------------------------------------------------------------------


def known(*each_ms: float, error_ms: float = 5) -> dict[NodeId, ClockOffset]:
    """The offsets of b, c and so on."""
    return {NodeId(chr(ord("b") + at)): ClockOffset(ms, error_ms, 1.0) for at, ms in enumerate(each_ms)}


@pytest.mark.parametrize(
    ("members", "offsets_ms", "is_off"),
    [
        (1, (), False),
        # Of two, none can tell.
        (2, (9000,), False),
        # One other that is off is the one that is off.
        (3, (9000, 3), False),
        (3, (9000, 9003), True),
        (3, (-9000, -9003), True),
        # Between two that are off on either side.
        (3, (9000, -9000), False),
        # 80 % of 500 ms, beyond the error.
        (3, (404, 404), False),
        (3, (406, 406), True),
        # Who does not say anything does not say that.
        (3, (9000,), False),
        (4, (9000, 9000), False),
        (5, (9000, 9000), False),
        (5, (9000, 9000, 9000), True),
        (5, (9000, 9000, 9000, 0), True),
        (5, (9000, 9000, -9000, -9000), False),
    ],
)
def test_own_clock_is_off_when_most_members_say_so(members: int, offsets_ms: tuple[float, ...], is_off: bool) -> None:
    """More than half of all members, on one side, beyond doubt."""
    standing = ClockJudge(500).judge(members, known(*offsets_ms))

    assert standing.is_off is is_off
    assert (standing.members, standing.measured) == (members, len(offsets_ms))


def test_only_one_of_a_cluster_is_off() -> None:
    """Seen from each of three nodes, of which the first is an hour ahead."""
    ahead_ms = [3_600_000, 0, 3]
    verdicts = []
    for own in ahead_ms:
        others = list(ahead_ms)
        others.remove(own)
        verdicts.append(ClockJudge(500).judge(3, known(*(other - own for other in others))).is_off)

    assert verdicts == [True, False, False]


def test_doubt_accuses_nobody() -> None:
    """An offset that could be within the bounds, for the way was long, is none."""
    assert not ClockJudge(500).judge(3, known(900, 900, error_ms=600)).is_off


def test_standing_changes_back_below_a_lower_bound_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A clock about at the limit is not told of each time, and what nobody knows any more is not taken for right."""
    told: list[ClockStanding] = []
    watch = ClockWatch(NodeId("a"), 500, told.append)
    with caplog.at_level(logging.INFO, "clustercore"):
        for offset_ms in (0, 390, 420, 390, 420, 310):
            watch.look(3, known(offset_ms, offset_ms))
        watch.look(3, {})
        watch.look(3, known(0))
        watch.look(3, known(0, 0))

    assert [standing.is_off for standing in told] == [True, False]
    assert str(told[0]) == "its wall clock is 420 ms behind those of most members"
    assert told[0].against == ("b", "c")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "node a: its wall clock is 420 ms behind those of most members, and at most 500 ms" in caplog.text


def test_standing_that_nobody_can_confirm_stays() -> None:
    """A node that was off, and is cut off then, is not right by that; one peer that is near is enough of three."""
    judge = ClockJudge(500)
    assert judge.judge(3, known(-900, -905)).is_off

    cut_off = judge.judge(3, {})
    assert cut_off.is_off
    assert str(cut_off) == "its wall clock is 902 ms ahead of those of most members"
    assert judge.judge(3, known(-900)).is_off
    assert not judge.judge(3, known(-2)).is_off
