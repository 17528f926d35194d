"""A large state moves to a fresh learner by snapshot: how much memory that takes, and how long.

Three processes on this machine, gRPC between them, SQLite with full synchronisation under each. Two are voters; the
third is added as a learner (thesis §4.2.1) when the state is there, and gets the snapshot. Writes go on all the time.

    python benchmarks/snapshot_transfer.py [--size 2GiB] [--machine generated|kv] [--json FILE]

``generated`` makes the bytes of its snapshot from a counter, and checks them when it gets them: it has the size and not
the memory, so what the leader's process takes is the node's own. ``kv`` is the key-value store that ships, which has
all of its state in memory.

Memory is the resident set (VmRSS of /proc), seen every 20 ms; so it runs on Linux only. A process's base is what it had
right before: the leader's before it takes its snapshot, and before it sends it; the receiver's when its node is up.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import attrs
import trio

from clustercore import Node, NodeConfig, RaftConfig
from clustercore.cli.demo.ports import PortReservation
from clustercore.interfaces import LogIndex, Role, SnapshotHandle, StateMachine, TransferFailed
from clustercore_grpc import GrpcTransport
from clustercore_kv import KeyValueMachine, Put, encode_command
from clustercore_kv.snapshot import FrozenStore
from clustercore_sqlite import SqliteStorage
from clustercore_static import StaticDiscovery

LEADER, HELPER, RECEIVER = "n1", "n2", "n3"
MIB = 1024 * 1024
BLOCK_BYTES = 64 * 1024
# Between two of the writes that go on all the time.
PAUSE_S = 0.05
# A snapshot is taken after so many entries beside those that make the state. Most of them are written at once, so that
# the next one is not taken before the first one has been sent.
ENTRIES_TO_SNAPSHOT = 8000
ENTRIES_LEFT = 20


def block(number: int) -> bytes:
    """Return the block of a generated state at a place: its number, over and over."""
    return number.to_bytes(8, "big") * (BLOCK_BYTES // 8)


class GeneratedSnapshot(SnapshotHandle):
    """So many blocks, made when they are read."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks

    def chunks(self) -> Iterator[bytes]:
        """Yield them."""
        return map(block, range(self._blocks))


class Generated(StateMachine):
    """A state of a given size that is made from a counter, and checked when it comes back."""

    def __init__(self) -> None:
        self._blocks = 0

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        """Take a size in blocks, or nothing."""
        if command:
            self._blocks = int(command)
        return b""

    def snapshot(self) -> GeneratedSnapshot:
        """Return as many blocks."""
        say("taking")
        return GeneratedSnapshot(self._blocks)

    async def restore_chunks(self, chunks: AsyncIterator[bytes]) -> None:
        """Compare every byte with what it must be."""
        unread, blocks = bytearray(), 0
        async for chunk in chunks:
            unread += chunk
            while len(unread) >= BLOCK_BYTES:
                if unread[:BLOCK_BYTES] != block(blocks):
                    raise ValueError(f"block {blocks} of the snapshot is not what was sent")
                del unread[:BLOCK_BYTES]
                blocks += 1
        if unread:
            raise ValueError(f"{len(unread)} bytes follow the snapshot's {blocks} blocks")
        self._blocks = blocks
        say("restored", bytes=blocks * BLOCK_BYTES)


class Store(KeyValueMachine):
    """The key-value store, and it says when it takes and when it has a snapshot."""

    def snapshot(self) -> FrozenStore:
        """Say that it is taken."""
        say("taking")
        return super().snapshot()

    async def restore_chunks(self, chunks: AsyncIterator[bytes]) -> None:
        """Say how much there was."""
        size = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for chunk in chunks:
                size += len(chunk)
                yield chunk

        await super().restore_chunks(counted())
        say("restored", bytes=size)


# --- In a node's process ---


def say(event: str, **details: object) -> None:
    """Tell the parent."""
    print(json.dumps({"event": event, **details}), flush=True)


def make_node(options: argparse.Namespace) -> Node:
    """Make a node that takes a snapshot once it has the state and some more."""
    entries = 1 if options.machine == "generated" else options.size // BLOCK_BYTES
    return Node(
        options.node,
        machine=Generated() if options.machine == "generated" else Store(),
        transport=GrpcTransport(options.members[options.node]),
        storage=SqliteStorage(options.folder / f"{options.node}.db"),
        discovery=StaticDiscovery(options.members),
        voters=() if options.node == RECEIVER else (LEADER, HELPER),
        config=NodeConfig(
            snapshot_entries=entries + ENTRIES_TO_SNAPSHOT,
            snapshot_bytes=2 * options.size,
            snapshot_tail_entries=10,
            # So that nobody is elected in the middle of it on a machine that is busy with something else.
            raft=RaftConfig(election_timeout_s=5.0, snapshot_timeout_s=10.0),
        ),
    )


async def run_node(options: argparse.Namespace) -> None:
    """Run one node until the parent goes away."""
    async with (
        make_node(options) as node,
        trio.open_nursery() as nursery,
    ):
        say("started")
        if options.node == LEADER:
            nursery.start_soon(lead, node, options)
        else:
            nursery.start_soon(leave_the_lead, node)
            await trio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()


async def leave_the_lead(node: Node) -> None:
    """Hand over whenever this node leads."""
    async for change in node.role_changes():
        while change.role is Role.LEADER and node.status().role is Role.LEADER:
            try:
                await node.transfer_leadership(LEADER)
            except TransferFailed:
                # Not connected yet, or too busy; the pause lets this node find out.
                await trio.sleep(0.1)


async def lead(node: Node, options: argparse.Namespace) -> None:
    """Do what the parent says, a word a line."""
    async for change in node.role_changes():
        if change.role is Role.LEADER:
            break
    await node.propose(nothing(options.machine))
    say("leading")
    latencies_s: list[float] = []
    async with trio.open_nursery() as nursery:
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            if line == "fill\n":
                await fill(node, options)
                # Nothing of how the state came about is to count for the base.
                gc.collect()
                nursery.start_soon(write_on, node, options.machine, latencies_s)
                say("filled", index=node.status().last_applied)
            elif line.startswith("compact "):
                await compact(node, int(line.split()[1]))
                say("compacted", slowest_write_s=max(latencies_s))
                latencies_s.clear()
            elif line == "add\n":
                await node.members.add_learner(RECEIVER, options.members[RECEIVER])
            elif line == "figures\n":
                say("figures", slowest_write_s=max(latencies_s), median_write_s=statistics.median(latencies_s))
        nursery.cancel_scope.cancel()


def nothing(machine: str) -> bytes:
    """Return a command that changes next to nothing."""
    return b"" if machine == "generated" else encode_command(Put("written meanwhile", b""))


async def fill(node: Node, options: argparse.Namespace) -> None:
    """Make the state, and go to shortly before the snapshot of it."""
    if options.machine == "generated":
        await node.propose(str(options.size // BLOCK_BYTES).encode())
    else:
        numbers = range(options.size // BLOCK_BYTES)
        await propose_all(node, (encode_command(Put(f"{number:012d}", os.urandom(BLOCK_BYTES))) for number in numbers))
    await propose_all(node, (nothing(options.machine) for _ in range(ENTRIES_TO_SNAPSHOT - ENTRIES_LEFT)))


async def propose_all(node: Node, commands: Iterator[bytes]) -> None:
    """Propose commands, some of them outstanding at a time."""

    async def propose_some() -> None:
        for command in commands:
            await node.propose(command)

    async with trio.open_nursery() as nursery:
        for _ in range(32):
            nursery.start_soon(propose_some)


async def write_on(node: Node, machine: str, latencies_s: list[float]) -> None:
    """Write now and then, and note how long each write takes."""
    while True:
        start = time.perf_counter()
        await node.propose(nothing(machine))
        latencies_s.append(time.perf_counter() - start)
        await trio.sleep(PAUSE_S)


async def compact(node: Node, index: int) -> None:
    """Write on until a snapshot that holds the whole state is stored, and the log before it is gone."""
    while node.status().first_log_index <= index:  # noqa: ASYNC110 - a node has no event for it
        await trio.sleep(PAUSE_S)


# --- In the parent's process ---


@attrs.define
class NodeProcess:
    """A node's process, and its memory."""

    process: subprocess.Popen[str]

    def wait(self, event: str) -> dict[str, float]:
        """Wait until it says something."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if said["event"] == event:
                return {name: float(value) for name, value in said.items() if name != "event"}
        raise SystemExit(f"a node ended before it said {event!r}")

    def tell(self, word: str) -> None:
        """Say something to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    @property
    def resident_bytes(self) -> int:
        """How much memory it has now; 0 if it is gone."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        except FileNotFoundError:
            return 0
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0

    def end(self) -> None:
        """Let it go."""
        self.process.communicate()


@contextmanager
def watched(node: NodeProcess, grown: Callable[[int], None]) -> Iterator[None]:
    """Tell by how much a process's memory had grown at the most when the block ends."""
    base = peak = node.resident_bytes
    is_over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(0.02):
            peak = max(peak, node.resident_bytes)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
        grown(peak - base)


def measure(options: argparse.Namespace, folder: Path, members: dict[str, str]) -> dict[str, float | str]:
    """Start the cluster, make the state, move it, and return the figures."""
    figures: dict[str, float | str] = {"machine": options.machine, "size_mib": options.size / MIB}

    def note(name: str, *, scale: float = MIB) -> Callable[[float], None]:
        return lambda value: figures.update({name: value / scale})

    with ExitStack() as running:

        def start(node_id: str) -> NodeProcess:
            command = [sys.executable, __file__, "--node", node_id, "--folder", str(folder)]
            command += ["--members", json.dumps(members), "--machine", options.machine, "--size", str(options.size)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            node = NodeProcess(process)
            running.callback(node.end)
            return node

        leader, _ = start(LEADER), start(HELPER)
        leader.wait("leading")
        leader.tell("fill")
        index = leader.wait("filled")["index"]
        figures["leader_base_mib"] = leader.resident_bytes / MIB
        with watched(leader, note("leader_grows_taking_mib")):
            leader.tell(f"compact {index:.0f}")
            leader.wait("taking")
            with timed(note("taking_s", scale=1)):
                figures["slowest_write_taking_s"] = leader.wait("compacted")["slowest_write_s"]
        receiver = start(RECEIVER)
        receiver.wait("started")
        figures["receiver_base_mib"] = receiver.resident_bytes / MIB
        with (
            watched(leader, note("leader_grows_sending_mib")),
            watched(receiver, note("receiver_grows_mib")),
            timed(note("sending_s", scale=1)),
        ):
            leader.tell("add")
            figures["moved_mib"] = receiver.wait("restored")["bytes"] / MIB
        leader.tell("figures")
        said = leader.wait("figures")
        figures["slowest_write_sending_s"] = said["slowest_write_s"]
        figures["median_write_sending_s"] = said["median_write_s"]
    return figures


@contextmanager
def timed(note: Callable[[float], None]) -> Iterator[None]:
    """Note how long the block took, in seconds."""
    start = time.perf_counter()
    yield
    note(time.perf_counter() - start)


def print_table(figures: dict[str, float | str]) -> None:
    """Print what was measured."""
    taken, sent = float(figures["taking_s"]), float(figures["sending_s"])
    moved = float(figures["moved_mib"])
    print(f"a state of {moved:,.0f} MiB, {figures['machine']}")
    print(f"{'':<28} {'seconds':>8} {'MiB/s':>8} {'leader grows':>14} {'receiver grows':>16} {'slowest write':>14}")
    print(
        f"{'leader takes the snapshot':<28} {taken:>8.1f} {moved / taken:>8.0f} "
        f"{figures['leader_grows_taking_mib']:>10.1f} MiB {'':>16} {figures['slowest_write_taking_s']:>12.3f} s"
    )
    print(
        f"{'and sends it; it is restored':<28} {sent:>8.1f} {moved / sent:>8.0f} "
        f"{figures['leader_grows_sending_mib']:>10.1f} MiB {figures['receiver_grows_mib']:>12.1f} MiB "
        f"{figures['slowest_write_sending_s']:>12.3f} s"
    )
    print(
        f"over {figures['leader_base_mib']:.0f} MiB of the leader, {figures['receiver_base_mib']:.0f} of the receiver"
    )


def size(text: str) -> int:
    """Read a number of bytes, perhaps with a unit."""
    found = re.fullmatch(r"(\d+)(MiB|GiB|)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 64MiB or 2GiB")
    return int(found[1]) * {"": 1, "MiB": MIB, "GiB": 1024 * MIB}[found[2]]


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size, default="2GiB", help="of the state; bytes, MiB or GiB")
    parser.add_argument("--machine", choices=("generated", "kv"), default="generated")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--folder", type=Path, help="where to keep the disks; there must be room for four states")
    parser.add_argument("--node", help=argparse.SUPPRESS)
    parser.add_argument("--members", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.node:
        trio.run(run_node, options)
        return
    names = (LEADER, HELPER, RECEIVER)
    reserved = PortReservation(len(names))
    members = {name: f"127.0.0.1:{port}" for name, port in zip(names, reserved.ports, strict=True)}
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        with closing(reserved):
            figures = measure(options, folder, members)
    finally:
        shutil.rmtree(folder)
    print_table(figures)
    if options.json:
        options.json.write_text(json.dumps({"cpus": os.cpu_count(), "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
