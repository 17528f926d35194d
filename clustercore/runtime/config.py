"""The numbers a node is run with."""

from __future__ import annotations

import attrs

from clustercore.interfaces.errors import ConfigError
from clustercore.raft.config import RaftConfig
from clustercore.runtime.session_entries import MAX_UNSETTLED

__all__ = ["NodeConfig"]

# What the encoding of a message takes beside the entries or commands in it: for each of them, and once.
_ENTRY_OVERHEAD_BYTES = 8
_MESSAGE_OVERHEAD_BYTES = 1024


@attrs.frozen(kw_only=True)
class NodeConfig:
    """Limits and timing of one node.

    Raises: ConfigError if a value is out of range; the text names it and what is allowed.
    """

    raft: RaftConfig = attrs.field(factory=RaftConfig)
    # Proposals held at once, whether waiting for the leader or for their commit; more wait in ``propose``. It bounds
    # memory: with commands of at most max_command_bytes, and max_pending_bytes in all.
    max_pending_proposals: int = 4096
    max_pending_bytes: int = 64 * 1024 * 1024
    max_command_bytes: int = 1024 * 1024
    # Sessions of clients, in the whole cluster; results that are kept for all of them, in bytes; and outcomes that are
    # kept for one of them, half for commands under way and half for those whose outcome was never asked for. The
    # leader's values count. They bound the memory and the snapshots of every node.
    max_sessions: int = 10_000
    max_session_result_bytes: int = 64 * 1024 * 1024
    max_session_outstanding: int = 256
    # A snapshot is taken after this many applied entries since the last one, or this many bytes of them.
    snapshot_entries: int = 100_000
    snapshot_bytes: int = 256 * 1024 * 1024
    # Snapshots are stored and sent in chunks of this many bytes. The transport must let a message of that size pass.
    snapshot_chunk_bytes: int = 1024 * 1024
    # Entries kept in the log behind a snapshot, so that a slow follower need not get the snapshot: as many as fit both.
    snapshot_tail_entries: int = 10_000
    snapshot_tail_bytes: int = 16 * 1024 * 1024
    # How long one attempt to reach a peer may take, and the wait between attempts: it grows by 1.6 each time. Both ends
    # are short, and a peer that calls is called back at once: one that is back should not have to stand for election.
    connect_timeout_s: float = 2.0
    reconnect_min_s: float = 0.1
    reconnect_max_s: float = 3.0
    # A forwarded proposal the leader has not answered by then has an unknown outcome.
    forward_timeout_s: float = 10.0
    # A node whose block ends in order says that it does not serve for so long, and serves all the same, before it hands
    # over and stops: time for load balancers to look elsewhere.
    drain_s: float = 0.0

    def __attrs_post_init__(self) -> None:
        """Check the ranges."""
        least = {"snapshot_tail_entries": 0, "snapshot_tail_bytes": 0, "max_session_outstanding": 2}
        for name in (
            "max_pending_proposals",
            "max_pending_bytes",
            "max_command_bytes",
            "max_sessions",
            "max_session_result_bytes",
            "max_session_outstanding",
            "snapshot_entries",
            "snapshot_bytes",
            "snapshot_chunk_bytes",
            "snapshot_tail_entries",
            "snapshot_tail_bytes",
        ):
            if getattr(self, name) < least.get(name, 1):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least.get(name, 1)}")
        if self.max_session_outstanding > MAX_UNSETTLED:
            raise ConfigError(
                f"max_session_outstanding is {self.max_session_outstanding}; it must be at most {MAX_UNSETTLED}"
            )
        for name in ("connect_timeout_s", "reconnect_min_s", "reconnect_max_s", "forward_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0 seconds")
        if not self.drain_s >= 0:
            raise ConfigError(f"drain_s is {self.drain_s}; it must be at least 0 seconds")
        if self.reconnect_max_s < self.reconnect_min_s:
            raise ConfigError(
                f"reconnect_max_s is {self.reconnect_max_s}; it must be at least reconnect_min_s "
                f"({self.reconnect_min_s})"
            )
        if self.max_command_bytes > self.max_pending_bytes:
            raise ConfigError(
                f"max_command_bytes is {self.max_command_bytes}; it must be at most max_pending_bytes "
                f"({self.max_pending_bytes})"
            )

    def check_transport(self, max_message_bytes: int | None) -> None:
        """Check that a transport carries the largest message there will be: what is too large would never arrive.

        Raises: ConfigError, naming both limits.
        """
        largest = max(self.raft.max_append_bytes, self.max_command_bytes, self.snapshot_chunk_bytes)
        entries = max(self.raft.max_append_entries, self.max_pending_proposals)
        least = largest + entries * _ENTRY_OVERHEAD_BYTES + _MESSAGE_OVERHEAD_BYTES
        if max_message_bytes is not None and max_message_bytes < least:
            name = next(
                name
                for name, size in (
                    ("max_append_bytes", self.raft.max_append_bytes),
                    ("max_command_bytes", self.max_command_bytes),
                    ("snapshot_chunk_bytes", self.snapshot_chunk_bytes),
                )
                if size == largest
            )
            raise ConfigError(
                f"max_message_bytes of the transport is {max_message_bytes}; it must be at least {least} with {name} = "
                f"{largest} and up to {entries} entries or commands in a message"
            )
