"""A client that has the schema and the reference, and nothing of this project, fetches entities from a node."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from clustercore import Node
from clustercore.interfaces import NodeId
from clustercore.sync import ConflictDesk, EntityStore, SyncService
from clustercore_grpc import GrpcTransport
from clustercore_kv import KeyValueMachine
from clustercore_memory import MemoryRecords, MemoryStorage
from clustercore_static import StaticDiscovery
from tests.integration.grpcio_client import make_client, run_client
from tests.unit.sync.fleet import MISSION, UAV, Mission, Uav

CLIENT = r"""
import sys, zlib
from hashlib import blake2b
import grpc, sync_pb2 as pb, sync_pb2_grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

def decoded(block):
    plain = b"" if not block else zlib.decompress(block[1:]) if block[0] else block[1:]
    kind = group = ""
    for change in pb.ChangeBlock.FromString(plain).changes:
        kind = change.kind if change.HasField("kind") else kind
        group = change.group if change.HasField("group") else group
        yield kind, change.entity_id, group, change.state

def digest(records):
    total = 0
    for entity_id, group, state in records:
        parts = (entity_id.encode(), group.encode(), state)
        hashed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        total += int.from_bytes(blake2b(hashed, digest_size=16).digest(), "big")
    return (total % 2**128).to_bytes(16, "big")

def leaf_of(entity_id):
    return int.from_bytes(blake2b(entity_id.encode(), digest_size=2).digest(), "big") % 4096

with grpc.insecure_channel(sys.argv[1]) as channel:
    listed = ProtoReflectionDescriptorDatabase(channel)
    print("services", *sorted(listed.get_services()))
    methods = DescriptorPool(listed).FindServiceByName("clustercore.v1.Sync").methods
    print("methods", *[method.name for method in methods])

    sync = sync_pb2_grpc.SyncStub(channel)
    opened = sync.Open(pb.OpenRequest(node_id="guest", epoch="0123456789abcdef"), timeout=20)
    print("opened", pb.ResyncReason.Name(opened.reason))
    session = {"session_id": opened.session_id, "salt": b"pepper"}

    compared = sync.Compare(pb.CompareRequest(**session), timeout=20)
    found = {}
    for kind, digests in sorted(compared.buckets.items()):
        assert len(digests) == 256 * 4
        told = sync.Buckets(pb.BucketsRequest(kind=kind, buckets=range(256), **session), timeout=20)
        assert len(told.leaves) == 256 * 16 * 4
        leaves = [pb.LeafStamps(leaf=leaf) for leaf in range(4096)]
        request = pb.FetchRequest(kind=kind, leaves=leaves, max_changes=500, max_bytes=1000000, **session)
        fetched = sync.Fetch(request, timeout=20)
        assert fetched.done == 4096
        for name, entity_id, group, state in decoded(fetched.changes):
            found.setdefault(name, []).append((entity_id, group, state))
        # One leaf alone, by the hash of its entity, and what was fetched of it by its stamp.
        entity_id, group, state = found[kind][0]
        record = int(digest([(entity_id, group, state)]).hex(), 16).to_bytes(16, "big")
        stamp = blake2b(record, digest_size=6, key=b"pepper").digest()
        leaf = pb.LeafStamps(leaf=leaf_of(entity_id), stamps=stamp)
        request = pb.FetchRequest(kind=kind, leaves=[leaf], max_changes=500, max_bytes=1000000, **session)
        rest = [(name, group) for _, name, group, _ in decoded(sync.Fetch(request, timeout=20).changes)]
        assert (entity_id, group) not in rest and {name for name, _ in rest} <= {entity_id}
    for kind, records in sorted(found.items()):
        print(kind, *sorted({entity_id for entity_id, _, _ in records}), len(records))

    roots = {kind: digest(records) for kind, records in found.items()}
    print("equal", not sync.Compare(pb.CompareRequest(roots=roots, **session), timeout=20).buckets)

    cursor = pb.Cursor(seq=compared.seq)
    request = pb.PullRequest(session_id=opened.session_id, cursor=cursor, max_changes=500, max_bytes=1000000)
    pulled = sync.Pull(request, timeout=20)
    print("pulled", len(pulled.changes), pulled.HasField("end"), pulled.has_more)
    request.session_id = b"another"
    print("another", pb.ResyncReason.Name(sync.Pull(request, timeout=20).resync))
    try:
        sync.Compare(pb.CompareRequest(session_id=opened.session_id), timeout=20)
    except grpc.RpcError as error:
        print("no salt", error.code().name)
"""


@pytest.mark.integration
@pytest.mark.slow
async def test_client_made_by_protoc_fetches_entities_and_finds_its_copy_equal(tmp_path: Path) -> None:
    """It learns the services by reflection, compares, fetches, and computes digests that the node takes for its own."""
    await make_client(tmp_path, CLIENT, "sync.proto")

    with trio.fail_after(120):
        async with EntityStore(NodeId("n1"), [MISSION, UAV], MemoryRecords()) as store:
            await store.put(MISSION, "m1", Mission("RUNNING", 40))
            await store.put(MISSION, "gone", Mission("PLANNED", 0))
            await store.delete(MISSION, "gone")
            await store.put(UAV, "ü1", Uav("idle", 7))
            node = Node(
                "n1",
                machine=KeyValueMachine(),
                transport=GrpcTransport(),
                storage=MemoryStorage(),
                discovery=StaticDiscovery({}),
                voters=["n1"],
                companions=[SyncService(store), ConflictDesk(store.conflicts, store.restore)],
            )
            async with node:
                lines = await run_client(tmp_path, node.address)

    assert lines == [
        "services clustercore.v1.Conflicts clustercore.v1.KeyValue clustercore.v1.Raft clustercore.v1.Sync",
        "methods Open Pull Compare Buckets Fetch Push",
        "opened RESYNC_REASON_FIRST",
        "mission gone m1 5",
        "uav ü1 3",
        "equal True",
        "pulled 0 False False",
        "another RESYNC_REASON_UNKNOWN_SESSION",
        "no salt INVALID_ARGUMENT",
    ]
