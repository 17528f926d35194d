"""What is counted of the sync with each peer."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping

import attrs

from clustercore.interfaces import NodeId, percentile
from clustercore.sync.changes import ApplyReport, Change, MergeOutcome
from clustercore.sync.messages import ResyncReason
from clustercore.sync.offsets import ClockOffset, OffsetFilter
from clustercore.sync.schedule import SyncKind

__all__ = ["PeerStatistics", "PeerSyncStatus", "RepairedByFull", "SyncProgress", "is_applied"]

# Sessions whose durations are remembered for each peer: two hours of incremental ones.
_REMEMBERED_SESSIONS = 256

_APPLIED = (MergeOutcome.NEW, MergeOutcome.FAST_FORWARD, MergeOutcome.CONCURRENT)


@attrs.frozen
class RepairedByFull:
    """An event: a full sync brought changes that an incremental one should have brought long before. It is a bug."""

    peer: NodeId
    # Kind, entity id and group of each.
    changes: tuple[tuple[str, str, str], ...]


@attrs.frozen
class SyncProgress:
    """A session under way."""

    kind: SyncKind
    started_at: float
    # Changes that came so far, and the least that are known to be missing.
    received: int
    behind: int


@attrs.frozen(kw_only=True)
class PeerSyncStatus:
    """The sync from one peer, since the service started. Points in time are seconds on Trio's clock."""

    peer: NodeId
    # The session under way, if there is one.
    progress: SyncProgress | None
    # When a session last ended with nothing left to fetch; None: never yet.
    last_success_at: float | None
    # How long ago that was. Infinity: never yet.
    lag_s: float
    # How many changes the peer had then or has since told of that were not fetched.
    lag_changes: int
    sessions: Mapping[str, int]
    failures: int
    # Why the last session failed; "" if it did not.
    last_error: str
    # Bytes of questions and answers, without what the transport adds.
    bytes_sent: int
    bytes_received: int
    # Changes that came, and what became of them. Each is of one field group; ``entities`` counts what they are of.
    received: int
    entities: int
    # Changes that the peer's window kept back at first.
    kept_back: int
    applied: int
    duplicate: int
    stale: int
    held: int
    refused: int
    conflicts: int
    # How often it was not possible to go on from the checkpoint, by reason.
    resyncs: Mapping[str, int]
    # Questions of full syncs.
    digest_rounds: int
    repaired_by_full: int
    # Of whole sessions.
    duration_p50_s: float
    duration_p95_s: float
    # The peer's wall clock by this node's; None if nothing is known of it, as when it runs an older version.
    clock: ClockOffset | None


@attrs.define(eq=False)
class PeerStatistics:
    """The counters of one peer."""

    peer: NodeId
    progress: SyncProgress | None = None
    last_success_at: float | None = None
    lag_changes: int = 0
    sessions: Counter[str] = attrs.field(factory=Counter)
    failures: int = 0
    last_error: str = ""
    bytes_sent: int = 0
    bytes_received: int = 0
    received: int = 0
    entities: int = 0
    kept_back: int = 0
    outcomes: Counter[MergeOutcome] = attrs.field(factory=Counter)
    conflicts: int = 0
    resyncs: Counter[str] = attrs.field(factory=Counter)
    digest_rounds: int = 0
    repaired_by_full: int = 0
    offsets: OffsetFilter = attrs.field(factory=OffsetFilter)
    durations_s: deque[float] = attrs.field(factory=lambda: deque(maxlen=_REMEMBERED_SESSIONS))

    def count(self, changes: tuple[Change, ...], report: ApplyReport) -> None:
        """Count changes that came, and what became of them."""
        self.received += len(changes)
        self.entities += len({(change.kind, change.entity_id) for change in changes})
        self.outcomes.update(report.outcomes)
        self.conflicts += report.conflicts

    def resync(self, reason: ResyncReason) -> None:
        """Count a resync."""
        self.resyncs[reason.name.lower()] += 1

    def status(self, now: float) -> PeerSyncStatus:
        """Return what was counted until now."""
        ordered = sorted(self.durations_s)
        return PeerSyncStatus(
            peer=self.peer,
            progress=self.progress,
            last_success_at=self.last_success_at,
            lag_s=math.inf if self.last_success_at is None else now - self.last_success_at,
            lag_changes=self.lag_changes,
            sessions=dict(self.sessions),
            failures=self.failures,
            last_error=self.last_error,
            bytes_sent=self.bytes_sent,
            bytes_received=self.bytes_received,
            received=self.received,
            entities=self.entities,
            kept_back=self.kept_back,
            applied=sum(self.outcomes[outcome] for outcome in _APPLIED),
            duplicate=self.outcomes[MergeOutcome.DUPLICATE],
            stale=self.outcomes[MergeOutcome.STALE],
            held=self.outcomes[MergeOutcome.HELD],
            refused=self.outcomes[MergeOutcome.ZOMBIE] + self.outcomes[MergeOutcome.REFUSED],
            conflicts=self.conflicts,
            resyncs=dict(self.resyncs),
            digest_rounds=self.digest_rounds,
            repaired_by_full=self.repaired_by_full,
            duration_p50_s=percentile(ordered, 50) if ordered else 0.0,
            duration_p95_s=percentile(ordered, 95) if ordered else 0.0,
            clock=self.offsets.estimate(now),
        )


def is_applied(outcome: MergeOutcome) -> bool:
    """Whether a change changed something."""
    return outcome in _APPLIED
