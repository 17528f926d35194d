"""The fixture ``sim``, as an application's own tests use it: in a folder and a pytest of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.docs_pages import blocks
from tests.unit.repository import ROOT, reads_repository

pytestmark = [reads_repository, pytest.mark.slow]

PAGE = ROOT / "docs" / "how-to" / "simulate-your-application.md"

BROKEN = """

class Forgetful(Counter):
    def snapshot(self) -> bytes:
        return str(self.value // 10).encode()


async def count(sim) -> None:
    for _ in range(20):
        await sim.propose_once(b"1")


def test_forgetful(sim) -> None:
    sim.run(Forgetful, count)
"""


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the tests in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**os.environ, "CLUSTERCORE_TRACES": str(folder / "traces")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the test that the page shows."""
    (tmp_path / "test_counter.py").write_text(blocks(PAGE, "python")[0].text, encoding="utf-8")
    return tmp_path


def test_test_of_the_page_passes_with_so_many_seeds(folder: Path) -> None:
    """Each seed is a test of its own, and has the seed in its name."""
    done = run_pytest(folder, "-v", "--sim-seeds", "3")

    assert done.returncode == 0, done.stdout
    assert re.findall(r"\[seed(\d)\] PASSED", done.stdout) == ["0", "1", "2"]


def test_failure_tells_how_to_repeat_it_and_repeats(folder: Path) -> None:
    """The command that is told runs that seed alone, and it fails in the same way."""
    with (folder / "test_counter.py").open("a", encoding="utf-8") as test:
        test.write(BROKEN)
    done = run_pytest(folder, "-q", "-k", "forgetful", "--sim-seeds", "12", "-x")
    assert done.returncode == 1, done.stdout
    (test_name, seed) = re.findall(r"repeat:  pytest (\S+) --sim-seed (\d+)", done.stdout)[0]

    again = run_pytest(folder, "-v", test_name, "--sim-seed", seed)

    assert again.returncode == 1
    assert re.findall(r"\[seed(\d+)\] FAILED", again.stdout)[0] == seed
    assert "after the same commands they differ" in again.stdout
    assert list((folder / "traces").iterdir())
