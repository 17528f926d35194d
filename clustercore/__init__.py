"""Consensus for Python programs, built on Trio: write a state machine, embed a node, keep what was acknowledged."""

from clustercore.health.checker import HealthChecker
from clustercore.health.cluster_health import ClusterHealth, HealthEvent, HealthEventKind
from clustercore.health.config import HealthConfig
from clustercore.health.grpc_probe import GrpcHealthProbe
from clustercore.health.guards import Guard
from clustercore.health.node_probe import NodeProbe
from clustercore.health.phi import PhiAccrualProbe
from clustercore.health.probes import AliasProbe, CallableProbe, CompositeProbe, HttpProbe, TtlProbe
from clustercore.health.tcp_probe import TcpProbe
from clustercore.raft.config import RaftConfig
from clustercore.runtime.config import NodeConfig
from clustercore.runtime.founding import Founding
from clustercore.runtime.node import Node

__all__ = [
    "AliasProbe",
    "CallableProbe",
    "ClusterHealth",
    "CompositeProbe",
    "Founding",
    "GrpcHealthProbe",
    "Guard",
    "HealthChecker",
    "HealthConfig",
    "HealthEvent",
    "HealthEventKind",
    "HttpProbe",
    "Node",
    "NodeConfig",
    "NodeProbe",
    "PhiAccrualProbe",
    "RaftConfig",
    "TcpProbe",
    "TtlProbe",
]
