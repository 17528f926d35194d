"""The suite finds deliberate faults: some of them quickly each time, all of them under the ``ci`` profile."""

from __future__ import annotations

import os

import pytest
import trio

from clustercore.testing.mutants.catalogue import Mutant, chosen, default_folder, read_catalogue
from clustercore.testing.mutants.matrix import summary
from clustercore.testing.mutants.runner import PROFILES, Fate, Outcome, run_mutants
from tests.unit.repository import ROOT, reads_repository

pytestmark = [reads_repository, pytest.mark.slow]

# One of each way to hunt, and of the chapters that matter most.
QUICK = (
    "votes-twice",
    "commits-entries-of-older-terms",
    "leader-counts-what-is-not-on-its-disk",
    "change-before-an-entry-of-its-own-term",
    "reads-before-its-own-entry-is-committed",
    "command-applied-again",
    "lease-comes-back-after-the-transfer",
)


def kill(mutants: list[Mutant], profile: str) -> list[Outcome]:
    """Run mutants, as many at a time as there are processors."""

    async def main() -> list[Outcome]:
        return await run_mutants(mutants, root=ROOT, profile=PROFILES[profile], jobs=os.cpu_count() or 1)

    return trio.run(main)


def test_some_mutants_are_killed_quickly() -> None:
    """The suite is not blind, and neither is the command that says so."""
    outcomes = kill(chosen(read_catalogue(default_folder()), QUICK), "default")

    assert {outcome.fate for outcome in outcomes} == {Fate.KILLED}, summary(outcomes)


@pytest.mark.skipif(
    os.environ.get("HYPOTHESIS_PROFILE", "default") == "default",
    reason="takes minutes; HYPOTHESIS_PROFILE=ci, or `clustercore mutants --profile ci`",
)
def test_all_mutants_are_killed() -> None:
    """Each by the property that it claims to break."""
    outcomes = kill(read_catalogue(default_folder()), "ci")

    assert {outcome.fate for outcome in outcomes} == {Fate.KILLED}, summary(outcomes)
