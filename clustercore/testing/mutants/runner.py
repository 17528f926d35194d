"""Running mutants: each in a process of its own, some at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import attrs
import trio

from clustercore.testing.mutants import launch
from clustercore.testing.mutants.catalogue import Mutant

__all__ = ["PROFILES", "Fate", "Outcome", "Profile", "run_mutants"]

# Hunts a test; a catalogue names the test itself.
_TEST_HUNT = "tests.mutants.hunts:test"


@attrs.frozen
class Profile:
    """How hard a mutant is hunted."""

    # Worlds of random schedules, at most.
    seeds: int
    # Seconds after which a process is taken for stuck. A mutant is killed by events or not at all: this only ends one
    # that makes the code run for ever.
    limit_s: float


PROFILES = {"default": Profile(300, 120.0), "ci": Profile(3000, 600.0)}


class Fate(Enum):
    """What became of a mutant."""

    # By the property that it claims to break.
    KILLED = "killed"
    # Something else broke, and what it claims did not: the claim, or the check, is to be mended.
    KILLED_BY_ANOTHER = "killed by another"
    # Nothing broke.
    SURVIVED = "survived"
    # It never came to an end, or its process failed.
    STUCK = "stuck"
    FAILED = "failed"


@attrs.frozen
class Outcome:
    """What became of a mutant, and how."""

    mutant: Mutant
    fate: Fate
    # What the check said; or what was said instead.
    text: str = ""
    # What happened in all worlds that were tried, up to the end; 0 where a test counts nothing.
    events: int = 0
    seconds: float = 0.0
    # Other properties that broke before.
    others: tuple[str, ...] = ()


async def run_mutants(
    mutants: Sequence[Mutant],
    *,
    root: Path,
    profile: Profile,
    jobs: int,
    on_done: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Run mutants, at most ``jobs`` at a time; return what became of each, in their order.

    Cancellation: the processes are killed.

    Args:
        mutants: What to run.
        root: Where the hunts are imported from: the folder that holds ``tests``.
        profile: How hard to look.
        jobs: Processes at a time.
        on_done: Hears of each as it ends.
    """
    outcomes: dict[str, Outcome] = {}
    limiter = trio.CapacityLimiter(jobs)

    async def run_one(mutant: Mutant) -> None:
        async with limiter:
            outcome = await _run(mutant, root, profile)
        outcomes[mutant.id] = outcome
        on_done(outcome)

    async with trio.open_nursery() as nursery:
        for mutant in mutants:
            nursery.start_soon(run_one, mutant)
    return [outcomes[mutant.id] for mutant in mutants]


async def _run(mutant: Mutant, root: Path, profile: Profile) -> Outcome:
    is_test = "::" in mutant.hunt
    order = {
        "module": mutant.module,
        "find": mutant.find,
        "replace": mutant.replace,
        "property": mutant.property,
        "hunt": _TEST_HUNT if is_test else mutant.hunt,
        "test": mutant.hunt if is_test else "",
        "root": str(root),
        "seeds": profile.seeds,
    }
    done: subprocess.CompletedProcess[bytes] | None = None
    with trio.move_on_after(profile.limit_s):
        done = await trio.run_process(
            [sys.executable, str(Path(launch.__file__))],
            stdin=json.dumps(order).encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=root,
        )
    if done is None:
        return Outcome(mutant, Fate.STUCK, f"it ran for {profile.limit_s:g} s without an end")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return Outcome(mutant, Fate.FAILED, lines[-1] if lines else f"it ended with exit code {done.returncode}")
    return _outcome(mutant, json.loads(done.stdout))


def _outcome(mutant: Mutant, answer: dict[str, Any]) -> Outcome:
    others = answer["others"]
    text = answer["text"]
    if answer["is_killed"]:
        fate = Fate.KILLED
    elif not answer["is_patched"]:
        fate, text = Fate.FAILED, f"its hunt never imports {mutant.module}"
    elif others:
        fate, text = Fate.KILLED_BY_ANOTHER, "; ".join(f"{other['property']}: {other['text']}" for other in others)
    else:
        fate, text = Fate.SURVIVED, ""
    named = tuple(other["property"] for other in others)
    return Outcome(mutant, fate, text, answer["events"], answer["seconds"], named)
