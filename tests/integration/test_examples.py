"""What the documentation shows is done for real: examples, README's cluster, the transport of a how-to."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest
import trio

from clustercore.cli.demo.ports import PortReservation
from clustercore.testing.conformance import (
    ConflictResolverConformance,
    Conformance,
    RetryPolicyConformance,
    StateMachineConformance,
    TransportConformance,
    rules_of,
)
from tests.unit.docs_pages import ROOT, blocks, commands

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EXAMPLES = ROOT / "docs" / "examples"
PYTHON = [sys.executable, "-W", "error"]
# Far beyond what any step takes: it only ends a test that hangs.
LIMIT_S = 60


async def test_counter_prints_what_the_cluster_agreed_on(tmp_path: Path) -> None:
    """The example of the README runs as it stands, needs nothing, and ends."""
    with trio.fail_after(LIMIT_S):
        done = await trio.run_process(
            [*PYTHON, str(EXAMPLES / "counter.py")], cwd=tmp_path, capture_stdout=True, capture_stderr=True, check=False
        )

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"the cluster agreed on 42\n"


# --- One node per process --------------------------------------------------------------------------------------------


class TicketProcess:
    """One process of docs/examples/tickets_over_grpc.py, killed and started again in one folder."""

    def __init__(self, name: str, members: list[str], folder: Path) -> None:
        self._command = [*PYTHON, str(EXAMPLES / "tickets_over_grpc.py"), name, *members]
        self._folder = folder
        self._process: trio.Process | None = None
        # Over all its lives.
        self.tickets: list[int] = []
        self._printed = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run one process until it ends, and read what it prints."""
        process = await trio.lowlevel.open_process(
            self._command, cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._process = process
        task_status.started()
        unread = b""
        try:
            assert process.stdout is not None
            async for chunk in process.stdout:
                *lines, unread = (unread + chunk).split(b"\n")
                for line in lines:
                    self._take(line.decode())
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                if process.stdout is not None:
                    await process.stdout.aclose()

    def _take(self, line: str) -> None:
        if line.startswith("ticket "):
            self.tickets.append(int(line.removeprefix("ticket ")))
            self._printed.set()
            self._printed = trio.Event()
        else:
            # Or the node says what it waits for.
            assert line.startswith(("perhaps a ticket", "node ")), line

    async def draw(self, count: int) -> None:
        """Wait until so many tickets more are drawn."""
        wanted = len(self.tickets) + count
        while len(self.tickets) < wanted:
            await self._printed.wait()

    async def kill(self) -> None:
        """End the process with SIGKILL, and wait until it is gone."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()


async def test_tickets_over_grpc_draws_no_ticket_twice_across_kills(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Three processes, each killed with SIGKILL in turn (so the leader too) and started again, draw unique numbers."""
    with closing(PortReservation(3)) as reserved:
        await _draw_across_kills(tmp_path, nursery, reserved.ports)


async def _draw_across_kills(folder: Path, nursery: trio.Nursery, ports: Sequence[int]) -> None:
    members = [f"{name}=127.0.0.1:{port}" for name, port in zip("abc", ports, strict=True)]
    processes = [TicketProcess(name, members, folder) for name in "abc"]
    with trio.fail_after(LIMIT_S):
        for process in processes:
            await nursery.start(process.run)
        for process in processes:
            await process.draw(2)
        for victim in processes:
            highest = max(ticket for process in processes for ticket in process.tickets)
            await victim.kill()
            for process in processes:
                if process is not victim:
                    await process.draw(2)
            await nursery.start(victim.run)
            drawn_before = len(victim.tickets)
            await victim.draw(1)
            assert victim.tickets[drawn_before] > highest
    nursery.cancel_scope.cancel()

    tickets = [ticket for process in processes for ticket in process.tickets]
    assert len(set(tickets)) == len(tickets)
    assert all(process.tickets == sorted(process.tickets) for process in processes)


# --- README's cluster ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served_cluster(folder: Path) -> AsyncIterator[dict[str, str]]:
    """Run the README's configuration as three processes, at free ports; yield README's addresses and the real ones."""
    (config,) = blocks(ROOT / "README.md", "toml")
    async with AsyncExitStack() as stack:
        reserved = stack.enter_context(closing(PortReservation(3)))
        addresses = {f"127.0.0.1:{7101 + i}": f"127.0.0.1:{port}" for i, port in enumerate(reserved.ports)}
        nursery = await stack.enter_async_context(trio.open_nursery())
        for number, address in enumerate(addresses, start=1):
            own = config.text.replace('"n1"', f'"n{number}"').replace("n1.db", f"n{number}.db")
            own = own.replace('listen = "127.0.0.1:7101"', f'listen = "{address}"')
            path = folder / f"n{number}.toml"
            path.write_text(_with_real(own, addresses), encoding="utf-8")
            await nursery.start(_serve, path)
        yield addresses
        nursery.cancel_scope.cancel()


async def _serve(path: Path, *, task_status: trio.TaskStatus[None]) -> None:
    """Run one node until cancelled; it is started when it says that it serves."""
    command = [*PYTHON, "-m", "clustercore.cli", "serve", "--json", "--exit-with-stdin", "--config", str(path)]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        told = b""
        while b"\n" not in told:
            chunk = await process.stdout.receive_some()
            assert chunk, "the node ended before it served"
            told += chunk
        assert json.loads(told.splitlines()[0])["event"] == "serving"
        task_status.started()
        async for _ in process.stdout:
            pass
        raise AssertionError(f"the node of {path.name} ended with exit code {await process.wait()}")
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                await pipe.aclose()


def _with_real(text: str, addresses: dict[str, str]) -> str:
    for shown, real in addresses.items():
        text = text.replace(shown, real)
    return text


async def test_readme_commands_work_against_the_cluster_of_its_configuration(tmp_path: Path) -> None:
    """Each ``clustercore`` command of the README succeeds, and prints what it is there for."""
    shown = [words for words in commands(ROOT / "README.md") if words[0] == "clustercore"]
    assert shown
    printed: dict[str, str] = {}
    with trio.fail_after(LIMIT_S):
        async with served_cluster(tmp_path) as addresses:
            for words in shown:
                real = shlex.split(_with_real(shlex.join(words), addresses))
                done = await trio.run_process(
                    [*PYTHON, "-m", "clustercore.cli", *real[1:]], cwd=tmp_path, capture_stdout=True
                )
                printed[" ".join(words[1:3])] = done.stdout.decode()

    assert printed["kv get"] == "hello\n"
    assert all(node in printed["status --node"] for node in ("n1", "n2", "n3", "leader", "follower"))


# --- A transport of one's own ----------------------------------------------------------------------------------------


async def test_documented_transport_passes_its_kit(tmp_path: Path) -> None:
    """Pytest, run as the page on transports says and with no settings, passes the kit's every rule and skips none."""
    shown = [block for block in blocks(ROOT / "docs/how-to/write-a-transport.md", "python") if block.file_name]
    for block in shown:
        (tmp_path / block.file_name).write_text(block.text, encoding="utf-8")

    outcome, output = await _pytest(tmp_path, "test_framed_tcp.py")

    assert outcome == f"{len(rules_of(TransportConformance))} passed", output


@pytest.mark.parametrize(
    ("page_name", "test_name", "kit"),
    [
        ("write-a-retry-policy.md", "test_steady_retry.py", RetryPolicyConformance),
        ("write-a-state-machine.md", "test_lines.py", StateMachineConformance),
        ("resolve-conflicts.md", "test_my_resolver.py", ConflictResolverConformance),
    ],
)
async def test_documented_plugin_passes_its_kit(
    tmp_path: Path, page_name: str, test_name: str, kit: type[Conformance]
) -> None:
    """What a how-to writes keeps the contract, by the test that the page shows: each rule passes, or says why not.

    The storage of its page is one that ships, and tests/conformance runs the same test.
    """
    for block in blocks(ROOT / "docs/how-to" / page_name, "python"):
        if block.file_name:
            (tmp_path / block.file_name).write_text(block.text, encoding="utf-8")

    outcome, output = await _pytest(tmp_path, test_name)

    counts = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", outcome)}
    assert set(counts) <= {"passed", "skipped"}, output
    assert sum(counts.values()) == len(rules_of(kit)), output


async def test_documented_kit_finds_the_set_and_passes_without_it(tmp_path: Path) -> None:
    """The page on testing a plugin shows the command at which its machine parts, and what mends it."""
    page = ROOT / "docs/how-to/test-a-plugin.md"
    machine, test = [block for block in blocks(page, "python") if block.file_name]
    (line,) = [block.text.strip() for block in blocks(page, "text")]
    (tmp_path / test.file_name).write_text(test.text, encoding="utf-8")

    (tmp_path / machine.file_name).write_text(machine.text, encoding="utf-8")
    outcome, output = await _pytest(tmp_path, test.file_name)
    assert outcome.startswith("1 failed")
    assert line.partition(" returns ")[0] in output

    (tmp_path / machine.file_name).write_text(machine.text.replace("set(", "sorted("), encoding="utf-8")
    outcome, output = await _pytest(tmp_path, test.file_name)
    assert "failed" not in outcome, output


async def _pytest(folder: Path, file_name: str) -> tuple[str, str]:
    """Run pytest in a folder, outside any project; return what it counted, and all that it printed."""
    with trio.fail_after(LIMIT_S):
        done = await trio.run_process(
            [*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), file_name],
            cwd=folder,
            # Sets have the same order in each run.
            env=os.environ | {"PYTHONHASHSEED": "0"},
            capture_stdout=True,
            check=False,
        )
    text = done.stdout.decode()
    return text.splitlines()[-1].partition(" in ")[0], text
