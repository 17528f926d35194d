"""What a run leaves: a trace that goes as the run went, the same everywhere; and, if it failed, a short one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import clustercore
from clustercore.cli.commands import root
from clustercore.testing.invariants import Facts, Invariant, Invariants, facts, watcher
from clustercore.testing.protocol import Kind, World, WorldPlan, draw_plan, draw_schedule
from clustercore.testing.protocol.runs import ProtocolRun, run_schedule, run_seed
from clustercore.testing.protocol.shrinking import shrink_run
from clustercore.testing.protocol.tracing import schedule_of, trace_run
from clustercore.testing.protocol.world import Node, Watcher
from clustercore.testing.shrink import shrink_list
from clustercore.testing.trace import read_trace, write_trace
from clustercore.testing.trace.events import Noted, Violated
from clustercore.testing.trace.failures import FOLDER_VARIABLE
from clustercore.testing.violation import PropertyViolated

SEED = 5
# Prints the hash of a seed's trace. It imports nothing that a test framework would bring.
PROGRAM = (
    "import sys; from clustercore.testing.protocol.runs import draw_run; "
    "from clustercore.testing.protocol.tracing import trace_run; "
    f"sys.stdout.write(trace_run(*draw_run({SEED})).hash)"
)
# Pythons that are looked for, beside the one that runs the tests.
VERSIONS = ("3.11", "3.12", "3.13", "3.14")


def hash_in(python: str, hash_seed: str) -> str:
    """Return the hash of the seed's trace in another process."""
    # Where the packages of this environment are, for an interpreter that has none: what is needed is all Python.
    path = os.pathsep.join([str(Path(clustercore.__file__).parents[1]), sysconfig.get_path("purelib")])
    done = subprocess.run(
        [python, "-c", PROGRAM],
        env={"PYTHONPATH": path, "PYTHONHASHSEED": hash_seed, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def other_pythons() -> dict[str, str]:
    """Return the interpreters of other minor versions that are here, by version."""
    found: dict[str, str] = {}
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    folders = [*Path.home().glob(".pyenv/versions/*/bin"), *map(Path, os.environ.get("PATH", "").split(os.pathsep))]
    for version in VERSIONS:
        for folder in folders:
            python = folder / f"python{version}"
            if version == here or version in found or not python.exists() or "shims" in folder.parts:
                continue
            done = subprocess.run([str(python), "-c", "import sqlite3, ssl"], capture_output=True)
            if done.returncode == 0:
                found[version] = str(python)
    return found


def hash_here() -> str:
    """Return the hash of the seed's trace in this process."""
    plan = draw_plan(SEED)
    return trace_run(plan, run_seed(SEED).choices).hash


# --- The same everywhere ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_recording_changes_nothing(seed: int) -> None:
    """A recorded world takes the same steps as one that is not, and the same steps have the same hash."""
    plan = draw_plan(seed)
    choices = draw_schedule(plan, 200)
    run = run_schedule(plan, choices)

    traced, again = trace_run(plan, choices), trace_run(plan, choices)

    assert traced.run.error is None
    assert (traced.run.events, traced.run.coverage) == (run.events, run.coverage)
    assert run.world is not None
    assert traced.run.world is not None
    for name, node in run.world.nodes.items():
        assert traced.run.world.nodes[name].machine == node.machine
        assert traced.run.world.nodes[name].disk == node.disk
    assert traced.hash == again.hash


@pytest.mark.slow
def test_hash_is_the_same_in_other_processes_and_with_other_hashes() -> None:
    """Neither memory nor hashes of another process show in a trace."""
    assert {hash_in(sys.executable, seed) for seed in ("0", "1", "4711")} == {hash_here()}


@pytest.mark.slow
def test_hash_is_the_same_on_other_pythons() -> None:
    """Nor does the version of Python: a seed found on one machine is looked into on another."""
    found = other_pythons()
    if not found:
        pytest.skip(f"no other Python of {', '.join(VERSIONS)} is installed here")

    assert {version: hash_in(python, "7") for version, python in found.items()} == dict.fromkeys(found, hash_here())


# --- What a failure leaves --------------------------------------------------------------------------------------------


class NothingCommitted(Invariant):
    """A planted property that breaks as soon as a second entry is committed after a crash."""

    name = "nothing is committed"
    source = "this test"

    def __init__(self, known: Facts) -> None:
        super().__init__(known)
        self.starts = 0

    def started(self, world: facts.World, node: facts.Node) -> None:
        """Count."""
        self.starts += 1

    def committed(self, world: facts.World, node: facts.Node, first: int, last: int) -> None:
        """Fail for any, once somebody has started again."""
        if self.starts > len(world.nodes):
            self.fail(f"{node.node_id} commits {last}", node)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Check a property that does not hold; return the folder of traces."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "traces"))
    monkeypatch.setattr("clustercore.testing.protocol.runs.PROPERTIES", (*watcher.PROPERTIES, NothingCommitted))
    return tmp_path / "traces"


def failing_run() -> ProtocolRun:
    """Return a run that breaks the planted property."""
    return next(run for run in map(run_seed, range(100)) if run.violated == NothingCommitted.name)


@pytest.mark.slow
def test_failing_schedule_becomes_short(planted: Path) -> None:
    """What does not matter is left out of the schedule and of the world; the same property breaks."""
    shrunk = shrink_run(failing_run())

    again = run_schedule(shrunk.plan, shrunk.choices, heals=shrunk.heals)
    assert again.violated == NothingCommitted.name
    assert not shrunk.heals
    assert len(shrunk.choices) <= 10
    assert (shrunk.plan.spares, shrunk.plan.clock_rates, shrunk.plan.snapshot_every) == (0, (), 0)


@pytest.mark.slow
def test_fuzz_tells_the_first_failure_and_how_to_repeat_it(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints the short schedule, and leaves a trace that ends where the property broke; its commands work."""
    done = CliRunner().invoke(root, ["fuzz", "--seeds", "50"])

    assert done.exit_code == 1, done.output
    assert "broke: nothing is committed" in done.output
    (path,) = planted.glob("*.jsonl")
    trace = read_trace(path)
    assert trace.header.replay == f"clustercore fuzz --replay {path}"
    last = trace.events[-1]
    assert isinstance(last, Violated)
    assert last.name == NothingCommitted.name
    steps = [event.text for event in trace.events if isinstance(event, Noted)]
    assert [line.strip() for line in done.output.splitlines() if re.match(r"  \d+\. ", line)] == steps
    assert len(steps) <= 10

    again = CliRunner().invoke(root, ["fuzz", "--replay", str(path)])
    assert again.exit_code == 1, again.output
    assert "the same trace as before" in again.output
    repeat = re.findall(r"^repeat:  clustercore (.*) FILE$", done.output, re.MULTILINE)[0].split()
    whole = CliRunner().invoke(root, [*repeat, str(planted / "whole.jsonl")])
    assert whole.exit_code == 1, whole.output
    assert isinstance(read_trace(planted / "whole.jsonl").events[-1], Violated)


@pytest.mark.slow
def test_trace_holds_its_schedule(tmp_path: Path) -> None:
    """World and choices come back from the file as they were."""
    plan = draw_plan(SEED)
    choices = draw_schedule(plan, 60)
    traced = trace_run(plan, choices, heals=False)
    path = tmp_path / "run.jsonl"
    write_trace(path, traced.header, traced.events)

    assert schedule_of(read_trace(path).header.options) == (plan, choices, False)


def test_schedule_of_another_level_is_refused() -> None:
    """It is told in one line what is missing."""
    with pytest.raises(ValueError, match="holds no schedule of the protocol level"):
        schedule_of({"seed": 7})
    with pytest.raises(ValueError, match="a world has no moons"):
        schedule_of({"world": {"moons": 2}, "choices": [], "heals": True})


def test_violation_is_told_by_its_property(planted: Path) -> None:
    """A trace names the property, its source and the node, whatever function found it."""
    error = PropertyViolated("a property", "as planned", "Raft §0", "n1")

    class Fails(Watcher):
        def settled(self, world: World, node: Node) -> None:
            raise error

    traced = trace_run(WorldPlan(), [(Kind.EXPIRE, 0, 0)], heals=False)
    run = run_schedule(WorldPlan(), [(Kind.EXPIRE, 0, 0)], heals=False, watchers=[Fails()])

    assert traced.run.error is None
    assert run.error is error
    assert run.violated == "a property"


def test_properties_have_names_and_sources() -> None:
    """Each has a name of its own and says where it is from; leases are left out where clocks promise nothing."""
    names = [check.name for check in watcher.PROPERTIES]

    assert len(set(names)) == len(names)
    assert all(check.source for check in watcher.PROPERTIES)
    assert len(Invariants(has_true_drift=False).checks) == len(names) - 1


# --- Shrinking lists --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needed", "length"), [((), 10), ((3,), 10), ((0, 9), 10), ((0, 50, 99), 100), (tuple(range(7)), 7)]
)
def test_shrink_list_keeps_what_is_needed(needed: tuple[int, ...], length: int) -> None:
    """What can be left out is left out, in order, and within the given number of runs."""
    calls = 0

    def fails(items: object) -> bool:
        nonlocal calls
        calls += 1
        assert isinstance(items, list)
        return set(needed) <= set(items)

    assert shrink_list(range(length), fails) == list(needed)
    assert calls <= 10 * length

    calls = 0
    shrink_list(range(length), fails, max_runs=3)
    assert calls <= 3
