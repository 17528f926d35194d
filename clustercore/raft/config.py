"""The numbers a core is run with."""

from __future__ import annotations

import attrs

__all__ = ["RaftConfig"]


@attrs.frozen(kw_only=True)
class RaftConfig:
    """Timing and batching of one core. All nodes of a cluster should use the same.

    Raises: ValueError if a value is out of range; the text names it and what is allowed.
    """

    # A follower that hears no leader stands for election after a time drawn from [this, 2 * this) seconds (Raft §5.2).
    election_timeout_s: float = 1.0
    # A leader sends each follower something at least this often, in seconds.
    heartbeat_interval_s: float = 0.1
    # One AppendEntries carries at most this many entries and about this many bytes of them, but always one entry.
    max_append_entries: int = 1024
    max_append_bytes: int = 1024 * 1024
    # AppendEntries with entries that one follower has not answered yet. Few and large beats many and small: while the
    # window is full, proposals gather for the next one (thesis §10.2.1, §10.2.2).
    max_inflight_appends: int = 4
    # While the entries that one follower has not answered yet take this many bytes, it gets no more.
    max_inflight_bytes: int = 4 * 1024 * 1024
    # A leader takes no commands that would make what is not committed yet take more bytes than this in its log, unless
    # all of it is committed. Without a majority that answers, its log would otherwise grow for as long as it leads.
    max_uncommitted_bytes: int = 64 * 1024 * 1024
    # The most by which two nodes' clocks run apart, as a share: 0.1 is a tenth of a second in a second. Only lease
    # reads rest on it.
    max_clock_drift: float = 0.1
    # A leader whose own disk keeps a write waiting, and completes none, for this long, in seconds, hands over to a
    # follower. Well above what a slow disk takes, or a cluster of slow disks passes the leadership round.
    disk_stall_s: float = 2.0
    # A chunk of a snapshot that is not answered after this many seconds is taken for lost, and sent again. A follower
    # that has said nothing at all for so long is sent no more of it until it is back.
    snapshot_timeout_s: float = 10.0
    # While a follower is sent a snapshot, a leader keeps the entries after it in its log, which is in memory, as long
    # as they and all later ones take no more bytes than this. A follower that is still not done then begins anew with
    # the newest snapshot.
    snapshot_hold_bytes: int = 512 * 1024 * 1024

    def __attrs_post_init__(self) -> None:
        """Check that the values make sense together."""
        if not self.heartbeat_interval_s > 0:
            raise ValueError(f"heartbeat_interval_s is {self.heartbeat_interval_s}; it must be above 0")
        if not self.election_timeout_s >= 2 * self.heartbeat_interval_s:
            raise ValueError(
                f"election_timeout_s is {self.election_timeout_s}; it must be at least twice heartbeat_interval_s "
                f"({self.heartbeat_interval_s}), or one late heartbeat starts an election"
            )
        if not 0 <= self.max_clock_drift < 1:
            raise ValueError(f"max_clock_drift is {self.max_clock_drift}; it must be at least 0 and below 1")
        if not self.disk_stall_s > 0:
            raise ValueError(f"disk_stall_s is {self.disk_stall_s}; it must be above 0")
        if not self.snapshot_timeout_s >= self.election_timeout_s:
            raise ValueError(
                f"snapshot_timeout_s is {self.snapshot_timeout_s}; it must be at least election_timeout_s "
                f"({self.election_timeout_s})"
            )
        for name in (
            "max_append_entries",
            "max_append_bytes",
            "max_inflight_appends",
            "max_inflight_bytes",
            "max_uncommitted_bytes",
            "snapshot_hold_bytes",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
