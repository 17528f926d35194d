"""Clients of a simulated cluster, and what they know in the end.

To a client the journal is a map: the key of a command is its prefix, its value the whole command, and a query for the
prefix answers with the value. So what clients saw can be checked to be linearizable.
"""

from __future__ import annotations

from contextlib import suppress

import attrs
import trio

from clustercore import Node
from clustercore.interfaces import (
    Applied,
    Consistency,
    EntryKind,
    NodeStopped,
    NotLeader,
    OutcomeUnknown,
    ProposalRefused,
)
from clustercore.runtime.session_entries import command_in
from clustercore.testing import (
    HistoryRecorder,
    MapGet,
    MapInput,
    MapOutput,
    MapPut,
    assert_linearizable,
    key_value_model,
)
from clustercore.testing.simulation import disks as simulation
from clustercore.testing.simulation.disk import Content
from tests.simulation.cluster import Journal, SimulatedCluster
from tests.snapshots import machine_bytes

__all__ = ["Ledger", "check_disks", "client", "propose", "read"]

# Virtual seconds that a client waits for a read: cut off, it would wait for the end of the run.
READ_PATIENCE_S = 2.0

# Entries that may hold a command.
_COMMANDS = (EntryKind.COMMAND, EntryKind.SESSION)


@attrs.define
class Ledger:
    """What clients were told of each command they proposed."""

    attempted: list[bytes] = attrs.field(factory=list)
    acknowledged: list[tuple[bytes, Applied]] = attrs.field(factory=list)
    # Told each time that nothing was done, and given up.
    refused: list[bytes] = attrs.field(factory=list)
    # Told that it may be done, or cancelled.
    unknown: list[bytes] = attrs.field(factory=list)
    # The same, and what they read, in the order in which it happened.
    recorder: HistoryRecorder[MapInput, MapOutput] = attrs.field(factory=HistoryRecorder)

    def check(self, cluster: SimulatedCluster) -> None:
        """Hold what was told against what was applied, on all nodes that are on, which agree."""
        cluster.check_acknowledged(self.acknowledged, attempted=self.attempted)
        for machine in cluster.on:
            done = set(machine.machine.commands) & set(self.refused)
            assert not done, f"{machine.name} applied what clients were told is not done: {done}"

    def check_history(self) -> None:
        """Check that what clients saw is linearizable."""
        assert_linearizable(key_value_model(), self.recorder.operations)


async def client(
    cluster: SimulatedCluster, ledger: Ledger, name: str, count: int, *, pause_s: float = 0.0, prefix: str = ""
) -> None:
    """Propose commands one after the other on the machine of this name, or on another while it is off.

    After each it reads what the newest command with this prefix is, linearizably or under a lease in turn. A command
    that is not done is tried again; one whose outcome is unknown is left alone.
    """
    for number in range(count):
        command = f"{prefix}{name}{number}".encode()
        ledger.attempted.append(command)
        await _propose_until_done(cluster, ledger, name, prefix, command)
        node = _node_for(cluster, name)
        if node is not None:
            consistency = Consistency.LEASE if number % 2 else Consistency.LINEARIZABLE
            with trio.move_on_after(READ_PATIENCE_S), suppress(NodeStopped):
                await read(ledger, node, prefix, consistency, client=f"{prefix}{name}")
        await trio.sleep(pause_s)


async def _propose_until_done(
    cluster: SimulatedCluster, ledger: Ledger, name: str, prefix: str, command: bytes
) -> None:
    for _ in range(20):
        node = _node_for(cluster, name)
        if node is not None:
            try:
                ledger.acknowledged.append(
                    (command, await propose(ledger, node, prefix, command, client=f"{prefix}{name}"))
                )
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


def _node_for(cluster: SimulatedCluster, name: str) -> Node | None:
    """The node of this name, or another while it is off; None while all are."""
    return cluster[name].node or next((machine.node for machine in cluster.on), None)


async def propose(
    ledger: Ledger, node: Node, prefix: str, command: bytes, *, client: str, give_up_s: float | None = None
) -> Applied:
    """Propose a command that begins with the prefix, and record what became of it."""
    with ledger.recorder.record(client, MapPut(prefix, command.decode()), note=f"on {node.node_id}") as pending:
        applied = await node.propose(command, give_up_s=give_up_s)
        pending.answer(None)
    return applied


async def read(ledger: Ledger, node: Node, prefix: str, consistency: Consistency, *, client: str) -> None:
    """Read the newest command with the prefix, and record it."""
    with ledger.recorder.record(client, MapGet(prefix), note=f"{consistency.value} on {node.node_id}") as pending:
        result = await node.read(prefix.encode(), consistency=consistency)
        pending.answer(result.value.decode() or None)


def _durable_commands(content: Content) -> dict[int, bytes]:
    """The commands on a disk by index, in its snapshot and its log."""
    journal, state = Journal(), content.state
    if state.snapshot is not None:
        journal.restore(machine_bytes(content.snapshot_data))
    own = {entry.index: command_in(entry.kind, entry.command) for entry in state.entries if entry.kind in _COMMANDS}
    return dict(journal.lines) | {index: command for index, command in own.items() if command}


def check_disks(cluster: SimulatedCluster, ledger: Ledger) -> None:
    """Check what is on the disks at this very moment, which may be the one of a power cut.

    Everything acknowledged is on a majority of them, and the logs match.
    """
    states = [machine.disk.synced for machine in cluster.machines.values()]
    disks = [_durable_commands(machine.disk.content) for machine in cluster.machines.values()]
    for command, applied in ledger.acknowledged:
        holders = sum(disk.get(applied.index) == command for disk in disks)
        assert holders > len(disks) // 2, f"{command!r} was acknowledged and is on {holders} of {len(disks)} disks"
    simulation.check_disks(states)
