"""``serve``, ``status`` and ``kv`` as an operator uses them: real processes, real files."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from clustercore.cli.demo.ports import PortReservation

pytestmark = [pytest.mark.integration, pytest.mark.slow]

COMMAND = [sys.executable, "-P", "-m", "clustercore.cli"]
# Generous: it only ends a test that hangs.
LIMIT_S = 60


@attrs.frozen
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line, which is JSON."""
        return json.loads(self.out.splitlines()[-1])


def clustercore(*arguments: str, stdin: bytes = b"") -> Outcome:
    """Run a command to its end."""
    done = subprocess.run([*COMMAND, *arguments], input=stdin, capture_output=True, timeout=LIMIT_S, check=False)
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


@attrs.frozen
class Served:
    """A node that runs, alone in its cluster."""

    process: subprocess.Popen[bytes]
    address: str
    config: Path

    def end(self) -> Outcome:
        """Wait for the end of the process."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        return Outcome(self.process.returncode, out.decode(), err.decode())


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Return a function that starts a node and waits until it leads. What still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def serve(*options: str, stdin: int = subprocess.DEVNULL, config: Path | None = None, waits: bool = True) -> Served:
        config = config or write_config(tmp_path, 0)
        process = subprocess.Popen(
            [*COMMAND, "serve", "--json", "--config", str(config), *options],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout is not None
        serving = json.loads(process.stdout.readline())
        assert serving["event"] == "serving"
        while waits and json.loads(process.stdout.readline()).get("role") != "leader":
            pass
        return Served(process, serving["address"], config)

    yield serve
    for process in started:
        if process.poll() is None:
            process.kill()
        # Closes the pipes, too.
        process.communicate()


def write_cluster(folder: Path, ports: tuple[int, ...], election_timeout_s: float) -> list[Path]:
    """Write the files of a cluster with a node at each port."""
    members = {f"n{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports, 1)}
    files = []
    for name, address in members.items():
        path = folder / f"{name}.toml"
        path.write_text(
            f"""
            node_id = "{name}"
            transport = {{ plugin = "grpc", listen = "{address}" }}
            storage = {{ plugin = "sqlite", path = "{name}.db" }}
            discovery = {{ plugin = "static", members = {{ {", ".join(f'{n} = "{a}"' for n, a in members.items())} }} }}
            machine = {{ plugin = "kv" }}
            raft = {{ election_timeout_s = {election_timeout_s} }}
            """
        )
        files.append(path)
    return files


def wait_leader(node: Served) -> str:
    """Read what a node tells until it knows a leader."""
    assert node.process.stdout is not None
    while True:
        leader_id: str | None = json.loads(node.process.stdout.readline()).get("leader_id")
        if leader_id is not None:
            return leader_id


def write_config(folder: Path, port: int) -> Path:
    """Write the file of a cluster of one."""
    path = folder / "node.toml"
    path.write_text(
        f"""
        node_id = "n1"
        voters = ["n1"]
        transport = {{ plugin = "grpc", listen = "127.0.0.1:{port}" }}
        storage = {{ plugin = "sqlite", path = "n1.db" }}
        discovery = {{ plugin = "static", members = {{}} }}
        machine = {{ plugin = "kv" }}
        raft = {{ election_timeout_s = 0.2, heartbeat_interval_s = 0.05 }}
        """
    )
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_stops_in_order_on_a_signal(serve: Serve, number: signal.Signals) -> None:
    """A signal ends the node with exit code 0; it logged a line for each change of role, and no traceback."""
    node = serve()

    node.process.send_signal(number)
    outcome = node.end()

    assert outcome.code == 0
    assert outcome.json == {"event": "stopped", "node_id": "n1", "reason": number.name}
    assert sum("leader in term 1" in line for line in outcome.err.splitlines()) == 1
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_leader_hands_over_before_it_stops(serve: Serve, tmp_path: Path, number: signal.Signals) -> None:
    """A signal at the leader of three makes another the leader, and then the process ends well."""
    with closing(PortReservation(3)) as ports:
        files = write_cluster(tmp_path, ports.ports, election_timeout_s=2)
        nodes = {path.stem: serve(config=path, waits=False) for path in files}
        [leader_id] = {wait_leader(node) for node in nodes.values()}
        # From now on the leader knows of a follower that has its log.
        assert clustercore("kv", "put", "key", "value", "--node", nodes[leader_id].address).code == 0

        nodes[leader_id].process.send_signal(number)
        outcome = nodes[leader_id].end()

        assert outcome.code == 0
        assert outcome.json == {"event": "stopped", "node_id": leader_id, "reason": number.name}
        log = outcome.err.splitlines()
        # The term is not always the first one: an election may be split.
        led = max(n for n, line in enumerate(log) if re.search(rf"{leader_id}: leader in term \d+", line))
        stopped = next(n for n, line in enumerate(log) if line.endswith(f"stopped by {number.name}"))
        successor = rf"{leader_id}: follower in term \d+, leader (?!{leader_id})n[123]$"
        assert any(re.search(successor, line) for line in log[led:stopped])


def test_second_signal_stops_a_node_that_is_handing_over(serve: Serve, tmp_path: Path) -> None:
    """Nobody can take over, since the two others stand still; the second signal ends the wait, and the node well."""
    with closing(PortReservation(3)) as ports:
        files = write_cluster(tmp_path, ports.ports, election_timeout_s=5)
        nodes = {path.stem: serve(config=path, waits=False) for path in files}
        [leader_id] = {wait_leader(node) for node in nodes.values()}
        leader = nodes.pop(leader_id)
        assert clustercore("kv", "put", "key", "value", "--node", leader.address).code == 0
        for node in nodes.values():
            node.process.send_signal(signal.SIGSTOP)

        leader.process.send_signal(signal.SIGTERM)
        assert leader.process.stdout is not None
        while json.loads(leader.process.stdout.readline())["event"] != "stopping":
            pass
        leader.process.send_signal(signal.SIGTERM)
        outcome = leader.end()

        assert outcome.code == 0
        assert outcome.json["reason"] == "SIGTERM, SIGTERM"
        for node in nodes.values():
            node.process.send_signal(signal.SIGCONT)


def test_serve_ends_with_its_standard_input(serve: Serve) -> None:
    """With --exit-with-stdin a node ends when the process that holds its input does, without a signal."""
    node = serve("--exit-with-stdin", stdin=subprocess.PIPE)
    assert node.process.stdin is not None

    node.process.stdin.write(b"ignored")
    node.process.stdin.close()
    node.process.stdin = None
    outcome = node.end()

    assert outcome.code == 0
    assert outcome.json["reason"] == "end of standard input"


def test_serve_refuses_to_end_with_an_input_that_is_no_pipe(tmp_path: Path) -> None:
    """A file or terminal would end the node at once, or never."""
    done = subprocess.run(
        [*COMMAND, "serve", "--exit-with-stdin", "--config", str(write_config(tmp_path, 0))],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.returncode == 2
    assert b"standard input is no pipe" in done.stderr


def test_serve_that_cannot_listen_fails_in_one_line(tmp_path: Path) -> None:
    """A typed error of the node ends the process with exit code 1 and its text."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = clustercore("serve", "--config", str(write_config(tmp_path, taken.getsockname()[1])))

    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith("clustercore: ")
    assert "Traceback" not in outcome.err


def test_serve_with_a_wrong_file_is_misuse(tmp_path: Path) -> None:
    """A configuration error is one line that names the file, and exit code 2."""
    outcome = clustercore("serve", "--config", str(tmp_path / "none.toml"))

    assert outcome.code == 2
    assert outcome.err == f"clustercore: {tmp_path}/none.toml: cannot be read: No such file or directory\n"


def test_second_node_on_the_same_storage_is_refused(serve: Serve) -> None:
    """Two processes never share a node's storage; the second says so and ends."""
    node = serve()

    outcome = clustercore("serve", "--config", str(node.config))

    assert outcome.code == 1
    assert "n1.db" in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err


def test_status_tells_of_nodes_that_answer_and_that_do_not(serve: Serve) -> None:
    """A node that does not answer is a row that says so, and makes the exit code 1."""
    node = serve()

    alone = clustercore("status", "--json", "--node", node.address)
    both = clustercore("status", "--node", node.address, "--node", "127.0.0.1:1", "--timeout", "5")

    told = alone.json["nodes"][0]["status"]
    assert (alone.code, told["node_id"], told["role"], told["term"], told["last_applied"]) == (0, "n1", "leader", 1, 1)
    assert both.code == 1
    assert "no answer" in both.out
    assert " leader " in both.out


def test_kv_reads_what_it_wrote(serve: Serve) -> None:
    """put, get, cas, scan and delete do what they say, in JSON and by exit code."""
    at = ("--json", "--node", serve().address)

    put = clustercore("kv", "put", "a/1", "one", *at)
    piped = clustercore("kv", "put", "a/2", "-", *at, stdin=b"\xff\x00")
    get = clustercore("kv", "get", "a/1", *at)
    swapped = clustercore("kv", "cas", "a/1", "uno", "--expect", "one", *at)
    stale = clustercore("kv", "cas", "a/1", "eins", "--expect-revision", str(put.json["revision"]), *at)
    scan = clustercore("kv", "scan", "a/", *at)
    local = clustercore("kv", "scan", "a/", "--local", "--limit", "1", *at[1:])
    gone = clustercore("kv", "delete", "a/1", *at)
    absent = clustercore("kv", "get", "a/1", *at)

    assert (put.code, piped.code, get.code) == (0, 0, 0)
    assert get.json["value"] == "one"
    assert get.json["revision"] == put.json["revision"]
    assert (swapped.code, swapped.json["swapped"]) == (0, True)
    assert (stale.code, stale.json["swapped"], stale.json["value"]) == (3, False, "uno")
    pairs = [json.loads(line) for line in scan.out.splitlines()]
    assert [pair["key"] for pair in pairs] == ["a/1", "a/2"]
    assert base64.b64decode(pairs[1]["value_base64"]) == b"\xff\x00"
    assert local.out == "a/1\tuno\n"
    assert (gone.code, gone.json["deleted"]) == (0, True)
    assert (absent.code, absent.json["value"]) == (3, None)
    assert absent.err == "clustercore: there is no key 'a/1'\n"


def test_kv_watch_tells_changes_after_a_revision(serve: Serve) -> None:
    """A watch tells the changes it is asked for, in order, and ends after --count."""
    at = ("--json", "--node", serve().address)
    revision = clustercore("kv", "put", "w/0", "0", *at).json["revision"]
    clustercore("kv", "put", "w/1", "1", *at)
    clustercore("kv", "delete", "w/1", *at)

    watch = clustercore("kv", "watch", "w/", "--after-revision", str(revision), "--count", "2", *at)

    assert watch.code == 0
    events = [json.loads(line) for line in watch.out.splitlines()]
    assert [(event["event"], event["key"]) for event in events] == [("put", "w/1"), ("delete", "w/1")]


def test_kv_without_a_node_tells_what_is_known() -> None:
    """When nothing answers in time, a read has failed, and of a write nothing is known."""
    at = ("--node", "127.0.0.1:1", "--timeout", "0.5")

    read, written = clustercore("kv", "get", "k", *at), clustercore("kv", "put", "k", "v", *at)

    assert read.code == 1
    assert "no answer within 0.5 s: 127.0.0.1:1: no connection to 127.0.0.1:1: " in read.err
    assert written.code == 4
    assert "; the write may or may not be carried out" in written.err
    assert clustercore("kv", "put", "", "v", *at).code == 2


@pytest.mark.parametrize(
    "command", [("kv", "get", "k"), ("kv", "watch"), ("members", "list"), ("status",)], ids=" ".join
)
@pytest.mark.parametrize("transport", ["grpc", "tcp"])
def test_node_that_is_no_address_is_misuse(command: tuple[str, ...], transport: str) -> None:
    """Found out before anything is asked, in one line with the value and what is allowed."""
    outcome = clustercore(*command, "--node", "127.0.0.1:1", "--node", "foo", "--transport", transport)

    assert outcome.code == 2
    assert outcome.err.startswith("clustercore: --node: 'foo' is no address of a node: expected host:port")


@pytest.mark.parametrize(
    "command",
    [
        ("add", "n9", "nonsense"),
        ("replace", "n1", "n9", "nonsense"),
        ("move", "n1", "nonsense"),
        ("move", "n1", "nonsense", "--force"),
        ("apply", "--voter", "n1=nonsense"),
    ],
    ids=lambda command: " ".join(command[:2]) + " " + command[-1],
)
def test_member_at_what_is_no_address_is_misuse(command: tuple[str, ...]) -> None:
    """Nobody is asked."""
    outcome = clustercore("members", *command, "--node", "127.0.0.1:1")

    assert outcome.code == 2
    assert outcome.err.startswith("clustercore: HOST:PORT: 'nonsense' is no address of a node: expected host:port")


def test_commands_are_refused_by_nodes_of_another_cluster(serve: Serve) -> None:
    """With the id of the node's own cluster they work; with another, the refusal names both."""
    at = ("--node", serve().address, "--timeout", "5")
    assert clustercore("kv", "put", "k", "v", *at).code == 0
    own = clustercore("status", "--json", *at).json["nodes"][0]["status"]["members"]["cluster_id"]

    right = [
        clustercore(*command, *at, "--cluster-id", own)
        for command in (("kv", "get", "k"), ("members", "list"), ("status",))
    ]
    read = clustercore("kv", "get", "k", *at, "--cluster-id", "another")
    listed = clustercore("members", "list", *at, "--cluster-id", "another")

    assert [outcome.code for outcome in right] == [0, 0, 0]
    refusal = f"this node belongs to cluster {own}, and cluster another is meant"
    assert read.code == listed.code == 1
    assert refusal in read.err
    assert refusal in listed.err


def test_data_outlives_the_process(serve: Serve) -> None:
    """What was acknowledged before a SIGKILL is there after the next start."""
    node = serve()
    clustercore("kv", "put", "k", "v", "--node", node.address)
    os.kill(node.process.pid, signal.SIGKILL)
    node.end()

    again = serve()

    assert clustercore("kv", "get", "k", "--node", again.address).out == "v\n"
