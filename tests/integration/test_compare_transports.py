"""The comparison of the transports runs, and leaves what it is asked for. What it measures says nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.docs_pages import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# Far beyond what it takes: it only ends a run that hangs.
LIMIT_S = 120


def test_compare_transports_leaves_figures_and_a_plot(tmp_path: Path) -> None:
    """Each transport that is installed has its rows, also over TLS and as commits, and the plot is a whole PNG."""
    figures, plot = tmp_path / "figures.json", tmp_path / "plot.png"
    script = str(ROOT / "benchmarks" / "compare_transports.py")
    quick = ["--rounds", "1", "--seconds", "0.01", "--payloads", "64"]

    done = subprocess.run(
        [sys.executable, "-W", "error", script, *quick, "--json", str(figures), "--plot", str(plot)],
        check=True,
        timeout=LIMIT_S,
        # matplotlib keeps a list of fonts in a folder of the user's.
        env=os.environ | {"MPLCONFIGDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )

    rows = json.loads(figures.read_text(encoding="utf-8"))["rows"]
    cells = {(row["transport"], row["tls"], row["mode"], row["payload_bytes"], row["outstanding"]) for row in rows}
    for name in ("grpc", "http", "tcp"):
        for outstanding in (1, 64):
            for mode in ("request", "stream"):
                assert {(name, tls, mode, 64, outstanding) for tls in (False, True)} <= cells
            assert (name, False, "commit", 64, outstanding) in cells
    assert {("raw trio", False, "stream", 64, 1), ("grpcio", False, "request", 64, 1)} <= cells
    for row in rows:
        assert 0 < row["least_per_s"] <= row["per_s"] <= row["most_per_s"]
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["transport"] in done.stdout
    image = plot.read_bytes()
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert b"IEND" in image[-12:]
