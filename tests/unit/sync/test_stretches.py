"""A comparison of everything lets others run: how much is done between two checkpoints, counted and not timed.

Writers wait for what runs beside them. Milliseconds depend on the machine, so what is held to a bound here is the work:
entities that are hashed, stamped, packed, unpacked and merged without a checkpoint. ``benchmarks/sync.py`` measures
what that comes to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import trio

from clustercore.sync import blocks, digests, receiving, source
from clustercore.sync.schedule import SyncKind
from tests.unit.sync.fleet import UAV, Uav
from tests.unit.sync.pairs import Replica, open_replica

pytestmark = pytest.mark.slow

# Each has three groups.
ENTITIES = 4000
# What is done of each at most in one stretch: a part of the log, the stamps of one question with those of the batch
# that answers it, and a batch; one more is packed to find that it has no room.
MOST = {"hashed": 250, "stamped": 4096 + 501, "packed": 501, "unpacked": 500, "merged": 500}


class Stretches(trio.abc.Instrument):
    """Counts work, and remembers the most of each kind that one task did without letting another run."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.longest: Counter[str] = Counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        for what, count in self.now.items():
            self.longest[what] = max(self.longest[what], count)
        self.now.clear()

    def counted(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that counts its calls."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.now[what] += 1
            return function(*args, **kwargs)

        return call


@pytest.fixture
def stretches(monkeypatch: pytest.MonkeyPatch) -> Stretches:
    """Count what is done of each change."""
    found = Stretches()
    for what, where, name in (
        ("hashed", digests, "_hash_record"),
        ("stamped", digests, "stamp_of"),
        ("stamped", source, "stamp_of"),
        ("unpacked", blocks, "decode_group_state"),
        ("merged", receiving.Receiver, "_receive"),
        ("packed", source._Batch, "take"),
    ):
        monkeypatch.setattr(where, name, found.counted(what, getattr(where, name)))
    return found


async def fill(replica: Replica, *, status: str = "idle") -> None:
    """Write all entities."""
    for number in range(ENTITIES):
        await replica.store.put(UAV, f"u{number}", Uav(status, number))


@pytest.mark.parametrize("case", ["first", "equal", "few differ", "all differ"])
async def test_full_sync_lets_others_run(case: str, stretches: Stretches) -> None:
    """Whatever of a large store is compared and fetched, the stretches are short, on both sides."""
    async with open_replica("a") as a, open_replica("b") as b:
        await fill(a)
        if case != "first":
            await b.fetch_from(a)
            if case == "all differ":
                await fill(a, status="flying")
            elif case == "few differ":
                for number in range(10):
                    await a.store.update(UAV, f"u{number}", status="flying")
            # As after a start: digests are made anew.
            a.restart()
            b.restart()
        trio.lowlevel.add_instrument(stretches)
        result = await b.fetch_from(a, SyncKind.FULL)
        trio.lowlevel.remove_instrument(stretches)

        assert a.store.canonical_bytes() == b.store.canonical_bytes()
        assert result.received == {"first": 3 * ENTITIES, "equal": 0, "few differ": 10, "all differ": ENTITIES}[case]
        assert stretches.longest["hashed"] > 100
        assert {what: count for what, count in stretches.longest.items() if count > MOST[what]} == {}
