"""A transport over gRPC: grpclib's HTTP/2 in an asyncio loop that the transport owns, under Trio.

Everything asyncio stays behind ``loop``; nothing that grpclib, h2, asyncio or a socket raises gets out.
"""

from clustercore_grpc.channel import ChannelState
from clustercore_grpc.raft_client import RaftClient
from clustercore_grpc.raft_client_config import RaftClientConfig
from clustercore_grpc.transport import GrpcTransport

__all__ = ["ChannelState", "GrpcTransport", "RaftClient", "RaftClientConfig"]
