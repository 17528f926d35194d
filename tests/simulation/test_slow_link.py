"""A large snapshot on a thin wire: what is urgent does not wait behind it, and nobody takes the leader for dead."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import MockClock

from clustercore import Node, NodeConfig, RaftConfig
from clustercore.interfaces import LogIndex, NodeId, StateMachine
from clustercore_memory import LinkQuality, MemoryNetwork, MemoryStorage, MemoryTransport
from clustercore_static import StaticDiscovery

SNAPSHOT_BYTES = 64 * 1024 * 1024
# 10 Mbit/s.
BYTES_PER_S = 10_000_000 / 8
RAFT = RaftConfig()
CONFIG = NodeConfig(raft=RAFT, snapshot_entries=10, snapshot_tail_entries=0, snapshot_tail_bytes=0)


class Heavy(StateMachine):
    """A state of 64 MiB, whatever is applied."""

    def __init__(self) -> None:
        self.applied = 0
        self.restored = 0

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        self.applied += 1
        return b""

    def query(self, query: bytes) -> bytes:
        return b"%d" % self.applied

    def snapshot(self) -> bytes:
        return bytes(SNAPSHOT_BYTES)

    def restore(self, snapshot: bytes) -> None:
        assert len(snapshot) == SNAPSHOT_BYTES
        self.restored += 1


@pytest.mark.slow
async def test_snapshot_of_64_mib_over_10_mbit_does_not_delay_a_heartbeat(autojump_clock: MockClock) -> None:
    """For the minute that it takes, the leader leads on by the answers of the very follower that receives it.

    Each read asks that follower, on the control lane, whether the leader still leads: 99 of 100 are answered within a
    heartbeat's interval, and no election is called.
    """
    network, discovery = MemoryNetwork(), StaticDiscovery({})
    machines = {name: Heavy() for name in "abc"}
    async with AsyncExitStack() as stack:
        nodes = {
            name: Node(
                name,
                machine=machines[name],
                transport=MemoryTransport(network, name),
                storage=MemoryStorage(),
                discovery=discovery,
                voters="abc",
                config=CONFIG,
            )
            for name in "abc"
        }
        for node in nodes.values():
            await stack.enter_async_context(node)
        leader = nodes[await nodes["a"].wait_leader()]
        away, other = (name for name in "abc" if name != leader.node_id)
        network.isolate(away)
        while leader.status().first_log_index <= 10:
            await leader.propose(b"x")
        # From now on there is no majority without the one that lacks all of that.
        network.heal()
        network.set_quality(LinkQuality(bytes_per_s=BYTES_PER_S))
        network.isolate(other)
        term, begun, latencies = leader.status().term, trio.current_time(), list[float]()
        while not machines[away].restored:
            asked = trio.current_time()
            await leader.read(b"")
            latencies.append(trio.current_time() - asked)
            await trio.sleep(0.02)

        assert trio.current_time() - begun >= SNAPSHOT_BYTES / BYTES_PER_S
        status = leader.status()
        assert (status.leader_id, status.term) == (NodeId(leader.node_id), term)
        assert len(latencies) > 500
        # The first ones may have to wait until the links are made again.
        latencies = sorted(latencies[10:])
        assert latencies[len(latencies) * 99 // 100] < RAFT.heartbeat_interval_s
        network.heal()
