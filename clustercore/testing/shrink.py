"""Making a failing schedule short, by leaving out what does not matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["shrink_list"]

T = TypeVar("T")

# Runs of a schedule take milliseconds; this many end within a minute.
MAX_RUNS = 2000


def shrink_list(items: Sequence[T], fails: Callable[[Sequence[T]], bool], *, max_runs: int = MAX_RUNS) -> list[T]:
    """Return a part of ``items``, in order, that still fails, and mostly none of whose items can be left out.

    Runs of items are left out, long ones first (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing
    Input", 2002). ``fails`` must say the same each time for the same items, and that ``items`` fail. It is called
    ``max_runs`` times at most; what is found by then is returned.
    """
    kept = list(items)
    length = len(kept)
    runs = 0
    while length > 0:
        has_shrunk = False
        # From the end: what comes after the failure goes at once.
        start = len(kept) - length
        while start > -length and runs < max_runs:
            shorter = kept[: max(start, 0)] + kept[max(start, 0) + length + min(start, 0) :]
            runs += 1
            if fails(shorter):
                kept, has_shrunk = shorter, True
            start -= length
        if runs >= max_runs:
            break
        if not has_shrunk or length > 1:
            length //= 2
    return kept
