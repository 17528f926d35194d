"""How tests are shared out among processes."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sharing import dealt


@attrs.frozen
class Item:
    """As much of a test as its place in the order depends on."""

    path: Path
    mark: str
    number: int

    def get_closest_marker(self, name: str) -> str | None:
        """Return the mark, if it has it."""
        return name if name == self.mark else None


@st.composite
def collections(draw: st.DrawFn) -> list[pytest.Item]:
    """Tests as they are collected, module by module."""
    marks = st.lists(st.sampled_from(["integration", "slow", ""]), max_size=8)
    modules = draw(st.lists(marks, max_size=8))
    items = [
        Item(Path(str(module)), mark, number) for module, all_ in enumerate(modules) for number, mark in enumerate(all_)
    ]
    return cast(list[pytest.Item], items)


def parts_of(items: list[pytest.Item], workers: int) -> list[list[pytest.Item]]:
    """Cut a list as the scheduler does."""
    rest, parts = list(items), []
    for number in range(workers):
        count = len(rest) // (workers - number)
        parts.append(rest[:count])
        del rest[:count]
    return parts


@given(collections(), st.integers(1, 5))
def test_no_test_is_lost_or_doubled(items: list[pytest.Item], workers: int) -> None:
    """Whatever the marks."""
    assert sorted(map(hash, dealt(items, workers))) == sorted(map(hash, items))


def test_every_part_begins_with_long_tests() -> None:
    """Those with processes first, then the slow ones; the short ones fill what is left, and are stolen from there."""
    marks = ["integration"] * 2 + ["slow"] * 2 + [""] * 16
    items = [Item(Path(f"{module}"), mark, number) for module in range(3) for number, mark in enumerate(marks)]

    parts = parts_of(dealt(cast(list[pytest.Item], items), 3), 3)

    assert [[cast(Item, item).mark for item in part] for part in parts] == [marks] * 3


@given(collections())
def test_long_tests_of_a_module_stay_together(items: list[pytest.Item]) -> None:
    """Those of one rank: they may share what is costly to set up."""
    order = dealt(items, 3)

    for path in {item.path for item in items}:
        for mark in ("integration", "slow"):
            places = [n for n, item in enumerate(order) if item.path == path and cast(Item, item).mark == mark]
            assert not places or places == list(range(places[0], places[-1] + 1))
