"""Cores brought to a wanted state by inputs alone, and a picture of a core's whole state to compare."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable

import attrs

from clustercore.raft.config import RaftConfig
from clustercore.raft.core import RaftCore
from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    PreVoteRequest,
    PreVoteResponse,
    RequestVoteRequest,
    RequestVoteResponse,
    TimeoutNowRequest,
    TimeoutNowResponse,
)
from clustercore.raft.types import (
    Configuration,
    HardState,
    LogIndex,
    NodeId,
    Round,
    SnapshotId,
    SnapshotMetadata,
    Term,
    WriteId,
)

__all__ = [
    "CONFIG",
    "A",
    "B",
    "C",
    "D",
    "E",
    "append",
    "appended",
    "candidate",
    "changes",
    "command",
    "follower",
    "install",
    "installed",
    "leader",
    "log_of",
    "no_op",
    "picture",
    "pre_candidate",
    "pre_vote_request",
    "pre_vote_response",
    "refused",
    "snapshot",
    "timeout_now",
    "timeout_now_response",
    "vote_request",
    "vote_response",
]

A, B, C, D, E = (NodeId(name) for name in "abcde")

# An election after 1 s (see _Shortest), a heartbeat every 0.25 s: exact in binary, so times can be compared.
CONFIG = RaftConfig(
    election_timeout_s=1.0, heartbeat_interval_s=0.25, max_inflight_appends=2, snapshot_timeout_s=4.0, disk_stall_s=0.5
)


class _Shortest(random.Random):
    """Draws the shortest time there is, and counts the draws, which are state too."""

    draws = 0

    def uniform(self, a: float, b: float) -> float:
        """Return the lower bound."""
        self.draws += 1
        return a


# --- Entries and snapshots ---


def command(index: int, term: int) -> Entry:
    """An entry with a command that names its place."""
    return Entry.create(LogIndex(index), Term(term), EntryKind.COMMAND, b"%d:%d" % (index, term))


def no_op(index: int, term: int) -> Entry:
    """The entry that opens a leader's term."""
    return Entry.create(LogIndex(index), Term(term), EntryKind.NO_OP)


def log_of(*terms: int, first: int = 1) -> tuple[Entry, ...]:
    """Entries of these terms, from index ``first`` on."""
    return tuple(command(first + offset, term) for offset, term in enumerate(terms))


def snapshot(index: int, term: int, name: str = "") -> SnapshotMetadata:
    """A snapshot up to ``index``, of the cluster of three."""
    return SnapshotMetadata(
        LogIndex(index), Term(term), Configuration.of("abc", cluster_id="test"), SnapshotId(name or f"s{index}:{term}")
    )


# --- Messages ---


def append(
    term: int,
    leader: str,
    prev: tuple[int, int] = (0, 0),
    entries: Iterable[Entry] = (),
    commit: int = 0,
    *,
    round_number: int = 0,
    answered_round: int = 0,
) -> AppendEntriesRequest:
    """An AppendEntries request; ``prev`` is the index and term of the entry before."""
    return AppendEntriesRequest(
        Term(term),
        NodeId(leader),
        LogIndex(prev[0]),
        Term(prev[1]),
        LogIndex(commit),
        tuple(entries),
        Round(round_number),
        Round(answered_round),
    )


def appended(term: int, prev: int, match: int, *, round_number: int = 0) -> AppendEntriesResponse:
    """A positive answer to it."""
    return AppendEntriesResponse(Term(term), True, LogIndex(prev), LogIndex(match), round=Round(round_number))


def refused(
    term: int, prev: int, conflict: tuple[int, int] = (0, 0), *, round_number: int = 0
) -> AppendEntriesResponse:
    """A negative answer; ``conflict`` is the conflicting term and the first index of it."""
    return AppendEntriesResponse(
        Term(term),
        False,
        LogIndex(prev),
        conflict_term=Term(conflict[0]),
        conflict_index=LogIndex(conflict[1]),
        round=Round(round_number),
    )


def pre_vote_request(term: int, candidate_id: str, last: tuple[int, int] = (0, 0)) -> PreVoteRequest:
    """A PreVote request; ``term`` is the one the node would stand in, ``last`` its last entry's index and term."""
    return PreVoteRequest(Term(term), NodeId(candidate_id), LogIndex(last[0]), Term(last[1]))


def pre_vote_response(term: int, candidate_term: int, granted: bool) -> PreVoteResponse:
    """The answer to it."""
    return PreVoteResponse(Term(term), Term(candidate_term), granted)


def vote_request(
    term: int, candidate_id: str, last: tuple[int, int] = (0, 0), *, is_leadership_transfer: bool = False
) -> RequestVoteRequest:
    """A RequestVote request; ``last`` is the index and term of the candidate's last entry."""
    return RequestVoteRequest(
        Term(term), NodeId(candidate_id), LogIndex(last[0]), Term(last[1]), is_leadership_transfer
    )


def vote_response(term: int, granted: bool) -> RequestVoteResponse:
    """The answer to it."""
    return RequestVoteResponse(Term(term), granted)


def install(
    term: int,
    leader: str,
    metadata: SnapshotMetadata,
    data: bytes = b"state",
    *,
    offset: int = 0,
    is_last: bool = True,
    checksum: int | None = None,
) -> InstallSnapshotRequest:
    """An InstallSnapshot request: a chunk; unless said otherwise the only one."""
    return InstallSnapshotRequest(
        Term(term),
        NodeId(leader),
        metadata,
        offset,
        data,
        zlib.crc32(data) if checksum is None else checksum,
        is_last,
    )


def installed(term: int, match: int, metadata: SnapshotMetadata, *, next_offset: int = 0) -> InstallSnapshotResponse:
    """The answer to it."""
    return InstallSnapshotResponse(Term(term), LogIndex(match), metadata.snapshot_id, next_offset)


def timeout_now(term: int, leader: str, *, round_number: int = 1) -> TimeoutNowRequest:
    """A TimeoutNow request, of the leader's first round unless told otherwise."""
    return TimeoutNowRequest(Term(term), NodeId(leader), Round(round_number))


def timeout_now_response(term: int, *, round_number: int = 1) -> TimeoutNowResponse:
    """The answer to it."""
    return TimeoutNowResponse(Term(term), Round(round_number))


# --- Cores ---


def follower(
    voters: str = "abc",
    *,
    entries: Iterable[Entry] = (),
    term: int = 0,
    voted_for: str | None = None,
    stored: SnapshotMetadata | None = None,
    config: RaftConfig = CONFIG,
    configuration: Configuration | None = None,
    incarnation: str = "",
    node: str = "a",
    is_founder: bool = False,
    protection_s: float = 0.0,
) -> RaftCore:
    """A node at time 0, just started from a disk that holds this. It is ``a`` unless said otherwise."""
    hard_state = HardState(Term(term), NodeId(voted_for) if voted_for is not None else None, is_founder)
    return RaftCore(
        node_id=NodeId(node),
        configuration=configuration if configuration is not None else Configuration.of(voters, cluster_id="test"),
        config=config,
        rng=_Shortest(),
        now=0.0,
        new_cluster_id="new",
        incarnation=incarnation,
        protection_s=protection_s,
        hard_state=hard_state,
        snapshot=stored,
        entries=tuple(entries),
    )


def pre_candidate(
    voters: str = "abc",
    *,
    entries: Iterable[Entry] = (),
    term: int = 1,
    stored: SnapshotMetadata | None = None,
    config: RaftConfig = CONFIG,
    configuration: Configuration | None = None,
    incarnation: str = "",
) -> RaftCore:
    """Node ``a`` in ``term - 1``, asking since time 1 whether it would win ``term``. Alone, it stands already."""
    core = follower(
        voters,
        entries=entries,
        term=term - 1,
        stored=stored,
        config=config,
        configuration=configuration,
        incarnation=incarnation,
    )
    core.time_passed(1.0)
    return core


def candidate(
    voters: str = "abc",
    *,
    entries: Iterable[Entry] = (),
    term: int = 1,
    stored: SnapshotMetadata | None = None,
    config: RaftConfig = CONFIG,
    configuration: Configuration | None = None,
    incarnation: str = "",
) -> RaftCore:
    """Node ``a`` standing for election in ``term`` since time 1; its vote for itself (write 1) is not durable yet."""
    core = pre_candidate(
        voters,
        entries=entries,
        term=term,
        stored=stored,
        config=config,
        configuration=configuration,
        incarnation=incarnation,
    )
    for voter in core.state.configuration.peers_of(A)[: len(voters) // 2]:
        core.receive(voter, pre_vote_response(term - 1, term, True), 1.0)
    return core


def leader(
    voters: str = "abc",
    *,
    entries: Iterable[Entry] = (),
    term: int = 1,
    stored: SnapshotMetadata | None = None,
    config: RaftConfig = CONFIG,
    configuration: Configuration | None = None,
    incarnation: str = "",
    is_durable: bool = True,
) -> RaftCore:
    """Node ``a`` elected in ``term`` at time 1; its vote is write 1 and its no-op write 2, which ``is_durable``."""
    core = candidate(
        voters,
        entries=entries,
        term=term,
        stored=stored,
        config=config,
        configuration=configuration,
        incarnation=incarnation,
    )
    core.storage_done(WriteId(1), 1.0)
    for voter in core.state.configuration.peers_of(A)[: len(voters) // 2]:
        core.receive(voter, vote_response(term, True), 1.0)
    if is_durable:
        core.storage_done(WriteId(2), 1.0)
    return core


# --- Pictures ---


def picture(core: RaftCore) -> dict[str, object]:
    """Everything a core knows, by name, as values that later inputs leave alone. Entries are shown by their terms."""
    state = core.state
    assert isinstance(state.rng, _Shortest)
    assert state.effects == []
    seen: dict[str, object] = {
        name: getattr(state, name)
        for name in (
            "current_term",
            "voted_for",
            "is_founder",
            "role",
            "leader_id",
            "commit_index",
            "last_applied",
            "durable_index",
            "leader_protected_until",
            "has_told_successor",
            "heard_round",
            "stood_at",
            "last_round",
            "reads_under_way",
            "election_deadline",
            "heartbeat_deadline",
            "last_write_id",
            "done_write_id",
            "hard_state_write_id",
            "snapshot",
            "installing",
        )
    }
    held = state.log.slice(state.log.first_index, state.log.last_index)
    seen["base"] = (state.log.base_index, state.log.term_at(state.log.base_index))
    seen["log"] = tuple(int(entry.term) for entry in held)
    seen["configurations"] = tuple(state.configurations._items)
    seen["incarnations"] = dict(state.incarnations)
    seen["votes"] = dict(state.votes)
    seen["receiving"] = None if state.receiving is None else attrs.astuple(state.receiving, recurse=False)
    seen["transfer"] = None if state.transfer is None else attrs.astuple(state.transfer)
    seen["rounds_sent"] = tuple(state.rounds_sent)
    seen["waiting_reads"] = tuple(state.waiting_reads)
    for peer, progress in state.progress.items():
        seen[f"progress of {peer}"] = (
            progress.state.value,
            *(("paused",) if progress.is_paused else ()),
            f"match {progress.match_index} next {progress.next_index}",
            f"inflight {' '.join(str(request.last_index) for request in progress.inflight)}".strip(),
            progress.waiting_since,
            *(("sending", progress.sending.metadata.snapshot_id, progress.sending.offset) if progress.sending else ()),
        )
        seen[f"contact with {peer}"] = (f"round {progress.answered_round}", progress.last_contact)
    seen["log_writes"] = tuple((write.write_id, write.last_index, write.since) for write in state._log_writes)
    seen["draws"] = state.rng.draws
    return seen


def changes(before: dict[str, object], core: RaftCore) -> dict[str, object]:
    """What is different now: new values by name, and None for what is gone. Draws of chance are left out."""
    after = picture(core)
    return {
        name: after.get(name)
        for name in (*before, *(name for name in after if name not in before))
        if before.get(name) != after.get(name) and name != "draws"
    }
