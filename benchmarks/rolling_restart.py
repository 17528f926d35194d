"""How long writes stand still while all nodes of a cluster are restarted, one after the other.

Three `clustercore serve` processes on this machine, with the shipped configuration: gRPC, SQLite, an election timeout
of one second. A writer puts one key after another, as fast as each is acknowledged. Meanwhile every node is stopped
with SIGTERM and started again, the leader too: it hands over before it stops. The figure is the longest time from one
acknowledgement to the next; nothing acknowledged may be lost, and no node may stand for election because it heard no
leader.

    python benchmarks/rolling_restart.py [--rounds 3] [--json FILE]

A busy machine makes every gap longer; the quiet gap, while nothing is restarted, shows by how much.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio

from clustercore import RaftConfig
from clustercore.cli.demo.cluster import DemoCluster
from clustercore.interfaces import OutcomeUnknown, ServiceTransport
from clustercore_grpc import GrpcTransport
from clustercore_kv import KeyValueClient

# How long the cluster is left alone before the first restart and after each.
CALM_S = 1.0


@attrs.define
class Writes:
    """What the writer was told, and when."""

    acknowledged: list[str] = attrs.field(factory=list)
    unknown: int = 0
    last_at: float = attrs.field(factory=time.perf_counter)
    has_begun: trio.Event = attrs.field(factory=trio.Event)
    # The longest time between two acknowledgements, since it was last looked at.
    longest_s: float = 0.0

    def note(self, key: str) -> None:
        """Note an acknowledgement."""
        now = time.perf_counter()
        self.longest_s, self.last_at = max(self.longest_s, now - self.last_at), now
        self.acknowledged.append(key)
        self.has_begun.set()

    def take_longest_s(self) -> float:
        """Return the longest gap, the one under way included, and begin anew."""
        longest_s, self.longest_s = max(self.longest_s, time.perf_counter() - self.last_at), 0.0
        return longest_s


async def write_all_the_time(client: KeyValueClient, writes: Writes) -> None:
    """Put keys, each once, until cancelled."""
    for number in range(sys.maxsize):
        key = f"key-{number}"
        try:
            await client.put(key, b"value")
        except OutcomeUnknown:
            writes.unknown += 1
        else:
            writes.note(key)


async def caught_up(cluster: DemoCluster, node_id: str) -> None:
    """Wait until a node has applied what its leader has committed by now."""
    leader = await cluster.wait_leader()
    while True:
        status = await cluster.ask(cluster.node(node_id))
        if status is not None and status.last_applied >= leader.commit_index:
            return
        await trio.sleep(0.01)


def elections_by_timeout(logs: str) -> int:
    """Count the elections in a log that nobody was told to begin: who is told to stand does not ask around first."""
    return len(re.findall(r": pre_candidate in term \d+, leader None\n[^\n]*: candidate in term", logs))


@contextmanager
def only_new(paths: list[Path]) -> Iterator[list[str]]:
    """Yield a list that holds, after the block, what was added to each file meanwhile."""
    lengths = [path.stat().st_size for path in paths]
    added: list[str] = []
    yield added
    for path, length in zip(paths, lengths, strict=True):
        with path.open("rb") as file:
            file.seek(length)
            added.append("\n".join(line for line in file.read().decode().splitlines() if " in term " in line))


async def measure(folder: Path, rounds: int) -> dict[str, object]:
    """Restart all nodes again and again, and return the figures."""
    writes = Writes()
    gaps: list[float] = []
    async with GrpcTransport() as transport:
        cluster = DemoCluster(folder, transport, "grpc", lambda line: print(line, file=sys.stderr))
        try:
            await cluster.start()
            await cluster.wait_leader()
            quiet_s = 0.0
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_all_the_time, KeyValueClient(transport, cluster.addresses), writes)
                await writes.has_begun.wait()
                await trio.sleep(CALM_S)
                writes.take_longest_s()
                await trio.sleep(2 * CALM_S)
                quiet_s = writes.take_longest_s()
                with only_new([node.log_path for node in cluster.nodes]) as added:
                    for _ in range(rounds):
                        for node in cluster.nodes:
                            await node.stop()
                            await cluster.restart(node)
                            await caught_up(cluster, node.node_id)
                            await trio.sleep(CALM_S)
                        gaps.append(writes.take_longest_s())
                        print(f"round {len(gaps)}: longest gap {1000 * gaps[-1]:.0f} ms", file=sys.stderr)
                nursery.cancel_scope.cancel()
            lost = await count_lost(transport, cluster, writes.acknowledged)
        finally:
            await cluster.stop()
    return {
        "writes": len(writes.acknowledged),
        "unknown": writes.unknown,
        "lost": lost,
        "elections_by_timeout": sum(map(elections_by_timeout, added)),
        "quiet_gap_ms": 1000 * quiet_s,
        "gaps_ms": [1000 * gap for gap in gaps],
        "longest_gap_ms": 1000 * max(gaps),
        "election_timeout_ms": 1000 * RaftConfig().election_timeout_s,
    }


async def count_lost(transport: ServiceTransport, cluster: DemoCluster, keys: list[str]) -> int:
    """Read back every key that was acknowledged, on each node; return how many are missing somewhere."""
    await cluster.wait_agreement()
    lost: set[str] = set()
    for node in cluster.nodes:
        there: set[str] = set()
        client, last = KeyValueClient(transport, [node.address]), ""
        while page := (await client.scan("", start_after=last, limit=1000, local=True)).pairs:
            there.update(pair.key for pair in page)
            last = page[-1].key
        lost |= set(keys) - there
    return len(lost)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each node is restarted")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = trio.run(measure, Path(folder), options.rounds)
    for name, value in figures.items():
        shown = [f"{gap:.0f}" for gap in value] if isinstance(value, list) else value
        print(f"{name:>22} {shown if isinstance(shown, list | int) else f'{shown:.0f}'}")
    if options.json:
        options.json.write_text(json.dumps({"cpus": os.cpu_count(), "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
