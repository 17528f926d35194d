"""The commands on the pages about campaigns and failures, one after another as a reader types them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clustercore.testing.trace import read_trace
from clustercore.testing.trace.events import Violated
from tests.unit.docs_pages import ROOT, commands
from tests.unit.repository import reads_repository

pytestmark = [reads_repository, pytest.mark.slow, pytest.mark.integration]

# Far beyond what any command takes: it only ends one that hangs.
LIMIT_S = 300
BIN = Path(sys.executable).parent


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of a page in a folder that has the repository's ``docs``."""
    program, *arguments = words
    if program == "python":
        arguments = [str(ROOT / arguments[0]), *arguments[1:]]
    return subprocess.run(
        [str(BIN / program), *arguments],
        cwd=folder,
        env={"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def test_page_on_failures_goes_from_a_broken_rule_to_its_picture(tmp_path: Path) -> None:
    """The schedule is about as short as the page says, its trace is drawn, and on the whole core it runs clean."""
    path = ROOT / "docs/how-to/see-a-failure.md"
    find, view, hash_, replay = commands(path)

    found = run(find, tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    steps = re.findall(r"^\d+\. ", found.stdout, re.MULTILINE)
    assert 3 <= len(steps) <= 10
    assert "broken: committed survives elections (Raft §5.4.1, §5.4.2)" in found.stdout
    last = read_trace(tmp_path / "broken-commit-rule.jsonl").events[-1]
    assert isinstance(last, Violated)

    viewed = run(view, tmp_path)
    assert viewed.returncode == 0, viewed.stderr
    assert "broken at step" in viewed.stdout
    assert (tmp_path / "figure-8.html").exists()
    assert run(hash_, tmp_path).stdout.endswith("  broken-commit-rule.jsonl\n")
    # Only the program left the rule out.
    again = run(replay, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "nothing broken\n  another trace than before" in again.stdout


def test_page_on_campaigns_runs_clean(tmp_path: Path) -> None:
    """Each command ends well, and tells what the page shows; of the long one, the beginning is run."""
    for words in commands(ROOT / "docs/how-to/fuzz.md"):
        done = run([word.replace("1000", "40") for word in words], tmp_path)

        assert done.returncode == 0, done.stdout + done.stderr
        if "--seeds" in words:
            assert re.match(
                r"protocol level: 40 seeds, [\d,]+ events, [\d,]+ events a second of one core, ", done.stdout
            )
            assert done.stdout.endswith("nothing broken\n")
    assert (tmp_path / "run.html").exists()
