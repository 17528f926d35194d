"""``clustercore mutants``, from the outside; the runs themselves are replaced."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clustercore.cli import mutants as command
from clustercore.cli.commands import root
from clustercore.cli.exits import Exit
from clustercore.testing.mutants.catalogue import CatalogueError, Mutant, default_folder, read_catalogue
from clustercore.testing.mutants.runner import PROFILES, Fate, Outcome, Profile
from tests.unit.repository import reads_repository

pytestmark = reads_repository

ONE = "commits-entries-of-older-terms"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Profile, int]]:
    """Let every mutant survive whose name is here, and kill all others; return what is asked for."""
    calls: list[tuple[list[str], Profile, int]] = []

    async def run_mutants(
        mutants: Sequence[Mutant], *, root: Path, profile: Profile, jobs: int, on_done: Callable[[Outcome], None]
    ) -> list[Outcome]:
        calls.append(([mutant.id for mutant in mutants], profile, jobs))
        outcomes = [
            Outcome(mutant, Fate.SURVIVED if mutant.id == "votes-twice" else Fate.KILLED, "as told", 7, 0.5)
            for mutant in mutants
        ]
        for outcome in outcomes:
            on_done(outcome)
        return outcomes

    monkeypatch.setattr(command, "run_mutants", run_mutants)
    return calls


def invoke(*arguments: str) -> Any:
    """Run the command."""
    return CliRunner().invoke(root, ["mutants", *arguments])


def test_matrix_is_printed(asked: list[tuple[list[str], Profile, int]]) -> None:
    """With the profile, the jobs and the mutants that were asked for."""
    result = invoke("--only", ONE, "--profile", "ci", "--jobs", "3")

    assert result.exit_code == Exit.DONE
    assert asked == [([ONE], PROFILES["ci"], 3)]
    assert ONE in result.stdout
    assert "1 of 1 mutants killed, each by the property it claims" in result.stdout


def test_mutant_that_is_left_is_told(asked: list[tuple[list[str], Profile, int]]) -> None:
    """By its name, with what came of it, and by the exit code."""
    result = invoke("--only", ONE, "--only", "votes-twice")

    assert result.exit_code == Exit.NO
    assert "votes-twice: survived. as told" in result.stdout
    assert "1 of 2 mutants killed, each by the property it claims; not so votes-twice" in result.stdout


def test_json_holds_the_matrix(asked: list[tuple[list[str], Profile, int]]) -> None:
    """One line, with all that the catalogue says of a mutant and all that was found."""
    result = invoke("--only", ONE, "--json")

    told = json.loads(result.stdout)
    assert (told["profile"], told["killed"]) == ("default", 1)
    (one,) = told["mutants"]
    assert (one["id"], one["fate"], one["events"], one["seconds"]) == (ONE, "killed", 7, 0.5)


def test_list_runs_nothing(asked: list[tuple[list[str], Profile, int]]) -> None:
    """It shows the catalogue, as text or as JSON."""
    catalogue = read_catalogue(default_folder())

    assert [each["id"] for each in json.loads(invoke("--list", "--json").stdout)] == [each.id for each in catalogue]
    assert ONE in invoke("--list").stdout
    assert asked == []


def test_documentation_is_written_on_demand(
    asked: list[tuple[list[str], Profile, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """To the page of the checkout, or to any other path."""
    monkeypatch.setattr(command, "PAGE", tmp_path / "mutants.md")

    assert invoke("--only", ONE, "--write-docs").exit_code == Exit.DONE

    assert f"| `{ONE}` |" in (tmp_path / "mutants.md").read_text(encoding="utf-8")


def test_unknown_mutant_is_an_error(asked: list[tuple[list[str], Profile, int]]) -> None:
    """In one line, and nothing is run."""
    result = invoke("--only", "no-such-mutant")

    assert result.exit_code == Exit.FAILED
    assert result.stderr == (
        "clustercore: no mutant is called no-such-mutant; `clustercore mutants --list` shows all\n"
    )
    assert asked == []


def test_without_a_checkout_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue stands beside the tests, which are not installed."""

    def nowhere() -> Path:
        raise CatalogueError("it is no checkout")

    monkeypatch.setattr(command, "default_folder", nowhere)
    result = invoke()

    assert (result.exit_code, result.stderr) == (Exit.FAILED, "clustercore: it is no checkout\n")
