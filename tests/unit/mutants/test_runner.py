"""Running mutants: what becomes of each is told apart, and nothing on disk changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import trio

from clustercore.testing.mutants.catalogue import Mutant
from clustercore.testing.mutants.matrix import page, plain, row, summary
from clustercore.testing.mutants.runner import Fate, Outcome, Profile, run_mutants

# A module to break, and what looks for it. It imports nothing of clustercore, so that a process starts at once.
SOURCE = """
def double(number):
    return 2 * number
"""
HUNTS = """
import attrs, toy

@attrs.frozen
class Finding:
    property: str = ""
    text: str = ""
    events: int = 1

def doubles(order):
    for number in range(order["seeds"]):
        print("this is not the answer")
        if toy.double(number) != number + number:
            yield Finding("doubles", f"twice {number} is {toy.double(number)}")
        elif toy.double(number) < 0:
            yield Finding("is positive", "it is negative")
        else:
            yield Finding()

def other_things(order):
    import json
    yield Finding()
"""
MUTANT = Mutant(
    id="toy",
    chapter="toys",
    module="toy",
    find="    return 2 * number\n",
    replace="    return 3 * number\n",
    property="doubles",
    hunt="toy_hunts:doubles",
    source="arithmetic",
    why="Three is not two.",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the toy and its hunts."""
    (tmp_path / "toy.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "toy_hunts.py").write_text(HUNTS, encoding="utf-8")
    return tmp_path


def run(root: Path, mutants: Sequence[Mutant], limit_s: float = 60.0) -> list[Outcome]:
    """Run mutants of the toy."""

    async def main() -> list[Outcome]:
        return await run_mutants(mutants, root=root, profile=Profile(5, limit_s), jobs=2)

    return trio.run(main)


@pytest.mark.slow
def test_fates_are_told_apart(root: Path) -> None:
    """A mutant is killed only by the property that it claims; all else that may happen is another fate."""
    changes: dict[Fate, dict[str, str]] = {
        Fate.KILLED: {},
        Fate.KILLED_BY_ANOTHER: {"property": "is positive"},
        Fate.SURVIVED: {"replace": "    return number + number\n"},
        Fate.FAILED: {"find": "    return 4 * number\n"},
    }
    mutants = [attrs.evolve(MUTANT, id=fate.value, **change) for fate, change in changes.items()]
    unused = attrs.evolve(MUTANT, id="unused", module="json", find="import codecs\n", replace="import codecs, sys\n")

    *outcomes, never_imported = run(root, [*mutants, unused])

    assert [outcome.fate for outcome in outcomes] == list(changes)
    killed, by_another, survived, failed = outcomes
    # Twice 0 is 0, three times as well.
    assert (killed.events, killed.text, killed.others) == (2, "twice 1 is 3", ())
    assert (by_another.events, by_another.others) == (5, ("doubles",))
    assert (survived.events, survived.text) == (5, "")
    assert "found 0 times" in failed.text
    assert (never_imported.fate, never_imported.text) == (Fate.FAILED, "its hunt never imports json")
    assert (root / "toy.py").read_text(encoding="utf-8") == SOURCE
    assert not list(root.glob("__pycache__/toy.*"))


@pytest.mark.slow
def test_mutant_that_never_ends_is_stuck(root: Path) -> None:
    """It is ended after the profile's time, and is not killed: nothing broke."""
    endless = attrs.evolve(MUTANT, replace="    while True:\n        pass\n")

    (outcome,) = run(root, [endless], limit_s=2.0)

    assert (outcome.fate, outcome.text) == (Fate.STUCK, "it ran for 2 s without an end")


def test_matrix_says_who_was_killed_by_what() -> None:
    """As a row, as plain data, as a page, and in one sentence."""
    killed = Outcome(MUTANT, Fate.KILLED, "twice 1 is 3", 1234, 0.25)
    other = Outcome(
        attrs.evolve(MUTANT, id="left", hunt="tests/test_toys.py::test_doubles", why="a | b."), Fate.SURVIVED
    )

    assert row(killed) == ("toy", "doubles", "killed", "1,234", "0.2", "doubles")
    assert row(other)[-1] == "test_toys: test_doubles"
    assert summary([killed]) == "1 of 1 mutants killed, each by the property it claims"
    assert summary([killed, other]) == "1 of 2 mutants killed, each by the property it claims; not so left"
    assert plain([killed, other])["killed"] == 1
    lines = page([killed, other], "ci").splitlines()
    assert "clustercore mutants --profile ci" in lines
    assert "## Toys" in lines
    assert "| `toy` | Three is not two. | doubles | 1,234 | 0.2 | doubles | arithmetic |" in lines
    assert "| `left` | a \\| b. | doubles (survived) |  | 0.0 | test_toys: test_doubles | arithmetic |" in lines
