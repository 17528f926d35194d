"""Clusters of nodes that keep a journal, in the simulator that ships."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar

import trio

from clustercore.interfaces import Applied, InvalidCommand, LogIndex, StateMachine
from clustercore.raft.config import RaftConfig
from clustercore.runtime.config import NodeConfig
from clustercore.testing.simulation import cluster as simulation
from clustercore.testing.simulation.cluster import eventually
from clustercore.testing.simulation.running import run_cluster
from clustercore.testing.simulation.scheduler import Scheduler
from clustercore.testing.simulation.watching import Watch
from clustercore.testing.simulation.worlds import NAMES

__all__ = ["Journal", "SimulatedCluster", "SimulatedNode", "eventually", "simulate", "small_config"]

T = TypeVar("T")


class Journal(StateMachine):
    """Remembers every command and its index, and answers with both: two journals are equal if all that happened is."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, bytes]] = []
        # How often the state was replaced by a snapshot.
        self.restored = 0

    @property
    def commands(self) -> list[bytes]:
        """What was applied, in order."""
        return [command for _, command in self.lines]

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        if command == b"raise":
            raise RuntimeError("the machine is broken")
        assert not self.lines or self.lines[-1][0] < index, "an index was applied twice, or out of order"
        self.lines.append((index, command))
        return b"%d:%s" % (index, command)

    def validate(self, command: bytes) -> None:
        if command == b"invalid":
            raise InvalidCommand("the journal takes anything but this")

    def query(self, query: bytes) -> bytes:
        """Return the last command that begins with the query, unless asked to fail."""
        if query == b"raise":
            raise RuntimeError("the machine cannot answer")
        if query == b"invalid":
            raise InvalidCommand("the journal answers anything but this")
        return next((command for _, command in reversed(self.lines) if command.startswith(query)), b"")

    def snapshot(self) -> bytes:
        return json.dumps([(index, command.decode()) for index, command in self.lines]).encode()

    def restore(self, snapshot: bytes) -> None:
        self.lines = [(index, command.encode()) for index, command in json.loads(snapshot)]
        self.restored += 1


def small_config(
    *,
    snapshot_entries: int = 100_000,
    snapshot_tail_entries: int = 10_000,
    max_pending_proposals: int = 4096,
    max_command_bytes: int = 1024,
    forward_timeout_s: float = 10.0,
    max_append_entries: int = 1024,
    max_append_bytes: int = 1024 * 1024,
    snapshot_timeout_s: float = 30.0,
    snapshot_bytes: int = 256 * 1024 * 1024,
    snapshot_chunk_bytes: int = 1024 * 1024,
) -> NodeConfig:
    """A configuration with the shipped timing, and the limits that tests like to shrink."""
    return NodeConfig(
        raft=RaftConfig(
            max_append_entries=max_append_entries,
            max_append_bytes=max_append_bytes,
            snapshot_timeout_s=snapshot_timeout_s,
        ),
        snapshot_entries=snapshot_entries,
        snapshot_bytes=snapshot_bytes,
        snapshot_chunk_bytes=snapshot_chunk_bytes,
        snapshot_tail_entries=snapshot_tail_entries,
        max_pending_proposals=max_pending_proposals,
        max_command_bytes=max_command_bytes,
        forward_timeout_s=forward_timeout_s,
    )


SimulatedNode = simulation.SimulatedNode[Journal]


class SimulatedCluster(simulation.SimulatedCluster[Journal]):
    """A cluster of journals, which can be compared with each other and with what clients were told."""

    @property
    def config(self) -> NodeConfig:
        """What every node is configured as."""
        return self.config_of(self.names[0])

    async def converge(self) -> None:
        """Wait until all nodes that are on have applied the same log to its end."""
        await self.wait_agreed()
        self.check()

    def check(self) -> None:
        """Check what must hold at any time between nodes that have applied the same log."""
        journals = [machine.machine.lines for machine in self.on]
        assert all(journal == journals[0] for journal in journals), f"machines differ: {journals}"

    def check_acknowledged(self, acknowledged: Sequence[tuple[bytes, Applied]], *, attempted: Sequence[bytes]) -> None:
        """Check that every acknowledged command was applied once, where it was said to be, and none out of nothing."""
        for machine in self.on:
            applied = machine.machine.commands
            assert len(applied) == len(set(applied)), f"{machine.name} applied a command twice: {applied}"
            assert set(applied) <= set(attempted), f"{machine.name} applied what nobody proposed"
            places = {command: index for index, command in machine.machine.lines}
            for command, answer in acknowledged:
                assert places.get(command) == answer.index, f"{machine.name} lost {command!r}, acknowledged {answer}"


def simulate(
    main: Callable[[SimulatedCluster], Awaitable[T]],
    *,
    size: int = 3,
    seed: int = 0,
    config: NodeConfig | None = None,
    write_s: float = 0,
    is_watched: bool = True,
) -> T:
    """Run ``main`` with a cluster whose nodes are off, and check the invariants after each step of theirs.

    They know a node by its name, so whoever runs two of one name, or nodes beside the cluster's, has none checked.
    """
    chosen = config or small_config()
    clusters: list[SimulatedCluster] = []
    watch = Watch(NAMES[:size], lambda name: clusters[0][name].disk.synced, lambda name: clusters[0][name].lease_until)

    def make(nursery: trio.Nursery, scheduler: Scheduler) -> SimulatedCluster:
        cluster = SimulatedCluster(
            nursery,
            scheduler,
            Journal,
            size,
            seed=seed,
            config=chosen,
            write_s=write_s,
            watch=watch if is_watched else None,
        )
        clusters.append(cluster)
        return cluster

    with watch.watching(None) if is_watched else nullcontext():
        return run_cluster(make, main, seed=seed)
