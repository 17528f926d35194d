"""What a failing schedule leaves: a short one, as a trace that goes as the run went and says where it broke."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustercore.testing.shrink import shrink_list
from clustercore.testing.trace import read_trace, write_trace
from clustercore.testing.trace.events import Noted, Violated
from clustercore.testing.trace.failures import FOLDER_VARIABLE
from tests.properties.broken_commit_rule import break_commit_rule, find
from tests.properties.raft_invariants import Invariants
from tests.properties.raft_schedules import Event, Setup, random_schedule, run
from tests.properties.raft_trace import run_and_heal, trace_schedule

Patch = pytest.MonkeyPatch


@pytest.mark.slow
@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_recording_changes_nothing(seed: int) -> None:
    """A recorded world takes the same steps as one that is not, and the same steps have the same hash."""
    setup, steps = random_schedule(seed, length=300)
    world, _ = run(setup, steps)

    traced = trace_schedule(setup, steps, heal=False)

    assert traced.error is None
    assert (traced.world.now, traced.world.packets) == (world.now, world.packets)
    for name, node in world.nodes.items():
        assert traced.world.nodes[name].machine == node.machine
        assert traced.world.nodes[name].disk == node.disk
    assert traced.hash == trace_schedule(setup, steps, heal=False).hash


@pytest.mark.slow
def test_hash_is_the_same_in_another_process() -> None:
    """Neither memory nor hashes of another process show in a trace."""
    program = (
        "import sys; from tests.properties.raft_schedules import random_schedule; "
        "from tests.properties.raft_trace import trace_schedule; "
        "sys.stdout.write(trace_schedule(*random_schedule(5, 500)).hash)"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "4711")
    }

    assert hashes == {trace_schedule(*random_schedule(5, 500)).hash}


@pytest.mark.slow
def test_broken_commit_rule_leaves_a_short_schedule(monkeypatch: Patch, tmp_path: Path) -> None:
    """Without the rule of Figure 8, a schedule of about ten steps is found, and its trace ends where it broke."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    break_commit_rule(monkeypatch)

    failed = find("figure 8")

    assert failed is not None
    assert failed.path == tmp_path / "figure-8.jsonl"
    trace = read_trace(failed.path)
    assert trace.hash == failed.hash
    assert trace.header.replay == f"python -m tests.properties.raft_trace {failed.path}"
    last = trace.events[-1]
    assert isinstance(last, Violated)
    assert last.node in trace.header.nodes
    assert "Raft §5.4" in last.text
    assert sum(isinstance(event, Noted) for event in trace.events) <= 20


@pytest.mark.slow
def test_trace_is_repeated_by_its_command(monkeypatch: Patch, tmp_path: Path) -> None:
    """The command in a trace runs its schedule again; on a core that is not broken, it runs clean."""
    setup, steps = random_schedule(5, 100)
    run_ = trace_schedule(setup, steps)
    path = tmp_path / "run.jsonl"
    write_trace(path, run_.header, run_.events)

    done = subprocess.run(
        [sys.executable, "-m", "tests.properties.raft_trace", str(path)],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "the schedule runs clean\n", "")


def test_failing_run_tells_where_its_trace_is(monkeypatch: Patch, tmp_path: Path) -> None:
    """Path, picture and repetition are in the error's notes, which pytest prints; a clean run leaves nothing."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "traces"))
    setup, steps = random_schedule(5, 60)
    run_and_heal(setup, steps, name="clean")
    assert list(tmp_path.iterdir()) == []

    def acted(self: Invariants, *_: object) -> None:
        """Nothing is ever right (Raft §0)."""
        raise AssertionError("as planned")

    monkeypatch.setattr(Invariants, "acted", acted)
    with pytest.raises(AssertionError, match="as planned") as caught:
        run_and_heal(Setup(), [(Event.EXPIRE, 0, 0)], name="not clean")

    path = tmp_path / "traces" / "not-clean.jsonl"
    (note,) = caught.value.__notes__
    assert note.splitlines() == [
        f"trace:   {path}",
        f"look:    clustercore trace view {path}",
        f"repeat:  python -m tests.properties.raft_trace {path}",
    ]
    last = read_trace(path).events[-1]
    assert isinstance(last, Violated)
    assert (last.node, last.name, last.text) == ("n1", "acted", "as planned\nNothing is ever right (Raft §0).")


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
