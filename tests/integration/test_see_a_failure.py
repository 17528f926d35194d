"""docs/how-to/see-a-failure.md: each of its commands, in their order, does what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.docs_pages import ROOT, commands
from tests.unit.repository import reads_repository

pytestmark = [pytest.mark.integration, pytest.mark.slow, reads_repository]

# Far beyond what any command takes: it only ends one that hangs.
LIMIT_S = 300
PAGE = ROOT / "docs" / "how-to" / "see-a-failure.md"


def test_commands_go_from_a_broken_rule_to_its_picture(tmp_path: Path) -> None:
    """The search finds about ten steps, the page is drawn and names what broke, and hash and repetition agree."""
    shown = list(commands(PAGE))
    assert [words[0] for words in shown] == ["python", "clustercore", "clustercore", "python"]
    environment = {name: value for name, value in os.environ.items() if name != "CLUSTERCORE_TRACES"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    printed = []
    for words in shown:
        start = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "clustercore.cli"]
        done = subprocess.run(
            [*start, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert (done.returncode, done.stderr) == (0, ""), words
        printed.append(done.stdout)

    search, view, hashed, again = printed
    assert 1 <= len(re.findall(r"^\d+\. ", search, re.MULTILINE)) <= 20
    (broken,) = re.findall(r"^broken: (.*)$", search, re.MULTILINE)
    assert "Raft §5.4" in search
    trace = Path(".clustercore-traces/broken-commit-rule.jsonl")
    assert search.endswith(f"trace: {trace}\n")
    assert re.fullmatch(rf"figure-8\.html: \d+ events of \d nodes; broken at step \d+: {broken}\n", view)
    assert broken in (tmp_path / "figure-8.html").read_text(encoding="utf-8")
    assert re.fullmatch(rf"[0-9a-f]{{64}}  {trace}\n", hashed)
    assert again == "the schedule runs clean\n"
