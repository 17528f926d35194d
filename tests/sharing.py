"""In which order tests go to the processes that run them.

``pytest --dist worksteal`` cuts the list of tests into parts of one length, one for each worker. Whoever is done takes
half of what stands at the end of another's part: so what is long has to stand at the beginning of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import pytest

__all__ = ["dealt"]

# Tests with these marks go first, in this order: those that wait for processes, and then those that compute.
_LONG = ("integration", "slow")


def dealt(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """Return tests in such an order that each of as many parts begins with its share of the long ones.

    Long tests of one module stay together, for the sake of what they share.
    """
    parts: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for (rank, _), module in groupby(sorted(items, key=_rank), key=lambda item: (_rank(item), item.path)):
        if rank < len(_LONG):
            min(parts, key=len).extend(module)
    short = [item for item in items if _rank(item) == len(_LONG)]
    for number, part in enumerate(parts):
        # As the scheduler counts.
        length = (len(short) + sum(map(len, parts[number:]))) // (workers - number)
        missing = max(0, length - len(part))
        part += short[:missing]
        del short[:missing]
    return [item for part in parts for item in part]


def _rank(item: pytest.Item) -> int:
    return next((rank for rank, mark in enumerate(_LONG) if item.get_closest_marker(mark)), len(_LONG))
