"""Entities kept in step between simulated nodes, under faults: what ``clustercore fuzz --level sync`` runs."""

from clustercore.testing.replicas.level import SyncLevel
from clustercore.testing.replicas.run import ReplicaRun
from clustercore.testing.replicas.worlds import SyncWorld, draw_sync_world

__all__ = ["ReplicaRun", "SyncLevel", "SyncWorld", "draw_sync_world"]
