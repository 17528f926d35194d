"""The Cluster Center, headless: its story comes to its end, though processes are killed, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.consul_agent import TOKEN, dev_agent, needs_consul
from tests.unit.repository import ROOT
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EXAMPLES = ROOT / "docs" / "examples"
# Each chapter as short as it can be: all that the story waits for is what the servers tell.
SHORT = ["--headless", "--uavs", "60", "--pause", "0"]
# Generous: it only ends a story that hangs.
LIMIT_S = 280


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return an environment in which temporary folders are made in ``folder``."""
    return {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", **more}


def run(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a module of the example."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=EXAMPLES,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def servers_in(folder: Path) -> list[str]:
    """Return the command lines of the servers that have their files in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            # It has ended meanwhile.
            continue
        if "cluster_center.server" in words and str(folder) in " ".join(words):
            found.append(" ".join(words))
    return found


def check_story(found: subprocess.CompletedProcess[str]) -> None:
    """Check that a story was told to its end, and kept what it promises."""
    assert found.returncode == 0, found.stdout + found.stderr
    for line in (
        "is cut off",
        "healed",
        "which led, is lost",
        "is back",
        "the servers hold the same, to the last byte",
    ):
        assert line in found.stdout
    assert "BROKEN" not in found.stdout
    assert found.stdout.count("\nkept ") == 7
    figures = re.search(r"conflicts resolved: (\d+); bytes saved by incremental sync: ([\d,]+)", found.stdout)
    assert figures is not None, found.stdout
    assert int(figures[1]) >= 5
    assert int(figures[2].replace(",", "")) > 0
    assert re.search(r"heartbeats: [\d,]+ taken by the servers, 0 by none", found.stdout), found.stdout


def test_story_ends_with_equal_servers_conflicts_resolved_and_bytes_saved(tmp_path: Path) -> None:
    """Three processes over gRPC, each with its disk, with a fleet of 60 instead of 1,000; nothing is left of them."""
    found = run(["cluster_center", *SHORT], environment(tmp_path))

    check_story(found)
    assert list(tmp_path.iterdir()) == []
    assert servers_in(tmp_path) == []


@needs_consul
def test_story_in_which_servers_find_each_other_by_consul(tmp_path: Path) -> None:
    """No server is told where the others are: a real agent tells them, and its ACLs ask for a token."""
    with dev_agent(tmp_path) as agent:
        data = tmp_path / "data"
        environ = environment(tmp_path, CONSUL_HTTP_TOKEN=TOKEN)
        found = run(["cluster_center", *SHORT, "--consul", agent.url, "--data", str(data)], environ)

        check_story(found)
        found_there = agent.ask("GET", "/v1/catalog/service/cluster-center")
        assert sorted(each["ServiceID"] for each in found_there) == [f"cluster-center-{name}" for name in "abc"]
    assert sorted(path.name for path in data.glob("*-raft.db")) == ["a-raft.db", "b-raft.db", "c-raft.db"]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc, as Linux has it")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_story_that_is_ended_in_the_middle_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    """Whatever ends it, its servers end; and if it can, it removes its files and says what ended it."""
    story = subprocess.Popen(
        [sys.executable, "-m", "cluster_center", *SHORT],
        cwd=EXAMPLES,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background of a shell has SIGINT ignored, and all that is started so, too.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    with story:
        assert story.stdout is not None
        assert "three servers run" in story.stdout.readline()
        assert len(servers_in(tmp_path)) == 3
        story.send_signal(number)
        _, errors = story.communicate(timeout=LIMIT_S)

    if number is signal.SIGKILL:
        wait_until(lambda: not servers_in(tmp_path), "servers outlive the story", limit_s=LIMIT_S)
    else:
        assert errors == "clustercore: stopped by SIGINT\n"
        assert story.returncode == 128 + signal.SIGINT
        assert list(tmp_path.iterdir()) == []
        assert servers_in(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cluster_center", "--uavs", "0"], "--uavs 0: expected from 20 to 5000"),
        (["cluster_center", "--uavs", "-1"], "--uavs -1: expected from 20 to 5000"),
        (["cluster_center", "--pause", "nan"], "--pause nan: expected from 0 to 60 seconds"),
        (["cluster_center", "--data", str(EXAMPLES)], "is not empty; name an empty folder, or a new one"),
        (["cluster_center", "--data", str(EXAMPLES / "counter.py")], "is no folder"),
        (["cluster_center", "--consul", "nonsense"], "--consul nonsense: "),
        (["cluster_center", "--consul", "http://127.0.0.1:1"], "nobody answers there; `consul agent -dev` starts one"),
        (["cluster_center.server", "a", "b=127.0.0.1:1", "--data", "x"], "there is no a=HOST:PORT among the members"),
        (["cluster_center.server", "a", "a=127.0.0.1:1", "b", "--data", "x"], "there is no address of b"),
        (["cluster_center", "--data", "/proc/none"], "--data /proc/none: No such file or directory; name a folder"),
        (["cluster_center", "--consul", "http://127.0.0.1:x"], "--consul http://127.0.0.1:x: expected a URL such as"),
        (["cluster_center.server", "a", "a=127.0.0.1:1", "--data", "/proc/none"], "--data /proc/none: No such file"),
        (["cluster_center.server", "a", "a=127.0.0.1:1", "--data", "x", "--exit-with-stdin"], "input is no pipe"),
        (
            ["cluster_center.server", "a", "a=127.0.0.1:1", "--data", "x", "--tick", "0"],
            "--tick 0.0: expected more than",
        ),
        (["cluster_center.desk", "127.0.0.1:1", "Read", "[1]"], "'[1]' is no JSON object, such as"),
        (["cluster_center.desk", "127.0.0.1:1", "Read", "{kind}"], "'{kind}' is no JSON: "),
        (["cluster_center.fleet", "127.0.0.1:1", "--uavs", "0"], "--uavs 0: expected 1 or more"),
    ],
)
def test_misuse_is_refused_in_one_line(arguments: Sequence[str], said: str, tmp_path: Path) -> None:
    """Nothing is started, and the last line says what is wrong and what is allowed."""
    found = run([*arguments[:1], *(str(tmp_path / "x") if each == "x" else each for each in arguments[1:])])

    assert found.returncode == 2
    assert said in found.stderr.splitlines()[-1]
    assert "Traceback" not in found.stderr


def test_server_whose_port_is_taken_says_so(tmp_path: Path) -> None:
    """It ends with one line that names the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        found = run(["cluster_center.server", "a", f"a={address}", "--data", str(tmp_path)])

    assert found.returncode == 1
    assert address in found.stderr.splitlines()[-1]
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("missing", ["rich", "grpclib"])
def test_what_is_not_installed_is_named(missing: str) -> None:
    """Without an extra there is one line, which names the extras."""
    program = (
        f"import runpy, sys; sys.modules[{missing!r}] = None; runpy.run_module('cluster_center', run_name='__main__')"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=EXAMPLES, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )

    assert found.returncode == 1
    assert found.stderr.startswith(missing)
    assert "is not installed; the example needs clustercore[grpc,cli]" in found.stderr
    assert len(found.stderr.splitlines()) == 1
