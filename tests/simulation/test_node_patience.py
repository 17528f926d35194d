"""``propose(give_up_s=...)``: what certainly was not done is told apart from what may have been."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from clustercore import Node, NodeConfig
from clustercore.interfaces import ProposalRefused
from clustercore.testing.simulation.disk import SimulatedDisk, SimulatedStorage
from clustercore_memory import MemoryNetwork, MemoryTransport
from clustercore_static import StaticDiscovery
from tests.simulation.cluster import Journal


def make_node(disk: SimulatedDisk, voters: str, *, max_pending_proposals: int = 4096) -> Node:
    """Node "a"; the other voters do not exist."""
    return Node(
        "a",
        machine=Journal(),
        transport=MemoryTransport(MemoryNetwork(), "a"),
        storage=SimulatedStorage(disk),
        discovery=StaticDiscovery({voter: voter for voter in voters}),
        config=NodeConfig(max_pending_proposals=max_pending_proposals),
    )


async def test_proposal_without_a_leader_is_refused_when_its_patience_ends(autojump_clock: MockClock) -> None:
    """A node that finds no quorum refuses after ``give_up_s``, keeps nothing of the command, and says who and why."""
    async with make_node(SimulatedDisk(), "abc") as node:
        start = trio.current_time()
        with pytest.raises(ProposalRefused, match=r"'a' had no leader .* within 3 s; nothing was done"):
            await node.propose(b"x", give_up_s=3)

        assert trio.current_time() - start == pytest.approx(3)
        assert node.status().pending_proposals == 0


async def test_proposal_without_room_is_refused_when_its_patience_ends(autojump_clock: MockClock) -> None:
    """So does one that waits behind a full queue."""
    async with make_node(SimulatedDisk(), "abc", max_pending_proposals=1) as node, trio.open_nursery() as nursery:
        nursery.start_soon(node.propose, b"first")
        await trio.testing.wait_all_tasks_blocked()

        with pytest.raises(ProposalRefused, match="no room"):
            await node.propose(b"second", give_up_s=3)

        assert node.status().pending_proposals == 1
        nursery.cancel_scope.cancel()


async def test_proposal_on_its_way_is_not_given_up(autojump_clock: MockClock) -> None:
    """A command that is in the leader's log waits for its outcome, however long the disk takes."""
    disk = SimulatedDisk()
    async with make_node(disk, "a") as node, trio.open_nursery() as nursery:
        await node.propose(b"first")
        outcome: list[bytes] = []

        async def propose() -> None:
            outcome.append((await node.propose(b"second", give_up_s=3)).result)

        with disk.stall():
            nursery.start_soon(propose)
            await trio.sleep(10)
            assert outcome == []
        await trio.sleep(1)

        assert outcome == [b"3:second"]
