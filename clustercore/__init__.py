"""Consensus for Python programs, built on Trio: write a state machine, embed a node, keep what was acknowledged."""

from clustercore.raft.config import RaftConfig
from clustercore.runtime.config import NodeConfig
from clustercore.runtime.node import Node

__all__ = ["Node", "NodeConfig", "RaftConfig"]
