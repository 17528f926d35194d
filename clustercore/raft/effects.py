"""What a core asks its owner to do, as frozen values.

A core call returns a tuple of effects; each class says what the owner owes. Two duties hold for all of them:

* Writes (``Persist*``) become durable in ``write_id`` order. The owner may join consecutive writes into one,
  and reports the highest id that is durable with ``RaftCore.storage_done``.
* ``Send``, ``SendSnapshot`` and ``Reply`` with ``after`` set wait until that write is durable: what they promise
  is in it. With ``after`` None they may leave at once. Losing one is harmless; sending one early is not.
"""

from __future__ import annotations

import attrs

from clustercore.raft.entry import Entry
from clustercore.raft.messages import RaftRequest, RaftResponse
from clustercore.raft.types import (
    ChangeRefusal,
    Configuration,
    HardState,
    LogIndex,
    NodeId,
    ReadId,
    Role,
    SnapshotId,
    SnapshotMetadata,
    Term,
    TransferFailure,
    WriteId,
    show_length,
)

__all__ = [
    "Apply",
    "ConfigurationAppended",
    "ConfigurationChanged",
    "ConfigurationRefused",
    "Effect",
    "Effects",
    "PersistEntries",
    "PersistHardState",
    "PersistSnapshot",
    "PersistSnapshotChunk",
    "ProposalsAppended",
    "ProposalsRefused",
    "ReadReady",
    "ReadRefused",
    "Reply",
    "RestoreSnapshot",
    "RoleChanged",
    "Send",
    "SendSnapshot",
    "TransferGivenUp",
]


@attrs.frozen
class PersistHardState:
    """Make term and vote durable, replacing what is stored (Raft Figure 2, "persistent state")."""

    write_id: WriteId
    hard_state: HardState


@attrs.frozen
class PersistEntries:
    """Make entries durable: cut the stored log from the first one's index on, then append."""

    write_id: WriteId
    # One or more, consecutive by index.
    entries: tuple[Entry, ...]


@attrs.frozen
class PersistSnapshotChunk:
    """Store a part of a snapshot from the leader, beside the stored one. A restart may forget it.

    A chunk at offset 0 begins a snapshot anew; parts of another one that the leader was sending are needed no more.
    """

    write_id: WriteId
    metadata: SnapshotMetadata
    # Where the part begins: at the end of those before.
    offset: int
    data: bytes = attrs.field(repr=show_length)


@attrs.frozen
class PersistSnapshot:
    """Put the snapshot whose chunks were stored in place of the stored one, and drop the log it replaces, in one."""

    write_id: WriteId
    metadata: SnapshotMetadata
    # Stored entries from this index on stay; None drops the whole stored log, because it disagrees with the
    # snapshot or ends before it (Raft Figure 13, rules 6 and 7).
    keep_from: LogIndex | None


@attrs.frozen
class Send:
    """Send a request to a peer."""

    to: NodeId
    message: RaftRequest
    after: WriteId | None = None


@attrs.frozen
class SendSnapshot:
    """Read one chunk of a stored snapshot and send it to a peer as an InstallSnapshotRequest of this term.

    At the first chunk the snapshot is the newest stored one. It must stay readable while it is sent, whatever is stored
    meanwhile: until ``RaftCore.sending`` names it no more. ``RaftCore.snapshot_gone`` says that it cannot be read.
    """

    to: NodeId
    term: Term
    snapshot_id: SnapshotId
    offset: int


@attrs.frozen
class Reply:
    """Answer the request that this very core call was given, along the way it came."""

    message: RaftResponse
    after: WriteId | None = None


@attrs.frozen
class Apply:
    """Apply committed entries to the state machine, in order. Each entry is handed out once per core."""

    # One or more, consecutive by index, continuing the previous Apply or RestoreSnapshot. All are durable here.
    entries: tuple[Entry, ...]


@attrs.frozen
class RestoreSnapshot:
    """Replace the state machine's state by this snapshot, which is durable here.

    By the time it is read a newer one may be stored; that one serves as well, and what it covers is not applied again.
    """

    metadata: SnapshotMetadata


@attrs.frozen
class RoleChanged:
    """The role, the term or the known leader changed; the newest of these is the truth."""

    role: Role
    term: Term
    leader_id: NodeId | None


@attrs.frozen
class ProposalsAppended:
    """The proposed commands are in the leader's log, consecutively from ``first_index``. They may still be lost."""

    term: Term
    first_index: LogIndex


@attrs.frozen
class ProposalsRefused:
    """None of the proposed commands is in this node's log: it does not lead, or takes none now."""

    # This node itself if it leads, but is handing over or has too much that is not committed.
    leader_id: NodeId | None


@attrs.frozen
class ConfigurationChanged:
    """Other members count from now on, or an unfinished change was taken back; the newest of these is the truth.

    It comes before what is sent to new members.
    """

    configuration: Configuration
    # The entry that names them, or the last one that a snapshot with these members covers.
    index: LogIndex


@attrs.frozen
class ConfigurationAppended:
    """The change that was asked for is in the leader's log at this index. It may still be lost.

    If the configuration there is joint, the leader appends the target itself once that is committed.
    """

    term: Term
    index: LogIndex


@attrs.frozen
class ConfigurationRefused:
    """The change that was asked for is not in the log; the detail says what would help."""

    reason: ChangeRefusal
    detail: str


@attrs.frozen
class ReadReady:
    """Whoever asked for these reads may read once it has applied ``read_index`` (thesis §6.4)."""

    # One or more.
    read_ids: tuple[ReadId, ...]
    read_index: LogIndex


@attrs.frozen
class ReadRefused:
    """This node does not lead, or leads no more: these reads must ask the leader."""

    # One or more.
    read_ids: tuple[ReadId, ...]
    leader_id: NodeId | None


@attrs.frozen
class TransferGivenUp:
    """This leader does not hand over to ``target``, or tries it no more: it goes on leading (thesis §3.10)."""

    target: NodeId
    failure: TransferFailure


Effect = (
    PersistHardState
    | PersistEntries
    | PersistSnapshotChunk
    | PersistSnapshot
    | Send
    | SendSnapshot
    | Reply
    | Apply
    | RestoreSnapshot
    | RoleChanged
    | ProposalsAppended
    | ProposalsRefused
    | ConfigurationChanged
    | ConfigurationAppended
    | ConfigurationRefused
    | ReadReady
    | ReadRefused
    | TransferGivenUp
)
Effects = tuple[Effect, ...]
