"""Three nodes as three processes, over gRPC and SQLite: stopped, killed and started again.

Nothing here waits for a fixed time: what must come is asked for again and again until a deadline, which only ends a
test that has failed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.waiting import until_answered

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LIMIT_S = 90
ROOT = Path(__file__).parents[2]


class Ended(Exception):
    """The process is gone, or went before it answered."""


@attrs.define(eq=False)
class NodeProcess:
    """A node's process, and the requests it has not answered."""

    name: str
    database: Path
    process: trio.Process | None = None
    address: str = ""
    ready: trio.Event = attrs.field(factory=trio.Event)
    waiting: dict[int, tuple[trio.Event, list[dict[str, Any]]]] = attrs.field(factory=dict)
    last_id: int = 0
    lock: trio.Lock = attrs.field(factory=trio.Lock)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Be the process, until it ends by itself or is killed; a cancellation kills it."""
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "tests.integration.node_process", self.name, str(self.database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        self.process = process
        try:
            assert process.stdout is not None
            received = b""
            async for chunk in process.stdout:
                *lines, received = (received + chunk).split(b"\n")
                for line in lines:
                    self._take(json.loads(line), task_status)
        finally:
            self.process = None
            for event, _ in self.waiting.values():
                event.set()
            # It may be stopped by a signal: only SIGKILL ends it for certain. After a good end it does nothing.
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    def _take(self, message: dict[str, Any], task_status: trio.TaskStatus[None]) -> None:
        if "address" in message:
            self.address = message["address"]
            task_status.started()
        else:
            event, answers = self.waiting.pop(message["id"])
            answers.append(message)
            event.set()

    async def tell(self, message: dict[str, Any]) -> None:
        """Send one line.

        Raises: Ended.
        """
        try:
            async with self.lock:
                if self.process is None or self.process.stdin is None:
                    raise Ended(self.name)
                await self.process.stdin.send_all(json.dumps(message).encode() + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Ended(self.name) from error

    async def ask(self, **request: object) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises: Ended.
        """
        self.last_id += 1
        event, answers = self.waiting[self.last_id] = trio.Event(), []
        await self.tell({"id": self.last_id, **request})
        await event.wait()
        if not answers:
            raise Ended(self.name)
        return answers[0]

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, which runs."""
        assert self.process is not None
        self.process.send_signal(number)


class Cluster:
    """Nodes "a", "b" and "c", and what clients were told."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.nodes = {name: NodeProcess(name, folder / f"{name}.db") for name in "abc"}
        self._nursery = nursery
        self.attempted: set[str] = set()
        self.acknowledged: dict[str, int] = {}
        self.errors: dict[str, str] = {}

    def __getitem__(self, name: str) -> NodeProcess:
        return self.nodes[name]

    async def start(self, *names: str) -> None:
        """Start processes and make all that run known to each other."""
        for name in names:
            await self._nursery.start(self.nodes[name].run)
        for node in self.nodes.values():
            for other in self.nodes.values():
                if node.process is not None and other.process is not None and node is not other:
                    await node.tell({"member": other.name, "address": other.address})

    async def end(self, name: str, how: str) -> None:
        """End a process, by the end of its input or by SIGKILL, and wait until it is gone."""
        node = self.nodes[name]
        assert node.process is not None
        if how == "kill":
            node.process.kill()
        else:
            assert node.process.stdin is not None
            await node.process.stdin.aclose()
        await until_answered(lambda: _is_gone(node))

    async def propose(self, name: str, command: str) -> None:
        """Propose one command at one node, and note what is known of it."""
        self.attempted.add(command)
        try:
            answer = await self.nodes[name].ask(propose=command)
        except Ended:
            self.errors[command] = "Ended"
            return
        if "error" in answer:
            self.errors[command] = answer["error"]
        else:
            self.acknowledged[command] = answer["index"]

    async def write(self, name: str, text: str) -> None:
        """Propose at one node until it is acknowledged: on a loaded machine a leader may fall at any time."""
        for attempt in range(1000):
            command = f"{text}, attempt {attempt}"
            await self.propose(name, command)
            if command in self.acknowledged:
                return
        raise AssertionError(f"{name} acknowledges nothing")

    async def statuses(self, *names: str) -> list[dict[str, Any]]:
        """The statuses of some nodes."""
        return [await self.nodes[name].ask(status=True) for name in names]

    async def leader(self, *among: str, after_term: int = 0) -> str:
        """Wait until some nodes agree on a leader among them, in a term above the one given."""
        found: list[str] = []

        async def agree() -> bool:
            statuses = await self.statuses(*among)
            leaders = {(status["leader_id"], status["term"]) for status in statuses}
            [(leader_id, term), *rest] = leaders
            if rest or leader_id not in among or term <= after_term:
                return False
            found.append(leader_id)
            return True

        await until_answered(agree)
        return found[0]

    async def check(self) -> None:
        """Let all three agree, and hold what clients were told against what was applied."""

        async def all_told() -> bool:
            return len(self.acknowledged) + len(self.errors) == len(self.attempted)

        async def agree() -> bool:
            statuses = await self.statuses("a", "b", "c")
            ends = {(status["last_log_index"], status["last_applied"], status["term"]) for status in statuses}
            return len(ends) == 1 and statuses[0]["last_log_index"] == statuses[0]["last_applied"] > 0

        await until_answered(all_told)
        await until_answered(agree)
        journals = [(await self.nodes[name].ask(journal=True))["lines"] for name in "abc"]
        assert journals[0] == journals[1] == journals[2]
        applied = [command for _, command in journals[0]]
        assert len(applied) == len(set(applied)), "a command was applied twice"
        assert set(applied) <= self.attempted
        places = {command: index for index, command in journals[0]}
        lost = {command for command, index in self.acknowledged.items() if places.get(command) != index}
        assert not lost, f"acknowledged and lost, or elsewhere: {lost}"


async def _is_gone(node: NodeProcess) -> bool:
    return node.process is None


@asynccontextmanager
async def three_processes(folder: Path) -> AsyncIterator[tuple[Cluster, trio.Nursery]]:
    """Three running nodes with a leader; the nursery is for proposals."""
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            cluster = Cluster(folder, nursery)
            await cluster.start("a", "b", "c")
            await cluster.leader("a", "b", "c")
            async with trio.open_nursery() as proposals:
                yield cluster, proposals
            nursery.cancel_scope.cancel()


def others(name: str) -> list[str]:
    """The names of the other two."""
    return [other for other in "abc" if other != name]


async def test_leader_stopped_for_longer_than_an_election_steps_down(tmp_path: Path) -> None:
    """SIGSTOP, an election, SIGCONT: the old leader follows, and its proposals succeed or are unknown; none is lost."""
    async with three_processes(tmp_path) as (cluster, nursery):
        old = await cluster.leader("a", "b", "c")
        [term] = {status["term"] for status in await cluster.statuses(old)}
        for number in range(20):
            await cluster.write(old, f"before {number}")

        for number in range(500):
            nursery.start_soon(cluster.propose, old, f"pending {number}")
            nursery.start_soon(cluster.propose, others(old)[0], f"forwarded {number}")

        async def under_way() -> bool:
            return len(cluster.acknowledged) > 20 + 50

        await until_answered(under_way)
        cluster[old].send_signal(signal.SIGSTOP)
        new = await cluster.leader(*others(old), after_term=term)
        for number in range(20):
            await cluster.write(new, f"meanwhile {number}")

        cluster[old].send_signal(signal.SIGCONT)
        await cluster.leader("a", "b", "c", after_term=term)
        await cluster.check()
        assert set(cluster.errors.values()) <= {"OutcomeUnknown"}


@pytest.mark.parametrize("role", ["leader", "follower", "pre_candidate"])
@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_node_restarts_from_disk_in_every_role(role: str, how: str, tmp_path: Path) -> None:
    """Whatever it was when it ended, a node comes back from its file as a follower and has everything.

    A node without a quorum asks around and starts no term; one that did start one is in the core's own tests.
    """
    async with three_processes(tmp_path) as (cluster, _):
        for number in range(10):
            await cluster.write("a", f"before {number}")
        left = ["a", "b", "c"]
        if role == "pre_candidate":
            leader = await cluster.leader("a", "b", "c")
            left = others(leader)[:1]
            for name in others(left[0]):
                await cluster.end(name, how)
        found: list[dict[str, Any]] = []

        async def has_role() -> bool:
            found[:] = [status for status in await cluster.statuses(*left) if status["role"] == role]
            return bool(found)

        await until_answered(has_role)
        before = found[0]
        restarted = before["name"]

        await cluster.end(restarted, how)
        await cluster.start(restarted)
        [after] = await cluster.statuses(restarted)
        assert after["term"] >= before["term"], "it forgot its term, and with it its vote"
        if role == "pre_candidate":
            await cluster.start(*others(restarted))

        await cluster.leader("a", "b", "c")
        await cluster.write(restarted, "after")
        await cluster.check()


async def test_each_node_is_killed_in_turn_under_writes(tmp_path: Path) -> None:
    """kill -9 of one process after the other while clients write everywhere: nothing acknowledged is lost."""
    async with three_processes(tmp_path) as (cluster, nursery):
        enough = trio.Event()

        async def keep_proposing(name: str) -> None:
            number = 0
            while not enough.is_set():
                number += 1
                await cluster.propose(name, f"{name} {number}")
                # A process that is off answers at once.
                await trio.sleep(0.005)

        for name in "abc":
            nursery.start_soon(keep_proposing, name)
        for name in "abc":
            await _more_is_acknowledged(cluster)
            await cluster.end(name, "kill")
            await cluster.leader(*others(name))
            await _more_is_acknowledged(cluster)
            await cluster.start(name)
            await cluster.leader("a", "b", "c")
        await _more_is_acknowledged(cluster)
        enough.set()
        await cluster.check()
        assert len(cluster.acknowledged) > 200


async def test_snapshot_reaches_a_follower_whatever_is_killed_meanwhile(tmp_path: Path) -> None:
    """kill -9 of the follower while it is sent chunk after chunk, and of its leader: it catches up all the same."""
    async with three_processes(tmp_path) as (cluster, _):
        leader = await cluster.leader("a", "b", "c")
        away, helper = others(leader)
        await cluster.end(away, "kill")
        # Some 300 chunks, and far more entries than the tail of any log.
        async with trio.open_nursery() as nursery:
            for number in range(240):
                nursery.start_soon(cluster.propose, leader, f"{number} ".ljust(5000, "."))

        async def hears_a_leader() -> bool:
            [status] = await cluster.statuses(away)
            return status["leader_id"] is not None

        for _ in range(3):
            await cluster.start(away)
            await until_answered(hears_a_leader)
            await cluster.end(away, "kill")
        await cluster.start(away)
        await until_answered(hears_a_leader)
        await cluster.end(leader, "kill")
        await cluster.start(leader)
        await cluster.leader("a", "b", "c")

        await cluster.write(helper, "after")
        await cluster.check()
        for name in "abc":
            [status] = await cluster.statuses(name)
            assert status["first_log_index"] > 100, "it kept the log, and needed no snapshot"


async def _more_is_acknowledged(cluster: Cluster) -> None:
    """Wait for a number of new acknowledgements."""
    before = len(cluster.acknowledged)

    async def more() -> bool:
        return len(cluster.acknowledged) > before + 50

    await until_answered(more)
