"""States that only go forward: of two, the least that both can become."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from clustercore.interfaces import ConfigError
from clustercore_lww.merging import MergingResolver
from clustercore_lww.reading import read_or_none

__all__ = ["LatticeResolver"]


class LatticeResolver(MergingResolver):
    """Keeps the least state that is at or after both.

    A value is a JSON string. One that is no state of the lattice loses to every state.

    Args:
        states: Each state, and those that may come directly after it: ``{"RUNNING": ["DONE", "ABORTED"], "DONE":
            ["ABORTED"], "ABORTED": []}``. Two states must have one least state that both lead to, or be on one path.

    Raises: ConfigError if a state is named and not there, comes after itself, or two have no such state in common.
    """

    rule = "lattice"

    def __init__(self, states: Mapping[str, Sequence[str]]) -> None:
        self._reachable = {state: _reachable_from(state, states) for state in states}
        self._joins = {(one, other): self._join(one, other) for one in states for other in states}

    def _join(self, one: str, other: str) -> str:
        common = self._reachable[one] & self._reachable[other]
        least = [state for state in common if common <= self._reachable[state]]
        if len(least) != 1:
            raise ConfigError(
                f"states: {one!r} and {other!r} lead to {sorted(common)}, and none of these comes before the others; "
                "name one that follows both"
            )
        return least[0]

    def merge(self, one: bytes, other: bytes) -> bytes:
        mine, theirs = read_or_none(self._read, one), read_or_none(self._read, other)
        if mine is None and theirs is None:
            return max(one, other)
        known = [state for state in (mine, theirs) if state is not None]
        return json.dumps(self._joins[known[0], known[-1]], ensure_ascii=False).encode()

    def _read(self, value: bytes) -> str:
        state = json.loads(value)
        if not isinstance(state, str) or state not in self._reachable:
            raise ValueError("no state of this lattice")
        return state


def _reachable_from(state: str, states: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Return a state and all that may come after it."""
    found: list[str] = [state]
    for current in found:
        for following in states[current]:
            if following not in states:
                raise ConfigError(
                    f"states.{current} names {following!r}, which is no state; there are {sorted(states)}"
                )
            if following == state:
                raise ConfigError(f"states: {state!r} comes after itself, by way of {current!r}")
            if following not in found:
                found.append(following)
    return frozenset(found)
