"""The generated packages beside each other."""

from __future__ import annotations

import subprocess
import sys

import clustercore_grpc._proto.clustercore.v1 as raft
import clustercore_kv._proto.clustercore.v1 as kv


def test_generated_packages_share_a_process() -> None:
    """Two plugins generate code of one protobuf package; each keeps its own messages when both are imported."""
    put = kv.KvCommand(put=kv.KvPut(key="k", value=b"v"))
    vote = raft.RequestVoteRequest(term=3, candidate_id="n1")

    assert kv.KvCommand.parse(bytes(put)) == put
    assert raft.RequestVoteRequest.parse(bytes(vote)) == vote
    assert not set(kv.__all__) & set(raft.__all__)


def test_generated_messages_need_no_grpclib() -> None:
    """The key-value store, client included, works where grpclib is not installed: another transport may carry it."""
    program = "import sys; sys.modules['grpclib'] = None; import clustercore_kv"

    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
