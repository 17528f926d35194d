"""``clustercore trace``: a page beside the trace, hashes as sha256sum prints them, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from clustercore.cli.commands import root
from clustercore.testing.trace import write_trace
from tests.unit.testing.traces import HEADER, TEN_EVENTS, VIOLATED


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A trace of ten events and a violation."""
    path = tmp_path / "run.jsonl"
    write_trace(path, HEADER, [*TEN_EVENTS, VIOLATED])
    return path


def test_view_writes_the_page_beside_the_trace(path: Path) -> None:
    """Without -o the page has the trace's name; the line printed says what is in it."""
    done = CliRunner().invoke(root, ["trace", "view", str(path)])

    page = path.with_suffix(".html")
    assert (done.exit_code, done.output) == (
        0,
        f"{page}: 11 events of 2 nodes; broken at step 11: {VIOLATED.name}\n",
    )
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_view_writes_where_it_is_told_and_tells_as_json(path: Path) -> None:
    """-o names the page, --json makes one object of the line."""
    page = path.with_name("page.html")
    written = write_trace(path, HEADER, TEN_EVENTS)

    done = CliRunner().invoke(root, ["trace", "view", str(path), "-o", str(page), "--json"])

    assert json.loads(done.output) == {
        "page": str(page),
        "events": 10,
        "nodes": ["n1", "n2"],
        "hash": written,
        "broken": None,
    }
    assert page.exists()


def test_hash_prints_a_line_for_each_trace(path: Path) -> None:
    """Two traces that went alike have one hash."""
    other = path.with_name("other.jsonl")
    written = write_trace(other, HEADER, [*TEN_EVENTS, VIOLATED])

    done = CliRunner().invoke(root, ["trace", "hash", str(path), str(other)])
    as_json = CliRunner().invoke(root, ["trace", "hash", "--json", str(path), str(other)])

    assert done.output == f"{written}  {path}\n{written}  {other}\n"
    assert json.loads(as_json.output) == {str(path): written, str(other): written}


def test_mistakes_are_one_line(path: Path, tmp_path: Path) -> None:
    """What is no trace, or no place for a page, ends with exit code 1 and a line that names it."""
    for arguments, complaint in [
        (["view", str(tmp_path / "absent")], f"{tmp_path / 'absent'} cannot be read: No such file or directory"),
        (["hash", str(tmp_path / "absent")], f"{tmp_path / 'absent'} cannot be read: No such file or directory"),
        (["view", str(path), "-o", str(tmp_path)], f"{tmp_path} cannot be written: Is a directory"),
    ]:
        done = CliRunner().invoke(root, ["trace", *arguments])

        assert (done.exit_code, done.stderr) == (1, f"clustercore: {complaint}\n")
