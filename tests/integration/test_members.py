"""A cluster of real processes changes its members under constant writes, by the commands that an operator has."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from clustercore.cli.demo.ports import PortReservation
from clustercore.cli.kv_client import all_pairs
from clustercore_grpc import GrpcTransport
from clustercore_kv import KeyValueClient
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

COMMAND = [sys.executable, "-P", "-m", "clustercore.cli"]
# Generous: they only end a test that hangs.
LIMIT_S = 300
COMMAND_S = 90

WRITERS = 4


@attrs.frozen
class Outcome:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line, which is JSON."""
        return json.loads(self.out.splitlines()[-1])


@attrs.define(eq=False)
class Cluster:
    """Processes n1, n2, ..., and a client's knowledge of what was written."""

    folder: Path
    nursery: trio.Nursery
    addresses: dict[str, str]
    processes: dict[str, trio.Process] = attrs.field(factory=dict)
    acknowledged: dict[str, bytes] = attrs.field(factory=dict)
    written: int = 0

    def write_config(self, name: str, *, first: Sequence[str] = ()) -> Path:
        """Write a node's file: of one of the first, or of one that waits to be added and knows nobody."""
        members = ", ".join(f'{one} = "{self.addresses[one]}"' for one in first)
        path = self.folder / f"{name}.toml"
        path.write_text(
            f"""
            node_id = "{name}"
            {"" if first else "voters = []"}
            transport = {{ plugin = "grpc", listen = "{self.addresses[name]}" }}
            storage = {{ plugin = "sqlite", path = "{name}.db" }}
            discovery = {{ plugin = "static", members = {{ {members} }} }}
            machine = {{ plugin = "kv" }}
            raft = {{ election_timeout_s = 2.0 }}
            node = {{ snapshot_entries = 500, snapshot_tail_entries = 100 }}
            """
        )
        return path

    async def start(self, name: str, *options: str) -> None:
        """Start a node's process; it is not serving yet."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = await trio.lowlevel.open_process(
                [*COMMAND, "serve", "--config", str(self.folder / f"{name}.toml"), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def log(self, name: str) -> str:
        """What a node has said so far."""
        return (self.folder / f"{name}.log").read_text()

    async def kill(self, name: str) -> None:
        """End a process with SIGKILL."""
        self.processes[name].kill()
        await self.processes[name].wait()

    async def command(self, *arguments: str, asked: str, code: int = 0, timeout_s: float = COMMAND_S) -> Outcome:
        """Run a command against one node, and check what it ends with."""
        done = await trio.run_process(
            [*COMMAND, *arguments, "--json", "--timeout", str(timeout_s), "--node", self.addresses[asked]],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        outcome = Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert outcome.code == code, (arguments, outcome, self.logs())
        return outcome

    async def standings(self, asked: str) -> dict[str, str]:
        """What each member is, by its name, as ``members list`` tells."""
        told = (await self.command("members", "list", asked=asked)).json
        assert told["is_settled"], told
        return {server["node_id"]: server["standing"] for server in told["members"]["servers"]}

    def logs(self) -> str:
        """The ends of all logs, for a failure."""
        return "\n".join(f"--- {name}\n{self.log(name)[-1500:]}" for name in self.processes)

    # --- Writing ---

    async def write(self, transport: GrpcTransport, number: int) -> None:
        """Write keys of one's own, one after the other, for as long as the test lasts."""
        client = KeyValueClient(transport, list(self.addresses.values()))
        for count in range(1_000_000):
            key, value = f"w{number}-{count}", b"%d" % count
            await client.put(key, value, retry_unknown=True)
            self.acknowledged[key] = value
            self.written += 1

    async def more_writes(self, count: int = 50) -> None:
        """Wait until so many more were acknowledged: the cluster works."""
        goal = self.written + count
        await until(lambda: self.written >= goal, step_s=0.05)

    async def check(self, transport: GrpcTransport, names: Sequence[str]) -> None:
        """Check that every node has everything that was acknowledged, with what it has applied itself."""
        for name in names:
            client = KeyValueClient(transport, [self.addresses[name]])
            acknowledged = dict(self.acknowledged)
            # A read of what the cluster has agreed on: then this node has applied all of it.
            await client.get("w0-0")
            found = {pair.key: pair.value async for pair in all_pairs(client, "w", local=True)}
            lost = {key for key, value in acknowledged.items() if found.get(key) != value}
            assert not lost, f"{name} lost {len(lost)} of {len(acknowledged)}: {sorted(lost)[:10]}"


@asynccontextmanager
async def open_cluster(folder: Path, names: Sequence[str]) -> AsyncIterator[tuple[Cluster, GrpcTransport]]:
    """Open a cluster whose first three nodes form it; the other names are only set up."""
    ports = PortReservation(len(names))
    addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports.ports, strict=True)}
    async with GrpcTransport() as transport, trio.open_nursery() as nursery:
        cluster = Cluster(folder, nursery, addresses)
        try:
            with trio.fail_after(LIMIT_S):
                for name in names:
                    cluster.write_config(name, first=names[:3] if name in names[:3] else ())
                ports.close()
                for name in names[:3]:
                    await cluster.start(name)
                for number in range(WRITERS):
                    nursery.start_soon(cluster.write, transport, number)
                await cluster.more_writes()
                yield cluster, transport
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                for process in cluster.processes.values():
                    if process.poll() is None:
                        process.kill()
                    await process.wait()


async def test_cluster_grows_loses_two_and_is_replaced_node_by_node(tmp_path: Path) -> None:
    """Three become five, two of them are killed, and in the end none of the first three is left; nothing is lost."""
    names = [f"n{number}" for number in range(1, 9)]
    async with open_cluster(tmp_path, names) as (cluster, transport):
        # Two ask for it themselves, as an operator would have it; the command waits until they vote.
        for name in ("n4", "n5"):
            config = tmp_path / f"{name}.toml"
            config.write_text(config.read_text().replace("voters = []", ""))
            await cluster.start(name, "--join", cluster.addresses["n1"])
            await cluster.command("members", "add", name, cluster.addresses[name], asked="n2")
        assert await cluster.standings("n5") == dict.fromkeys(["n1", "n2", "n3", "n4", "n5"], "voter")
        await cluster.more_writes()

        await cluster.kill("n2")
        await cluster.kill("n3")
        await cluster.more_writes()

        for old, new, asked in (("n2", "n6", "n1"), ("n3", "n7", "n4"), ("n1", "n8", "n1")):
            await cluster.start(new)
            await cluster.command("members", "replace", old, new, cluster.addresses[new], asked=asked)
            await cluster.more_writes()

        # The last of the first three was alive, and finds out that it was removed.
        with trio.fail_after(COMMAND_S):
            assert await cluster.processes["n1"].wait() == 1
        assert "node 'n1' was removed from its cluster" in cluster.log("n1")
        assert await cluster.standings("n8") == dict.fromkeys(["n4", "n5", "n6", "n7", "n8"], "voter")
        # Repeated, it is a success.
        await cluster.command("members", "replace", "n1", "n8", cluster.addresses["n8"], asked="n5")
        await cluster.more_writes()
        await cluster.check(transport, ["n4", "n5", "n6", "n7", "n8"])


async def test_node_whose_disk_is_lost_comes_back_by_itself(tmp_path: Path) -> None:
    """It is started as ever, on an empty disk, and votes again when it has the log; a learner is shown as one."""
    async with open_cluster(tmp_path, ["n1", "n2", "n3"]) as (cluster, transport):
        index = (await cluster.command("members", "list", asked="n1")).json["index"]
        await cluster.kill("n3")
        for path in await trio.Path(tmp_path).glob("n3.db*"):
            await path.unlink()

        await cluster.start("n3")
        with trio.fail_after(COMMAND_S):
            while True:
                told = (await cluster.command("members", "list", asked="n1")).json
                standings = {server["node_id"]: server["standing"] for server in told["members"]["servers"]}
                # One change made it a learner, another one a voter.
                if told["index"] > index and standings["n3"] == "voter":
                    break
                await trio.sleep(0.2)
        await cluster.kill("n2")

        # Without its vote there is no majority.
        await cluster.more_writes()
        await cluster.check(transport, ["n1", "n3"])


async def test_commands_tell_what_cannot_be(tmp_path: Path) -> None:
    """Each has the exit code that scripts rely on, and one line that says what to do."""
    async with open_cluster(tmp_path, ["n1", "n2", "n3", "n4"]) as (cluster, _):
        ask = partial(cluster.command, "members", asked="n3")
        never = await ask("promote", "n9", code=2)
        assert "node 'n9' is no member; add it first; the members are n1, n2, n3" in never.err
        index = (await ask("list")).json["index"]
        added = await ask("add", "n4", cluster.addresses["n4"], "--learner", "--expect-index", str(index))
        assert added.json["members"]["servers"][3]["standing"] == "learner"
        late = await ask("remove", "n4", "--expect-index", str(index), code=1)
        assert "the members are those of index" in late.err
        lagging = await ask("promote", "n4", code=1)
        assert "learner 'n4' lacks" in lagging.err
        nowhere = await ask("move", "n3", "127.0.0.1:1", code=1)
        assert f"node 'n3' is well at '{cluster.addresses['n3']}'" in nowhere.err
        await ask("move", "n3", "127.0.0.1:1", "--force")
        await ask("move", "n3", cluster.addresses["n3"])
        unknown = await ask("add", "n4", cluster.addresses["n4"], code=4, timeout_s=2)
        assert "the leader promotes it as soon as it has caught up" in unknown.err
        await ask("remove", "n4")
        applied = await ask("apply", "--voter", "n1", "--voter", "n2", "--learner", "n3")
        assert [server["standing"] for server in applied.json["members"]["servers"]] == ["voter", "voter", "learner"]
        assert {server["address"] for server in applied.json["members"]["servers"]} == {
            cluster.addresses[name] for name in ("n1", "n2", "n3")
        }
        for process in cluster.processes.values():
            process.send_signal(signal.SIGSTOP)
        try:
            nobody = await ask("list", code=1, timeout_s=2)
        finally:
            for process in cluster.processes.values():
                process.send_signal(signal.SIGCONT)
        assert "could not be asked or changed within 2.0 s" in nobody.err
