"""Campaigns and worlds: what is drawn, what is refused, and what ``clustercore fuzz`` prints."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from clustercore.cli.commands import root
from clustercore.interfaces import ConfigError
from clustercore.raft.types import Configuration
from clustercore.testing import campaign
from clustercore.testing.campaign import Level, SeedResult, level_of, run_campaign
from clustercore.testing.invariants import PROPERTIES, do_quorums_intersect
from clustercore.testing.protocol import Kind, draw_plan, draw_schedule
from clustercore.testing.protocol.choices import FAULTS, OPENING, WEIGHTS
from clustercore.testing.protocol.moves import _MOVES
from clustercore.testing.protocol.plan import plan_from
from tests.unit.docs_pages import table

# Found by the first seed from 30 on.
BROKEN_AT = 30


class Planted(Level):
    """A level whose seeds from BROKEN_AT on break a property."""

    name = "planted"
    expected = ("things", "wonders")

    def run(self, seed: int) -> SeedResult:
        """Break it or not."""
        violated = "a property" if seed >= BROKEN_AT else None
        return SeedResult(seed, "a world", 10, 0.5, {"things": 2}, violated, "as planned" if violated else "")

    def trace(self, seed: int, path: Path) -> SeedResult:
        """Write something."""
        path.write_text("a trace")
        return self.run(seed)

    def shrink(self, seed: int, path: Path, say: Callable[[str], object]) -> Sequence[str]:
        """Write something shorter."""
        path.write_text("a")
        return ["1. a step", "broken: a property"]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let campaigns find the level; return the folder of traces."""
    monkeypatch.setitem(campaign.LEVELS, "planted", f"{__name__}:Planted")
    monkeypatch.setattr(campaign, "import_module", lambda name: sys.modules[__name__])
    monkeypatch.setenv("CLUSTERCORE_TRACES", str(tmp_path / "traces"))
    return tmp_path / "traces"


# --- Campaigns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_campaign_counts_and_stops_at_the_first_failure(jobs: int) -> None:
    """Events, time and coverage add up; whichever worker is first, the first seed that fails is told."""
    result = run_campaign(Planted(), range(100), jobs=jobs)

    assert (result.seeds, result.events, result.seconds) == (31, 310, 15.5)
    assert result.coverage == {"things": 62}
    assert [failed.seed for failed in result.failures] == [BROKEN_AT]
    assert (result.violated, result.events_per_second) == ("a property", 20)


def test_campaign_goes_on_if_that_is_wanted() -> None:
    """All failures are told, in the order of the seeds."""
    result = run_campaign(Planted(), range(28, 33), stops_at_failure=False)

    assert [failed.seed for failed in result.failures] == [30, 31, 32]


def test_campaign_ends_with_its_time() -> None:
    """No seed is begun after it."""
    assert run_campaign(Planted(), itertools.count(), for_s=0).seeds == 0


def test_level_that_is_not_there_is_refused() -> None:
    """The text names those that are."""
    with pytest.raises(ConfigError, match=r"level = .quantum. is not allowed; .*protocol"):
        level_of("quantum")


# --- The command ------------------------------------------------------------------------------------------------------


def test_fuzz_tells_a_failure(planted: Path) -> None:
    """Counts, the property, the short schedule, and the commands to go on with."""
    done = CliRunner().invoke(root, ["fuzz", "--level", "planted", "--seeds", "50"])

    path = planted / "planted-30.jsonl"
    assert done.exit_code == 1
    assert done.stdout.splitlines()[1:] == [
        "reached: 62 things",
        "seed 30 broke: a property",
        "  as planned",
        "  world: a world",
        "made short:",
        "  1. a step",
        "  broken: a property",
        f"trace:   {path}",
        f"look:    clustercore trace view {path}",
        "repeat:  clustercore fuzz --level planted --seed 30 --trace FILE",
    ]
    assert path.read_text() == "a"


def test_fuzz_leaves_a_failure_as_it_was_if_told_to(planted: Path) -> None:
    """--no-shrink writes the trace of the whole run."""
    done = CliRunner().invoke(root, ["fuzz", "--level", "planted", "--seeds", "50", "--no-shrink"])

    assert done.exit_code == 1
    assert "made short" not in done.stdout
    assert (planted / "planted-30.jsonl").read_text() == "a trace"


def test_fuzz_tells_as_json(planted: Path) -> None:
    """One object: the counts, what was never reached, and the failure or null."""
    clean = CliRunner().invoke(root, ["fuzz", "--level", "planted", "--seeds", "20", "--json"])
    broken = CliRunner().invoke(root, ["fuzz", "--level", "planted", "--from", "29", "--seeds", "5", "--json"])

    told = json.loads(clean.stdout)
    assert (told["seeds"], told["events"], told["never_reached"], told["failure"]) == (20, 200, ["wonders"], None)
    assert clean.exit_code == 0
    failure = json.loads(broken.stdout)["failure"]
    assert (failure["seed"], failure["violated"], failure["schedule"][0]) == (30, "a property", "1. a step")
    assert broken.exit_code == 1


def test_fuzz_says_what_a_long_campaign_never_reached(planted: Path) -> None:
    """A short one need not have reached everything."""
    few = CliRunner().invoke(root, ["fuzz", "--level", "planted", "--seeds", "20"])

    assert "never reached" not in few.stdout
    assert few.stdout.endswith("nothing broken\n")


def test_fuzz_runs_one_seed(planted: Path, tmp_path: Path) -> None:
    """With or without a trace; the exit code is the campaign's."""
    clean = CliRunner().invoke(root, ["fuzz", "--level", "planted", "--seed", "3"])
    path = tmp_path / "run.jsonl"
    broken = CliRunner().invoke(root, ["fuzz", "--level", "planted", "--seed", "31", "--trace", str(path)])

    assert (clean.exit_code, clean.stdout.splitlines()[-1]) == (0, "  nothing broken")
    assert broken.exit_code == 1
    assert f"  trace:  {path}" in broken.stdout
    assert path.read_text() == "a trace"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--seeds", "3", "--for", "1m"], "two answers"),
        (["--trace", "x"], "--trace needs --seed"),
        (["--seed", "1", "--seeds", "3"], "--seed stands alone"),
        (["--replay", "x", "--seed", "3"], "--replay stands alone"),
        (["--for", "soon"], "is no duration; 30s, 10m and 2h are"),
        (["--level", "quantum"], "level = 'quantum' is not allowed"),
    ],
)
def test_fuzz_refuses_what_makes_no_sense(options: list[str], text: str) -> None:
    """Usage errors are exit code 2, in one line or as click tells them."""
    done = CliRunner().invoke(root, ["fuzz", *options])

    assert done.exit_code == 2
    assert text in " ".join(done.output.split())


def test_fuzz_names_a_trace_that_is_not_there(tmp_path: Path) -> None:
    """As every command does: one line."""
    done = CliRunner().invoke(root, ["fuzz", "--replay", str(tmp_path / "none.jsonl")])

    assert done.exit_code == 1
    assert "cannot be read" in done.output


# --- Worlds -----------------------------------------------------------------------------------------------------------


def test_seeds_draw_all_kinds_of_worlds() -> None:
    """Every size from one to seven and of a batch, ordered links, lost disks, clocks that cannot be relied on."""
    drawn = [draw_plan(seed) for seed in range(300)]

    assert {plan.voters for plan in drawn} == set(range(1, 8))
    assert {plan.max_append_entries for plan in drawn} == {1, 2, 8, 10_000}
    assert {plan.chunk_bytes for plan in drawn} == {1, 3, 100}
    assert {plan.snapshot_every for plan in drawn} >= {0, 3}
    for name in ("has_ordered_links", "is_forming", "loses_disks", "has_true_drift"):
        assert {getattr(plan, name) for plan in drawn} == {True, False}, name
    assert {plan.chaos for plan in drawn} == {"tame", "rough", "wild"}


def test_schedule_has_its_opening_and_no_choice_without_meaning() -> None:
    """A leader is elected in each; ordered links repeat nothing, and where nobody can be added nobody is."""
    for seed in range(100):
        plan = draw_plan(seed)
        schedule = draw_schedule(plan, 200)
        places = [place for place in range(len(schedule)) if tuple(schedule[place : place + len(OPENING)]) == OPENING]
        assert places
        kinds = {kind for kind, _, _ in schedule}
        assert not plan.has_ordered_links or kinds.isdisjoint({Kind.DUPLICATE, Kind.REPLAY})
        assert plan.spares or kinds.isdisjoint({Kind.CHANGE_MEMBERS, Kind.COME_BACK})
        assert plan.loses_disks or Kind.LOSE_DISK not in kinds


def test_every_kind_of_choice_is_drawn_and_carried_out() -> None:
    """No kind is forgotten in a table."""
    assert set(WEIGHTS) == set(Kind) == set(_MOVES)
    assert set(Kind) > FAULTS


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"voters": 0}, "voters = 0"),
        ({"voters": 7, "spares": 3}, "at most 9"),
        ({"chaos": "total"}, "chaos = 'total' is not allowed; one of tame, rough, wild is"),
        ({"clock_rates": (3.0,)}, "each is from 0.5 to 2"),
        ({"loses_disks": True}, "needs is_forming"),
        ({"chunk_bytes": 0}, "chunk_bytes = 0"),
    ],
)
def test_world_that_makes_no_sense_is_refused(values: dict[str, object], text: str) -> None:
    """The text names the option, its value and what is allowed."""
    with pytest.raises(ValueError, match=text):
        plan_from(values)


# --- Properties -------------------------------------------------------------------------------------------------------


def test_page_has_every_property() -> None:
    """The table of properties names those that are checked, and some that the world itself checks."""
    documented = [row[0] for row in table("docs/how-to/fuzz.md", "property")]

    assert [name for name in (check.name for check in PROPERTIES) if name not in documented] == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (Configuration.of("abc"), Configuration.of("abcd"), True),
        (Configuration.of("abc"), Configuration.of("abcde"), False),
        (Configuration.of("abc"), Configuration.of("ab"), True),
        (Configuration.of("abc"), Configuration.of("def"), False),
        (Configuration.of("abc"), Configuration.of("def", old_voters="abc"), True),
        (Configuration.of("def", old_voters="abc"), Configuration.of("def"), True),
        (Configuration.of("def", old_voters="abc"), Configuration.of("deg"), False),
        (Configuration.of("def", old_voters="abc"), Configuration.of("dgh"), False),
    ],
)
def test_quorums_intersect_by_definition(old: Configuration, new: Configuration, expected: bool) -> None:
    """One voter more or less, or a joint configuration between: these share a node in any two quorums."""
    assert do_quorums_intersect(old, new) is expected
    assert do_quorums_intersect(new, old) is expected
