"""The Cluster Center, headless: its story comes to its end, with a partition, a lost leader, and equal servers."""

import re
import subprocess
import sys

import pytest

from tests.unit.repository import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_story_ends_with_equal_servers_conflicts_resolved_and_bytes_saved() -> None:
    """Three servers over gRPC in one process, with a fleet of a hundred instead of a thousand, and short chapters."""
    found = subprocess.run(
        [sys.executable, "-m", "cluster_center", "--headless", "--uavs", "100", "--pause", "4"],
        cwd=ROOT / "docs" / "examples",
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert found.returncode == 0, found.stdout + found.stderr
    text = " ".join(found.stdout.split())
    for line in ("is cut off", "healed", "which led, is lost", "is back", "hold the same, to the last byte"):
        assert line in text
    figures = re.search(r"conflicts resolved: (\d+); bytes saved by incremental sync: ([\d,]+)", text)
    assert figures is not None, text
    assert int(figures[1]) >= 5
    assert int(figures[2].replace(",", "")) > 0
