"""Real processes that nobody named the voters for form one cluster, and a fourth joins it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest
import trio

from clustercore.cli.demo.ports import PortReservation
from tests.waiting import until_answered

pytestmark = [pytest.mark.integration, pytest.mark.slow]

COMMAND = [sys.executable, "-P", "-m", "clustercore.cli"]
NAMES = ("n1", "n2", "n3", "n4")
LIMIT_S = 180

# One file for all, as pods have it: who a node is, it is told on the command line.
CONFIG = """
node_id = "to be said"
transport = { plugin = "grpc", listen = "127.0.0.1:0" }
storage = { plugin = "sqlite", path = "to be said" }
machine = { plugin = "kv" }
discovery = { path = "members", interval_s = 0.2 }
"""


async def ask(*arguments: str, address: str) -> dict[str, object]:
    """Run a command against a node, and return what it printed as JSON."""
    command = [*COMMAND, *arguments, "--json", "--node", address, "--timeout", "60"]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 0, (arguments, done)
    told: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return told


@asynccontextmanager
async def serving(folder: Path, name: str, address: str) -> AsyncIterator[trio.Process]:
    """Run a node's process, and end it."""
    config = CONFIG.replace("127.0.0.1:0", address).replace('path = "to be said"', f'path = "{name}.db"')
    (folder / f"{name}.toml").write_text(config)
    options = ["--node-id", name, "--discovery", "file", "--expect", "3"]
    with (folder / f"{name}.log").open("ab") as log:
        process = await trio.lowlevel.open_process(
            [*COMMAND, "serve", "--config", str(folder / f"{name}.toml"), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


async def until_voters(address: str, voters: set[str]) -> None:
    """Wait until these vote, and no others."""

    async def vote() -> bool:
        told = await ask("members", "list", address=address)
        members = told["members"]
        assert isinstance(members, dict)
        return {one["node_id"] for one in members["servers"] if one["standing"] == "voter"} == voters

    await until_answered(vote, step_s=0.2)


async def test_processes_form_one_cluster_by_discovery(tmp_path: Path) -> None:
    """Started one after the other; one is killed, and started again with the same command; a fourth joins."""
    reservation = PortReservation(len(NAMES))
    addresses = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, reservation.ports, strict=True)}
    members = tmp_path / "members"
    members.write_text("".join(f"{name} {addresses[name]}\n" for name in NAMES[:3]))
    with trio.fail_after(LIMIT_S), closing(reservation):
        async with AsyncExitStack() as running:
            for name in ("n3", "n1"):
                await running.enter_async_context(serving(tmp_path, name, addresses[name]))
            process = await running.enter_async_context(serving(tmp_path, "n2", addresses["n2"]))
            await ask("kv", "put", "key", "value", address=addresses["n2"])
            await until_voters(addresses["n3"], {"n1", "n2", "n3"})

            # The others need not read the new line: they learn of the fourth by the log.
            members.write_text("".join(f"{name} {addresses[name]}\n" for name in NAMES))
            await running.enter_async_context(serving(tmp_path, "n4", addresses["n4"]))
            await until_voters(addresses["n4"], set(NAMES))

            process.kill()
            await process.wait()
            assert (await ask("kv", "get", "key", address=addresses["n4"]))["value"] == "value"
            await running.enter_async_context(serving(tmp_path, "n2", addresses["n2"]))
            await ask("kv", "put", "key", "again", address=addresses["n2"])
            await until_voters(addresses["n2"], set(NAMES))
