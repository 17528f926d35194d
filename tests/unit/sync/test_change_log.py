"""The log of changes: what changed since when, however often groups changed, at a cost that does not grow."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from clustercore.sync.change_log import SEGMENT, ChangeLog

Place = tuple[tuple[str, str], str]


def place(number: int) -> Place:
    """One of many groups."""
    return ("kind", str(number)), "group"


@given(changes=st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=400), copies=st.integers(1, 8))
def test_log_tells_the_last_change_of_each_group_in_order(changes: list[tuple[int, bool]], copies: int) -> None:
    """Since whatever number; a group that changes again, or is collected, leaves its place."""
    log, last = ChangeLog(), dict[Place, int]()
    for seq, (number, is_collected) in enumerate(changes * copies, 1):
        where = place(number * copies)
        if where in last:
            log.remove(last.pop(where))
        if not is_collected:
            log.append(seq, where)
            last[where] = seq

    expected = sorted((seq, where) for where, seq in last.items())
    assert len(log) == len(expected)
    for since in (0, 1, len(changes) // 2, len(changes) * copies - 1, len(changes) * copies):
        assert list(log.since(since)) == [entry for entry in expected if entry[0] > since]


def test_segments_stay_few_where_a_few_groups_change_over_and_over() -> None:
    """Beside many that never do: no more than a look may skip, and no more than there are groups for."""
    log, last, rng = ChangeLog(), dict[int, int](), Random(1)
    for seq in range(1, 20 * SEGMENT):
        number = seq if seq <= 10 * SEGMENT else 1 + rng.randrange(5 * SEGMENT)
        if number in last:
            log.remove(last[number])
        log.append(seq, place(number))
        last[number] = seq

    sizes = Counter(map(len, log._segments))
    assert len(log) == 10 * SEGMENT
    assert max(sizes) <= SEGMENT
    assert len(log._segments) <= 4 * len(log) // SEGMENT + 1
