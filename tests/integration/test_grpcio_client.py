"""The official gRPC client, with code it generates from protos/ itself, against a node with the key-value store."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from clustercore import Node
from clustercore_grpc import GrpcTransport
from clustercore_kv import KeyValueMachine, Put, encode_command
from clustercore_memory import MemoryStorage
from clustercore_static import StaticDiscovery
from tests.integration.grpcio_client import make_client, run_client

CLIENT = """
import sys
import grpc
import kv_pb2, kv_pb2_grpc, raft_pb2, raft_pb2_grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    status = raft_pb2_grpc.RaftStub(channel).Status(raft_pb2.StatusRequest(), timeout=20)
    print("status", status.node_id, raft_pb2.Role.Name(status.role), status.leader_id, status.last_applied)

    kv = kv_pb2_grpc.KeyValueStub(channel)
    put = kv.Put(kv_pb2.PutRequest(key="city", value=b"Berlin"), timeout=20)
    print("put", put.WhichOneof("outcome"), put.result.revision)
    got = kv.Get(kv_pb2.GetRequest(key="city"), timeout=20).result
    print("get", got.value, got.revision)
    absent = kv.Get(kv_pb2.GetRequest(key="country"), timeout=20).result
    print("absent", absent.HasField("value"), absent.revision)
    swap = kv_pb2.CasRequest(key="city", value=b"Bonn", expected_revision=put.result.revision)
    print("cas", kv.Cas(swap, timeout=20).result.swapped, kv.Cas(swap, timeout=20).result.swapped)
    print("local", kv.Get(kv_pb2.GetRequest(key="city", local=True), timeout=20).result.value)

    for response in kv.Watch(kv_pb2.WatchRequest(prefix="ci"), timeout=20):
        print("watch", response.WhichOneof("outcome"))
        break

    refused = kv.Put(kv_pb2.PutRequest(key="", value=b"no key"), timeout=20)
    print("refused", refused.WhichOneof("outcome"), bool(refused.error.message))
    try:
        channel.unary_unary("/clustercore.v1.KeyValue/Nothing")(b"", timeout=20)
    except grpc.RpcError as error:
        print("unknown method", error.code().name)
"""


@pytest.mark.integration
@pytest.mark.slow
async def test_grpcio_client_writes_and_reads_a_key(tmp_path: Path) -> None:
    """A client that knows nothing of us but the protos asks for its status, and writes, reads and watches keys."""
    await make_client(tmp_path, CLIENT, "raft.proto", "kv.proto")

    with trio.fail_after(60):
        node = Node(
            "n1",
            machine=KeyValueMachine(),
            transport=GrpcTransport(),
            storage=MemoryStorage(),
            discovery=StaticDiscovery({}),
            voters=["n1"],
        )
        async with node:
            await node.wait_leader()
            # The no-op that opens the term has index 1, this has 2.
            await node.propose(encode_command(Put("first", b"")))
            lines = await run_client(tmp_path, node.address)

    assert lines == [
        "status n1 ROLE_LEADER n1 2",
        "put result 3",
        "get b'Berlin' 3",
        "absent False 0",
        "cas True False",
        "local b'Bonn'",
        "watch events",
        "refused error True",
        "unknown method UNIMPLEMENTED",
    ]
