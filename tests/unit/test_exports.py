"""What is public, and where: a name that is added, removed or moved is a change that users see."""

from __future__ import annotations

import inspect
import pkgutil
import sys
import types
from collections.abc import Iterator
from importlib import import_module
from itertools import chain, combinations
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

import attrs
import pytest

from clustercore import interfaces

PUBLIC = {
    "clustercore": """
        AliasProbe CallableProbe ClusterHealth CompositeProbe Founding GrpcHealthProbe Guard HealthChecker
        HealthConfig HealthEvent HealthEventKind HttpProbe Node NodeConfig NodeProbe
        PhiAccrualProbe RaftConfig TcpProbe TtlProbe
    """,
    "clustercore.interfaces": """
        CheckOutcome CheckRecord CheckResult HealthStatus LocalCall NodeHealth Probe StatusChange
        AcceptLink AppendEntriesRequest AppendEntriesResponse Applied Attempt Attempts Backoff BytesSnapshotReader
        CallFailure CallStatistics CategoryLimits CategoryStatistics ChangeMembers ChangeRefusal ChangeRefused
        Classification ClusterError ConfigError Configuration ConflictDecision ConflictResolver Consistency
        Counters Discovery DiscoverySnapshot Edit EditStamp Entry EntryKind ErrorCategory ErrorStatistics
        FollowingDiscovery ForwardFailure ForwardProposals HardState Hello HelloResponse HostPortTransport HybridTime
        IdleConnections InstallSnapshotRequest InstallSnapshotResponse InvalidChange InvalidCommand
        InvariantError KnownMembers LAST_WRITE_RULES LOST Lane Ledger LimitChange Link LinkClosed LogCorrupt LogIndex
        MEMBERS_PROTOCOL_VERSION MalformedConfiguration MalformedEntry MalformedMessage Member MemberMetadata
        Members MembersFailed MembersHandle MembersRequest MembersResponse Message NeverApplied NodeCompanion
        NodeHandle NodeId NodeSite NodeStatus NodeStopped NotLeader OLDEST_PROTOCOL_VERSION OfferedServices
        OutcomeUnknown PROTOCOL_VERSION PeerStatus PeerTimeout PeerUnreachable PluginError PreVoteRequest
        PreVoteResponse ProposalError ProposalRefused ProposalsApplied ProposalsFailed QueueFull ReadIndexReady
        ReadIndexRefused ReadIndexRequest ReadResult RecordStorage RequestVoteRequest RequestVoteResponse ResultLost
        RetryCall RetryDecision RetryEvent RetryOperation RetryPolicy RetryTable Retrying Role RoleChange Round RuleRow
        Server Service ServiceError ServiceTransport SessionExpired SessionLimit SessionToken SnapshotHandle
        SnapshotId SnapshotMetadata SnapshotReader SocketConnection SocketOptions SocketServiceTransport
        SocketTransport StateMachine StateMachineError StatusLink StatusRequest StatusResponse StopReason
        Storage StorageError StorageFull StorageIdentity StoredState StreamHandler Superseded TargetStatistics Term
        TimeoutNowRequest TimeoutNowResponse TlsFiles TokenSettled TooStale TransferFailed Transport
        TransportError UnaryHandler VersionNotEnabled WatchedConnection ask_status background_tasks certificate_names
        check_claim decode_body decode_configuration decode_entry decode_message dial encode_body encode_configuration
        encode_field encode_message encode_varint format_address last_write leaves_of percentile serve_sockets
        split_address split_fields unwrap_group
    """,
    "clustercore.sync": """
        AmbiguousConflict ApplyReport Authority Change Changes ClockOffset ClockReport ClockStanding
        ClockTooFarAhead CollectionStatus CollectReport Conflict ConflictClient ConflictCount ConflictDesk
        ConflictLog ConflictSide Corruption decode_group_state Entities EntityKind EntityMachine EntityStore
        FieldGroup GroupState HybridLogicalClock LIFE_GROUP MergeOutcome OffsetPolicy PeerResult
        PeerSyncStatus RaftEntities RepairedByFull ResolverFailed SessionResult Stamp StoreEvent StoreWentBack
        SyncConfig SyncKind SyncService Write ZombieRefused
    """,
    "clustercore.testing": """
        CounterAdd CounterInput CounterRead HistoryCheck HistoryRecorder MapAppend MapCompareAndSet MapDelete MapGet
        MapInput MapOutput MapPut Model Operation Outcome PartCheck PendingOperation PlacedOperation QueueInput QueuePop
        QueuePush REFUSED Refusal RegisterCompareAndSet RegisterInput RegisterOutput RegisterRead RegisterWrite UNKNOWN
        Unknown Verdict assert_linearizable check_history counter_model describe_check key_value_model queue_model
        read_history register_model render_check sequential_model write_history
    """,
    "clustercore.testing.conformance": """
        Conformance ConflictResolverConformance DiscoveryConformance DiscoverySource RecordStorageConformance
        RetryPolicyConformance ServiceTransportConformance StateMachineConformance StorageConformance
        TransportConformance rules_of
    """,
    "clustercore.testing.invariants": "Facts Invariant Invariants PROPERTIES Seen do_quorums_intersect",
    "clustercore.testing.protocol": "Choice Kind World WorldPlan draw_plan draw_schedule",
    "clustercore.testing.simulation": """
        Boundary Chance Content MAX_NODES NetworkOptions Process QUIET Scheduler SimulatedCluster SimulatedCrash
        SimulatedDisk SimulatedNetwork SimulatedNode SimulatedRecords SimulatedStorage SimulatedTransport Simulation
        SimulationReport SimulatedWorld Unsynced draw_world eventually run_cluster simulate
    """,
    "clustercore.testing.trace": """
        EntryRef Event FailedRun ObservedCore Recorder Trace TraceError TraceHeader TraceWriter Wiretap keep_failure
        read_trace render_page trace_folder trace_hash write_trace
    """,
    "clustercore_dns": "DnsDiscovery",
    "clustercore_grpc": "ChannelState GrpcTransport RaftClient RaftClientConfig",
    "clustercore_http": "HttpTransport",
    "clustercore_kv": """
        Cas CasResult Command Delete DeleteResult EventBatch Get GetResult KeyValueClient KeyValueMachine KeyValueWatch
        KvEvent KvPair MAX_KEY_BYTES MAX_SCAN_BYTES MAX_SCAN_PAIRS MAX_VALUE_BYTES MalformedSnapshot
        Put PutResult Refused Result Scan ScanResult WatchFellBehind Watcher decode_result encode_command
    """,
    "clustercore_lww": """
        FunctionResolver LWW_RULES LastWriteWins LatticeResolver MaxResolver MinResolver UnionResolver
    """,
    "clustercore_memory": """
        LinkQuality MemoryDiscovery MemoryNetwork MemoryRecords MemoryRegistry MemoryStorage MemoryTransport SourceFault
    """,
    "clustercore_retry": "BudgetConfig CATEGORY_DEFAULTS CategoryRetryPolicy RULES RetryRule",
    "clustercore_sqlite": "SqliteRecords SqliteStorage",
    "clustercore_static": "EnvironmentDiscovery FileDiscovery StaticDiscovery",
    "clustercore_tcp": "TcpTransport",
}


@pytest.mark.parametrize("package", PUBLIC)
def test_package_exports_what_is_pinned(package: str) -> None:
    """``__all__`` is the list above, and there is no public name beside it but submodules."""
    module = import_module(package)
    pinned = sorted(PUBLIC[package].split())

    assert sorted(module.__all__) == pinned
    named = [name for name, value in vars(module).items() if name[0] != "_" and not inspect.ismodule(value)]
    assert sorted(named) == pinned


def test_interfaces_export_all_of_their_modules() -> None:
    """What a module of the interfaces makes public is importable from the package, and is the same."""
    for found in pkgutil.iter_modules(interfaces.__path__, "clustercore.interfaces."):
        module = import_module(found.name)
        for name in module.__all__:
            assert getattr(interfaces, name) is getattr(module, name), f"{found.name}.{name}"


def test_symbol_is_public_in_one_place_only() -> None:
    """No two packages export one name, nor one object under two names."""
    for (first, names), (second, others) in combinations(PUBLIC.items(), 2):
        assert not set(names.split()) & set(others.split()), f"{first} and {second}"
    exported = [
        getattr(import_module(package), name)
        for package, names in PUBLIC.items()
        for name in names.split()
        if name.upper() != name
    ]
    assert len({id(symbol) for symbol in exported}) == len(exported)


def signatures(symbol: type) -> Iterator[tuple[str, Any]]:
    """Yield everything public of a class that has annotations: its fields, constructor, methods and properties."""
    if attrs.has(symbol):
        yield symbol.__name__, symbol
    for name, member in inspect.getmembers_static(symbol):
        if name.startswith("_") and name not in ("__init__", "__aenter__", "__aexit__"):
            continue
        if isinstance(member, property):
            member = member.fget
        elif isinstance(member, (classmethod, staticmethod)):
            member = member.__func__
        if inspect.isfunction(member) and member.__module__.startswith("clustercore"):
            yield f"{symbol.__name__}.{name}", member


def parts_of(annotation: Any) -> Iterator[Any]:
    """Yield the classes and new types that an annotation is made of."""
    inner = [part for part in get_args(annotation) if part is not Ellipsis]
    if not inner:
        yield annotation
    for part in chain.from_iterable(part if isinstance(part, list) else [part] for part in inner):
        yield from parts_of(part)


@pytest.mark.parametrize("name", [name for name in interfaces.__all__ if inspect.isclass(getattr(interfaces, name))])
def test_interfaces_export_each_class_their_signatures_name(name: str) -> None:
    """A plugin may import only ``clustercore.interfaces``, so all that it is handed or must return is there."""
    for where, signature in signatures(getattr(interfaces, name)):
        # Some names are imported for type checkers only; if they are not exported either, this raises NameError.
        known = vars(interfaces) | vars(sys.modules[signature.__module__])
        hints = get_type_hints(signature, globalns=known)
        for part in chain.from_iterable(map(parts_of, hints.values())):
            home = getattr(part, "__module__", "")
            if home.partition(".")[0] == "clustercore" and not isinstance(
                part, types.GenericAlias | TypeVar | ParamSpec
            ):
                assert getattr(interfaces, part.__name__, None) is part, f"{where} names {home}.{part.__name__}"
