"""All nodes of a cluster are restarted one after the other, under constant writes: real processes, ended by SIGTERM.

How long writes stand still depends on the machine: ``benchmarks/rolling_restart.py`` measures it. What does not depend
on it is why they may: a leader that hands over costs a message each way, one that is only missed an election timeout.
"""

from __future__ import annotations

import itertools
import re
import sys
import time
from pathlib import Path

import attrs
import pytest
import trio

from clustercore.cli.demo.cluster import DemoCluster
from clustercore.interfaces import OutcomeUnknown
from clustercore_grpc import GrpcTransport
from clustercore_kv import KeyValueClient
from tests.waiting import until_answered

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# Generous: it only ends a test that hangs.
LIMIT_S = 120
ELECTION_TIMEOUT_S = 3.0


class PatientCluster(DemoCluster):
    """Nodes that wait for a leader for longer than a busy machine keeps one from speaking."""

    def _write_config(self, node_id: str, addresses: dict[str, str]) -> Path:
        path = super()._write_config(node_id, addresses)
        with path.open("a") as file:
            file.write(f"\n[raft]\nelection_timeout_s = {ELECTION_TIMEOUT_S}\n")
        return path


@attrs.define
class Writes:
    """What a writer was told."""

    acknowledged: list[str] = attrs.field(factory=list)
    longest_gap_s: float = 0.0
    # Who waits for more.
    waiting: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)


async def write_all_the_time(client: KeyValueClient, writes: Writes) -> None:
    """Put keys, each once, until cancelled."""
    last_at = time.perf_counter()
    for number in range(sys.maxsize):
        key = f"key-{number}"
        try:
            await client.put(key, b"value")
        except OutcomeUnknown:
            continue
        now = time.perf_counter()
        writes.longest_gap_s, last_at = max(writes.longest_gap_s, now - last_at), now
        writes.acknowledged.append(key)
        writes.waiting.unpark_all()


async def write_more(writes: Writes) -> None:
    """Wait until some more writes are acknowledged."""
    enough = len(writes.acknowledged) + 20
    while len(writes.acknowledged) < enough:
        await writes.waiting.park()


async def caught_up(cluster: DemoCluster, node_id: str) -> None:
    """Wait until a node has applied what its leader has committed by now: before, the next one must not be stopped."""
    leader = await cluster.wait_leader()

    async def has_applied() -> bool:
        status = await cluster.ask(cluster.node(node_id))
        return status is not None and status.last_applied >= leader.commit_index

    await until_answered(has_applied, step_s=0.01)


def roles_in(log: str) -> list[tuple[str, int]]:
    """Return the roles that a node took, by its log, each with the term."""
    return [(role, int(term)) for role, term in re.findall(r"clustercore: node \w+: (\w+) in term (\d+)", log)]


async def test_rolling_restart_hands_over_and_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every new leader was told to stand by the one before it, and each node has every acknowledged write (issue 3)."""
    writes = Writes()
    with trio.fail_after(LIMIT_S):
        async with GrpcTransport() as transport:
            cluster = PatientCluster(tmp_path, transport, "grpc", print)
            try:
                await cluster.start()
                first = await cluster.wait_leader()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(write_all_the_time, KeyValueClient(transport, cluster.addresses), writes)
                    await write_more(writes)
                    for node in cluster.nodes:
                        await node.stop()
                        await cluster.restart(node)
                        await caught_up(cluster, node.node_id)
                        await write_more(writes)
                    nursery.cancel_scope.cancel()
                last = await cluster.wait_leader()
                await cluster.wait_agreement()
                for node in cluster.nodes:
                    local = KeyValueClient(transport, [node.address])
                    there: set[str] = set()
                    while page := (await local.scan("", start_after=max(there, default=""), local=True)).pairs:
                        there.update(pair.key for pair in page)
                    assert there.issuperset(writes.acknowledged), node.node_id
            finally:
                await cluster.stop()

    # The first leader was restarted, so there is another. Nobody asked around before it stood after that.
    assert last.term > first.term
    for node in cluster.nodes:
        roles = roles_in(node.log_path.read_text(encoding="utf-8"))
        stood = [before for before, after in itertools.pairwise(roles) if after[0] == "candidate"]
        assert not [role for role, term in stood if role == "pre_candidate" and term >= first.term], roles
    with capsys.disabled():
        timeout = f"the election timeout is {1000 * ELECTION_TIMEOUT_S:.0f} ms"
        sys.stdout.write(f"\nlongest gap between writes: {1000 * writes.longest_gap_s:.0f} ms; {timeout}\n")
