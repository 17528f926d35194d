"""The demo itself, small: three real processes, one SIGKILL, nothing lost and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.consul_agent import needs_consul
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

COMMAND = [sys.executable, "-P", "-m", "clustercore.cli", "demo"]
# Generous: it only ends a test that hangs.
LIMIT_S = 180

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a demo whose temporary folder is in ``tmp_path/tmp``."""
    (tmp_path / "tmp").mkdir()
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def last_object(out: str) -> Any:
    """Return the last line, which is one JSON object."""
    return json.loads(out.splitlines()[-1])


def node_processes(folder: Path) -> list[int]:
    """Return the ids of the processes that have a file of this folder in their command line."""
    found = []
    for command_line in Path("/proc").glob("[0-9]*/cmdline"):
        # A process may end meanwhile.
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in command_line.read_bytes():
                found.append(int(command_line.parent.name))
    return found


def wait_until_gone(folder: Path) -> None:
    """Wait until no process uses the folder; fail if one stays."""
    wait_until(lambda: not node_processes(folder), f"processes that use {folder} outlive the demo", limit_s=LIMIT_S)


def read_until(process: subprocess.Popen[str], text: str) -> None:
    """Read the demo's progress up to a line that contains the text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    pytest.fail(f"the demo ended without saying {text!r}")


def test_demo_loses_nothing(start: Start, tmp_path: Path) -> None:
    """Every acknowledged write is on every node, through the leader's death, and nothing is left behind."""
    out, err = start("--json", "--writes", "60", "--clients", "4").communicate(timeout=LIMIT_S)

    result = last_object(out)
    assert (result["acknowledged"], result["lost"], result["nodes_agree"]) == (60, 0, True), err
    assert result["failover_ms"] > 0
    assert len(result["terms"]) >= 2
    assert len(out.splitlines()) == 1
    assert not list((tmp_path / "tmp").iterdir())
    assert not node_processes(tmp_path)


def test_demo_writes_an_input_file(start: Start, tmp_path: Path) -> None:
    """--input replaces the writes that are made up; without --json the summary is text, and --dir is kept."""
    path, folder = tmp_path / "in.jsonl", tmp_path / "kept"
    path.write_text("".join(f'{{"key": "k{n}", "value": {n}}}\n' for n in range(7)))

    process = start("--input", str(path), "--dir", str(folder))
    out, err = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 0, out + err
    assert "acknowledged   7 writes" in out
    assert {"n1.toml", "n1.db", "n1.log"} <= {file.name for file in folder.iterdir()}
    for log in folder.glob("*.log"):
        lines = log.read_text().splitlines()
        assert lines[-1].endswith("stopped by SIGTERM")
        assert not any("Traceback" in line for line in lines)


def test_demo_refuses_a_bad_input_line(start: Start, tmp_path: Path) -> None:
    """Nothing is started for an input that cannot be written whole."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"key": "a", "value": "1"}\n{"key": "b"}\n')

    process = start("--input", str(path))
    out, err = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 2
    assert err.startswith(f"clustercore: {path}, line 2: ")
    assert out == ""


def test_demo_refuses_a_folder_that_is_not_empty(start: Start, tmp_path: Path) -> None:
    """A folder with something in it is nobody's to fill."""
    process = start("--dir", str(tmp_path))
    _, err = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 2
    assert "is not empty" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_is_stopped_leaves_nothing(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    """A signal in the middle ends the nodes and removes the folder."""
    process = start("--json", "--writes", "100000")
    read_until(process, "writing")
    assert len(node_processes(tmp_path)) == 3

    process.send_signal(number)
    out, _ = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 128 + number
    assert last_object(out)["error"] == f"stopped by {number.name}"
    assert not node_processes(tmp_path)
    assert not list((tmp_path / "tmp").iterdir())


def test_demo_that_is_killed_takes_its_nodes_along(start: Start, tmp_path: Path) -> None:
    """Even after a SIGKILL of the demo no node goes on."""
    process = start("--json", "--writes", "100000")
    read_until(process, "writing")
    assert len(node_processes(tmp_path)) == 3

    process.kill()
    process.communicate()

    wait_until_gone(tmp_path)


def test_demo_reports_a_node_that_dies_by_itself(start: Start, tmp_path: Path) -> None:
    """A node that ends unasked ends the demo, which tells how, and shows the end of the node's log."""
    process = start("--json", "--writes", "100000")
    read_until(process, "writing")

    os.kill(node_processes(tmp_path)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 1
    assert "ended unexpectedly, by SIGKILL" in last_object(out)["error"]
    assert "--- the end of" in err
    assert "serving at" in err
    assert not node_processes(tmp_path)


@pytest.mark.parametrize("transport", ["tcp", "http"])
def test_demo_runs_over_another_transport(start: Start, transport: str) -> None:
    """What holds over gRPC holds over the others."""
    out, err = start("--json", "--writes", "60", "--clients", "4", "--transport", transport).communicate(
        timeout=LIMIT_S
    )

    result = last_object(out)
    assert (result["acknowledged"], result["lost"], result["nodes_agree"]) == (60, 0, True), err


@needs_consul
def test_demo_finds_its_nodes_in_consul(start: Start, tmp_path: Path) -> None:
    """With --discovery consul no file names another node, nothing is lost either, and Consul ends with the demo."""
    folder = tmp_path / "kept"
    process = start("--json", "--writes", "60", "--clients", "4", "--discovery", "consul", "--dir", str(folder))
    out, err = process.communicate(timeout=LIMIT_S)

    result = last_object(out)
    assert (result["acknowledged"], result["lost"], result["nodes_agree"]) == (60, 0, True), err
    assert 'plugin = "consul"' in (folder / "n1.toml").read_text()
    assert "n2" not in (folder / "n1.toml").read_text()
    (port,) = set(re.findall(r'url = "http://127.0.0.1:(\d+)"', (folder / "n1.toml").read_text()))
    assert not any(b"-http-port" in command for command in command_lines_of(port))


def test_demo_says_how_to_install_consul(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, nothing is started, and the one line says what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    process = start("--discovery", "consul")
    out, err = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 2
    assert "apt install consul" in err
    assert "https://developer.hashicorp.com/consul/install" in err
    assert out == ""


@needs_consul
def test_killed_demo_takes_consul_with_it(start: Start, tmp_path: Path) -> None:
    """A demo that is killed leaves no Consul behind: it ends with the pipe that the demo held."""
    folder = tmp_path / "kept"
    process = start("--json", "--writes", "100000", "--discovery", "consul", "--dir", str(folder))
    read_until(process, "writing")
    port = re.findall(r'url = "http://127.0.0.1:(\d+)"', (folder / "n1.toml").read_text())[0]
    assert any(b"-http-port" in command for command in command_lines_of(port))
    process.kill()
    process.communicate()

    wait_until(
        lambda: not any(b"-http-port" in command for command in command_lines_of(port)),
        "consul outlives the demo",
        limit_s=LIMIT_S,
    )


def command_lines_of(text: Path | str) -> list[bytes]:
    """Return the command lines of the processes that have this in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # A process may end meanwhile.
        with contextlib.suppress(OSError):
            command = path.read_bytes()
            if os.fsencode(text) in command:
                found.append(command)
    return found
