"""``grpc.health.v1`` over real gRPC: what a node's own word makes of it, and what the probe makes of that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from clustercore import GrpcHealthProbe
from clustercore.interfaces import (
    CheckOutcome,
    Link,
    LinkClosed,
    LogIndex,
    NodeHealth,
    NodeId,
    NodeStatus,
    Role,
    Service,
    ServiceError,
    StatusRequest,
    StatusResponse,
    Term,
)
from clustercore_grpc import GrpcTransport

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CHECK = "grpc.health.v1.Health/Check"
ZERO = LogIndex(0)
WELL = NodeStatus(NodeId("a"), Role.LEADER, Term(1), NodeId("a"), ZERO, ZERO, LogIndex(1), ZERO, 0, ())


class Node:
    """Answers questions for its status, as it is told; or not at all, as one whose consensus loop stands still."""

    def __init__(self) -> None:
        self.health: NodeHealth | None = NodeHealth()

    async def accept(self, link: Link) -> None:
        try:
            while isinstance(request := await link.receive(), StatusRequest):
                if self.health is None:
                    await trio.sleep_forever()
                await link.send(StatusResponse(attrs.evolve(WELL, health=self.health), request.request_id))
        except LinkClosed:
            return


@asynccontextmanager
async def asking(timeout_s: float = 30.0) -> AsyncIterator[tuple[Node, GrpcTransport, str]]:
    """Serve a node inside the block, which offers one service; yield it, and how to ask it."""
    node = Node()
    # How long the server waits for the node's own word.
    server = GrpcTransport(timeout=timeout_s)
    server.offer([Service("test.App")])
    async with server, GrpcTransport(timeout=30) as client, trio.open_nursery() as nursery:
        address = await nursery.start(server.serve, node.accept)
        yield node, client, address
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("health", "answer", "outcome"),
    [
        (NodeHealth(), b"\x08\x01", CheckOutcome.OK),
        (NodeHealth(degraded="slow"), b"\x08\x01", CheckOutcome.OK),
        (NodeHealth(not_serving="it is about to stop"), b"\x08\x02", CheckOutcome.FAIL),
    ],
)
async def test_nodes_word_is_what_is_served(health: NodeHealth, answer: bytes, outcome: CheckOutcome) -> None:
    """A node that says that it does not serve is NOT_SERVING, as a whole and in each service; the probe believes it."""
    async with asking() as (node, client, address):
        node.health = health
        assert await client.call(address, CHECK, b"") == answer
        assert await client.call(address, CHECK, b"\n\x08test.App") == answer
        result = await GrpcHealthProbe(client, address, "test.App").check()
        assert (result.outcome, result.is_decisive) == (outcome, outcome is CheckOutcome.FAIL)


async def test_node_that_does_not_answer_is_not_serving() -> None:
    """A process that listens, and whose consensus loop stands still, is NOT_SERVING."""
    async with asking(timeout_s=0.2) as (node, client, address):
        node.health = None
        assert await client.call(address, CHECK, b"") == b"\x08\x02"


async def test_refusals_keep_their_status() -> None:
    """What a server refuses is told apart by gRPC's own words: no such service to ask about, no such method."""
    async with asking() as (_, client, address):
        with pytest.raises(ServiceError) as unknown:
            await client.call(address, CHECK, b"\n\x04none")
        with pytest.raises(ServiceError) as unimplemented:
            await client.call(address, "test.App/Nothing", b"")
        assert (unknown.value.code, unimplemented.value.code) == ("NOT_FOUND", "UNIMPLEMENTED")
        assert (await GrpcHealthProbe(client, address, "none").check()).outcome is CheckOutcome.UNKNOWN


async def test_watch_tells_a_change() -> None:
    """Watch tells the state now, and the next one when the node changes its word; or that nobody knows the service."""
    async with asking() as (node, client, address):
        told: list[CheckOutcome] = []
        unknown: list[CheckOutcome] = []
        async with trio.open_nursery() as nursery:
            heard = trio.Event()

            def hear(outcomes: list[CheckOutcome], outcome: CheckOutcome) -> None:
                nonlocal heard
                outcomes.append(outcome)
                heard.set()
                heard = trio.Event()

            probe, other = GrpcHealthProbe(client, address), GrpcHealthProbe(client, address, "none")
            nursery.start_soon(probe.watch, lambda result: hear(told, result.outcome))
            nursery.start_soon(other.watch, lambda result: hear(unknown, result.outcome))
            with trio.fail_after(60):
                while not (told and unknown):
                    await heard.wait()
                node.health = NodeHealth(not_serving="it is about to stop")
                while len(told) < 2:
                    await heard.wait()
            nursery.cancel_scope.cancel()
    assert told == [CheckOutcome.OK, CheckOutcome.FAIL]
    assert unknown == [CheckOutcome.UNKNOWN]
