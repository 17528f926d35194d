"""The benchmarks run, and leave what they are asked for. What they measure says nothing here."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.docs_pages import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# Far beyond what it takes: it only ends a run that hangs.
LIMIT_S = 120


def figures_of(name: str, folder: Path, *options: str) -> Any:
    """Run a benchmark with warnings as errors; return the JSON that it leaves in the folder."""
    figures = folder / "figures.json"
    subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "benchmarks" / f"{name}.py"), *options, "--json", str(figures)],
        check=True,
        timeout=LIMIT_S,
        stdout=subprocess.DEVNULL,
        # matplotlib keeps a list of fonts in a folder of the user's.
        env=os.environ | {"MPLCONFIGDIR": str(folder / "fonts")},
    )
    return json.loads(figures.read_text(encoding="utf-8"))


def test_first_slice_leaves_figures_and_a_plot(tmp_path: Path) -> None:
    """The JSON has a row of positive figures for each case, and the plot is a whole PNG."""
    plot = tmp_path / "plot.png"

    report = figures_of("first_slice", tmp_path, "--rounds", "1", "--seconds", "0.2", "--plot", str(plot))
    assert [row["outstanding"] for row in report["rows"]] == [1, 64, 512]
    for row in report["rows"]:
        assert 0 < row["least_commits_per_s"] <= row["commits_per_s"] <= row["most_commits_per_s"]
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    image = plot.read_bytes()
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert b"IEND" in image[-12:]
    width, height = struct.unpack_from(">II", image, 16)
    assert min(width, height) >= 500


def test_linearizability_leaves_figures(tmp_path: Path) -> None:
    """The JSON has a row for each case, and the verdicts that do not depend on the machine are right."""
    rows = figures_of("linearizability", tmp_path, "--operations", "400", "--clients", "5")["rows"]
    assert len(rows) == 8
    for row in rows:
        assert row["verdict"] == ("not linearizable" if "stale" in row["history"] else "linearizable"), row


def test_merge_leaves_figures(tmp_path: Path) -> None:
    """The JSON has a row for each way in which changes meet what is held, with all its figures."""
    told = figures_of("merge", tmp_path, "--entities", "600")
    assert [row["case"] for row in told["rows"]] == ["new", "follows", "the same", "older", "conflict"]
    assert all(row[name] > 0 for row in told["rows"] for name in ("merge_us", "apply_us", "sqlite_us", "decode_us"))
    # What a writer adds to a state is its name and a time.
    sizes = {row["writers"]: row["state_bytes"] for row in told["by_writers"]}
    assert sizes[300] < 30 * 300


@pytest.mark.skipif(sys.platform != "linux", reason="it reads a process's memory from /proc")
def test_snapshot_transfer_leaves_figures(tmp_path: Path) -> None:
    """The whole state arrives, and the JSON has what it took."""
    found = figures_of("snapshot_transfer", tmp_path, "--size", "16MiB", "--folder", str(tmp_path))["figures"]
    assert found["moved_mib"] == 16
    assert found["leader_grows_sending_mib"] >= 0
    assert found["leader_base_mib"] > 0
    assert found["sending_s"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_idle_cost_leaves_figures(tmp_path: Path) -> None:
    """The JSON has a row for each of three processes, and one for the groups, which take no step."""
    report = figures_of("idle_cost", tmp_path, "--seconds", "1", "--groups", "10")
    assert sorted(row["node"] for row in report["nodes"]) == ["n1", "n2", "n3"]
    for row in report["nodes"]:
        assert row["cpu_percent"] > 0
        assert row["steps_per_s"] >= row["wakeups_per_s"] > 0
    # The step is the one of whoever watches, in a fifth of the time.
    assert (report["groups"]["groups"], report["groups"]["steps_per_s"]) == (10, 5)


def test_rolling_restart_leaves_figures(tmp_path: Path) -> None:
    """Nothing is lost, whatever the gaps are on this machine, and the JSON has a gap for each round."""
    found = figures_of("rolling_restart", tmp_path, "--rounds", "1")["figures"]
    assert found["writes"] > 0
    assert found["lost"] == 0
    assert [found["longest_gap_ms"]] == found["gaps_ms"]
    assert found["longest_gap_ms"] > 0


def test_node_simulation_leaves_figures(tmp_path: Path) -> None:
    """The JSON has a row for each kind of world, and in each something was done."""
    rows = figures_of("node_simulation", tmp_path, "--seeds", "1", "--faults-s", "5")["rows"]
    assert [row["world"] for row in rows] == ["quiet", "faults", "as drawn"]
    assert all(row["speed"] > 0 and row["done"] > 0 for row in rows)


def test_health_leaves_figures(tmp_path: Path) -> None:
    """The JSON says how many checks of how many nodes were simulated; an hour has 360 of each, give or take a few."""
    report = figures_of("health", tmp_path, "--nodes", "5", "--hours", "1")
    assert (report["nodes"], report["hours"]) == (5, 1.0)
    assert 5 * 350 < report["checks"] <= 5 * 370
    assert report["seconds"] > 0


def test_sync_leaves_figures_and_keeps_to_its_bounds(tmp_path: Path) -> None:
    """What is sent does not depend on the machine: every figure keeps to its bound, also with a smaller fleet."""
    report = figures_of("sync", tmp_path, "--uavs", "500", "--entities", "2000", "--writers", "500")
    assert report["fleet"]["large"]["changes_sent"] == 500 * 10
    assert report["fleet"]["large"]["replicas_equal"]
    assert report["comparison"]["replicas_equal"]
