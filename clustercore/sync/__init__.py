"""Application data kept in step between nodes: entity kinds, versions, conflicts that one can audit."""

from clustercore.sync.api import Entities
from clustercore.sync.changes import (
    ApplyReport,
    Change,
    Changes,
    ClockTooFarAhead,
    Corruption,
    MergeOutcome,
    ResolverFailed,
    StoreEvent,
    StoreWentBack,
    ZombieRefused,
)
from clustercore.sync.clock import ClockReport, HybridLogicalClock, OffsetPolicy
from clustercore.sync.collecting import CollectReport
from clustercore.sync.collector import CollectionStatus
from clustercore.sync.conflict_log import AmbiguousConflict, Conflict, ConflictCount, ConflictLog, ConflictSide
from clustercore.sync.conflict_service import ConflictClient, ConflictDesk
from clustercore.sync.entities import EntityStore
from clustercore.sync.fetching import SessionResult
from clustercore.sync.kinds import LIFE_GROUP, Authority, EntityKind, FieldGroup
from clustercore.sync.offsets import ClockOffset, ClockStanding
from clustercore.sync.raft_entities import EntityMachine, RaftEntities
from clustercore.sync.schedule import SyncConfig, SyncKind
from clustercore.sync.service import PeerResult, SyncService
from clustercore.sync.statistics import PeerSyncStatus, RepairedByFull
from clustercore.sync.writes import GroupState, Stamp, Write, decode_group_state

__all__ = [
    "LIFE_GROUP",
    "AmbiguousConflict",
    "ApplyReport",
    "Authority",
    "Change",
    "Changes",
    "ClockOffset",
    "ClockReport",
    "ClockStanding",
    "ClockTooFarAhead",
    "CollectReport",
    "CollectionStatus",
    "Conflict",
    "ConflictClient",
    "ConflictCount",
    "ConflictDesk",
    "ConflictLog",
    "ConflictSide",
    "Corruption",
    "Entities",
    "EntityKind",
    "EntityMachine",
    "EntityStore",
    "FieldGroup",
    "GroupState",
    "HybridLogicalClock",
    "MergeOutcome",
    "OffsetPolicy",
    "PeerResult",
    "PeerSyncStatus",
    "RaftEntities",
    "RepairedByFull",
    "ResolverFailed",
    "SessionResult",
    "Stamp",
    "StoreEvent",
    "StoreWentBack",
    "SyncConfig",
    "SyncKind",
    "SyncService",
    "Write",
    "ZombieRefused",
    "decode_group_state",
]
