"""The official gRPC client, with code it generates itself, against our server."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from clustercore.interfaces import (
    Link,
    LinkClosed,
    LogIndex,
    NodeId,
    NodeStatus,
    PeerStatus,
    Role,
    StatusRequest,
    StatusResponse,
    Term,
)
from clustercore_grpc import GrpcTransport
from tests.integration.grpcio_client import make_client, run_client

CLIENT = """
import sys
import grpc
import raft_pb2, raft_pb2_grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = raft_pb2_grpc.RaftStub(channel)
    status = stub.Status(raft_pb2.StatusRequest(request_id=5), timeout=20)
    print(status.node_id, status.role, status.term, status.HasField("leader_id"))
    print(status.peers[0].lag, status.request_id)

    requests = [raft_pb2.Envelope(status_request=raft_pb2.StatusRequest(request_id=i)) for i in range(3)]
    for answer in stub.Exchange(iter(requests), timeout=20):
        print(answer.WhichOneof("message"), answer.status_response.request_id)

    try:
        stub.RequestVote(raft_pb2.RequestVoteRequest(term=1), timeout=20)
    except grpc.RpcError as error:
        print(error.code().name, error.details())
"""


def status() -> NodeStatus:
    """A follower that knows no leader."""
    return NodeStatus(
        NodeId("n1"),
        Role.FOLLOWER,
        Term(7),
        None,
        LogIndex(1),
        LogIndex(1),
        LogIndex(1),
        LogIndex(1),
        0,
        (PeerStatus(NodeId("n2"), lag=3),),
    )


async def answer_status(link: Link) -> None:
    """Answer StatusRequests, and end the link at anything else."""
    try:
        while isinstance(request := await link.receive(), StatusRequest):
            await link.send(StatusResponse(status(), request.request_id))
    except LinkClosed:
        return


@pytest.mark.integration
@pytest.mark.slow
async def test_grpcio_client_speaks_to_a_node(tmp_path: Path) -> None:
    """Unary and streaming calls of grpcio are answered, and what is not answered is an error with a reason."""
    await make_client(tmp_path, CLIENT, "raft.proto")

    with trio.fail_after(60):
        async with GrpcTransport() as transport, trio.open_nursery() as nursery:
            address = await nursery.start(transport.serve, answer_status)
            lines = await run_client(tmp_path, address)
            nursery.cancel_scope.cancel()

    assert lines == [
        "n1 1 7 False",
        "3 5",
        "status_response 0",
        "status_response 1",
        "status_response 2",
        "UNAVAILABLE the node did not answer RequestVote",
    ]
