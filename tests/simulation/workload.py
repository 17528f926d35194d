"""Clients of a simulated cluster, and what they know in the end."""

from __future__ import annotations

from itertools import combinations

import attrs
import trio

from clustercore.interfaces import (
    Applied,
    NodeStopped,
    NotLeader,
    OutcomeUnknown,
    ProposalRefused,
    StoredState,
)
from tests.simulation.cluster import Journal, SimulatedCluster

__all__ = ["Ledger", "check_disks", "client"]


@attrs.define
class Ledger:
    """What clients were told of each command they proposed."""

    attempted: list[bytes] = attrs.field(factory=list)
    acknowledged: list[tuple[bytes, Applied]] = attrs.field(factory=list)
    # Told each time that nothing was done, and given up.
    refused: list[bytes] = attrs.field(factory=list)
    # Told that it may be done, or cancelled.
    unknown: list[bytes] = attrs.field(factory=list)

    def check(self, cluster: SimulatedCluster) -> None:
        """Hold what was told against what was applied, on all nodes that are on, which agree."""
        cluster.check_acknowledged(self.acknowledged, attempted=self.attempted)
        for machine in cluster.on:
            done = set(machine.machine.commands) & set(self.refused)
            assert not done, f"{machine.name} applied what clients were told is not done: {done}"


async def client(
    cluster: SimulatedCluster, ledger: Ledger, name: str, count: int, *, pause_s: float = 0.0, prefix: str = ""
) -> None:
    """Propose commands one after the other on the machine of this name, or on another while it is off.

    A command that is not done is tried again; one whose outcome is unknown is left alone.
    """
    for number in range(count):
        command = f"{prefix}{name}{number}".encode()
        ledger.attempted.append(command)
        await _propose(cluster, ledger, name, command)
        await trio.sleep(pause_s)


async def _propose(cluster: SimulatedCluster, ledger: Ledger, name: str, command: bytes) -> None:
    for _ in range(20):
        node = cluster[name].node or next((machine.node for machine in cluster.on), None)
        if node is not None:
            try:
                ledger.acknowledged.append((command, await node.propose(command)))
            except OutcomeUnknown:
                ledger.unknown.append(command)
                return
            except (NodeStopped, NotLeader, ProposalRefused):
                pass
            except trio.Cancelled:
                ledger.unknown.append(command)
                raise
            else:
                return
        await trio.sleep(0.2)
    ledger.refused.append(command)


def _durable_commands(state: StoredState) -> dict[int, bytes]:
    """The commands on a disk by index, in its snapshot and its log."""
    journal = Journal()
    if state.snapshot is not None:
        journal.restore(state.snapshot.data)
    return dict(journal.lines) | {entry.index: entry.command for entry in state.entries if entry.command}


def check_disks(cluster: SimulatedCluster, ledger: Ledger) -> None:
    """Check what is on the disks at this very moment, which may be the one of a power cut.

    Everything acknowledged is on a majority of them, and the logs match.
    """
    states = [machine.disk.synced for machine in cluster.machines.values()]
    disks = [_durable_commands(state) for state in states]
    for command, applied in ledger.acknowledged:
        holders = sum(disk.get(applied.index) == command for disk in disks)
        assert holders > len(disks) // 2, f"{command!r} was acknowledged and is on {holders} of {len(disks)} disks"
    for state in states:
        _check_log(state)
    for one, other in combinations(states, 2):
        _check_match(one, other)


def _check_log(state: StoredState) -> None:
    covered = state.snapshot.last_included_index if state.snapshot is not None else 0
    indexes = [entry.index for entry in state.entries]
    terms = [entry.term for entry in state.entries]
    if indexes:
        assert indexes == list(range(indexes[0], indexes[0] + len(indexes))), f"a gap in {indexes}"
        assert indexes[0] <= covered + 1, f"a gap between the snapshot to {covered} and {indexes}"
        assert terms == sorted(terms), f"terms fall: {terms}"
        assert terms[-1] <= state.hard_state.current_term, "an entry is of a later term than the stored one"


def _check_match(one: StoredState, other: StoredState) -> None:
    """Two logs with an entry of the same index and term agree in all before it (Raft §5.3, Log Matching)."""
    theirs = {entry.index: entry for entry in other.entries}
    common = [(entry, theirs[entry.index]) for entry in one.entries if entry.index in theirs]
    matching = [ours.index for ours, their in common if ours.term == their.term]
    for ours, their in common:
        assert ours == their or not matching or ours.index > matching[-1], f"{ours} and {their} before {matching[-1]}"
