"""What older versions wrote is read for ever: recorded bytes in tests/data, which nothing writes anew."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

import attrs
import pytest
from trio.testing import MockClock

from clustercore import Node
from clustercore.interfaces import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    ChangeMembers,
    ChangeRefusal,
    Configuration,
    Entry,
    EntryKind,
    ForwardFailure,
    ForwardProposals,
    HardState,
    Hello,
    HelloResponse,
    InstallSnapshotResponse,
    LogIndex,
    Members,
    MembersFailed,
    MembersRequest,
    MembersResponse,
    Message,
    NodeId,
    NodeStatus,
    PeerStatus,
    PreVoteRequest,
    PreVoteResponse,
    ProposalsApplied,
    ProposalsFailed,
    ReadIndexReady,
    ReadIndexRefused,
    ReadIndexRequest,
    RequestVoteRequest,
    RequestVoteResponse,
    Role,
    Round,
    Server,
    SnapshotId,
    SnapshotMetadata,
    StatusRequest,
    StatusResponse,
    StorageIdentity,
    StoredState,
    Term,
    TimeoutNowRequest,
    TimeoutNowResponse,
    decode_entry,
    decode_message,
    encode_message,
)
from clustercore.raft.configuration import decode_configuration
from clustercore.runtime.introductions import Introductions
from clustercore_kv import KeyValueMachine, Put, encode_command
from clustercore_memory import MemoryNetwork, MemoryTransport
from clustercore_sqlite import SqliteStorage, files
from clustercore_static import StaticDiscovery
from tests.snapshots import Whole, install_request, read_snapshot
from tests.unit.storage.files import load, log_of

DATA = Path(__file__).parents[1] / "data"
V1, V2, V4 = DATA / "v1", DATA / "v2", DATA / "v4"
N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")


def index(number: int) -> LogIndex:
    """Shorten the tables below."""
    return LogIndex(number)


ENTRIES = (
    Entry.create(index(1), Term(1), EntryKind.NO_OP),
    Entry.create(index(2), Term(1), EntryKind.COMMAND, b"first"),
    Entry.create(index(3), Term(2), EntryKind.NO_OP),
    Entry.create(index(4), Term(2), EntryKind.COMMAND, b""),
    Entry.create(index(5), Term(2), EntryKind.COMMAND, bytes(range(200))),
)
STATUS = NodeStatus(
    N1,
    Role.LEADER,
    Term(2),
    N1,
    index(5),
    index(4),
    index(1),
    index(5),
    3,
    (PeerStatus(N2, index(5), index(6), 0), PeerStatus(N3, index(2), index(3), 3)),
)
# A request was the whole snapshot before there were chunks, and is read as the only one.
WHOLE = SnapshotMetadata(index(2), Term(1), Configuration(), SnapshotId(f"whole-2-1-{zlib.crc32(b'whole state'):08x}"))
# The members in what versions 2 and 3 of the disk and version 2 of the protocol wrote.
MEMBERS = Configuration.with_servers(
    [Server(N1, True, False, "127.0.0.1:7101", "aa"), Server(N2), Server(N3, False, True)], cluster_id="cc"
)
# What each line of messages.txt says. Fields that version 1 did not have are as if nobody had set them.
MESSAGES: tuple[Message, ...] = (
    Hello(N1, N2, 1, 0, "", "", 0, 0),
    HelloResponse(N2, 1, 0, "", "", 0, 0, ""),
    PreVoteRequest(Term(3), N1, index(5), Term(2)),
    PreVoteResponse(Term(2), Term(3), True),
    RequestVoteRequest(Term(3), N1, index(5), Term(2), True),
    RequestVoteResponse(Term(3), True),
    AppendEntriesRequest(Term(2), N1, index(0), Term(0), index(3), ENTRIES, Round(9)),
    AppendEntriesRequest(Term(2), N1, index(5), Term(2), index(5), (), Round(10)),
    AppendEntriesResponse(Term(2), True, index(0), index(5), Term(0), index(0), Round(9)),
    AppendEntriesResponse(Term(2), False, index(7), index(0), Term(1), index(2), Round(9)),
    install_request(Whole(WHOLE, b"whole state"), term=2, leader="n1"),
    InstallSnapshotResponse(Term(2), index(2), SnapshotId("")),
    TimeoutNowRequest(Term(2), N1),
    TimeoutNowResponse(Term(3)),
    ForwardProposals(7, (b"x", b"y")),
    ProposalsApplied(7, Term(2), index(6), (b"X", b"Y")),
    ProposalsFailed(8, ForwardFailure.NOT_LEADER, N2, "not here"),
    ReadIndexRequest(9),
    ReadIndexReady(9, index(5)),
    ReadIndexRefused(10, None),
    StatusRequest(11),
    StatusResponse(STATUS, 11),
)
# The same of version 2, before nodes told their election timeout, and a TimeoutNow its round.
MESSAGES_2: tuple[Message, ...] = (
    Hello(N1, N2, 2, 2, "cluster", "storage", 3, 4, election_timeout_s=0.0),
    HelloResponse(N2, 2, 2, "cluster", "other", 5, 4, "not today", election_timeout_s=0.0),
    AppendEntriesRequest(Term(2), N1, index(5), Term(2), index(5), (), Round(10), answered_round=Round(0)),
    TimeoutNowRequest(Term(2), N1, Round(0)),
    TimeoutNowResponse(Term(3), Round(0)),
)
# What version 4 added: the members, in a status and in questions of their own, and who is to be one.
TARGET = Configuration.with_servers([*MEMBERS.servers[:2], Server(N3, False, True, "127.0.0.1:7103")], cluster_id="cc")
MESSAGES_4: tuple[Message, ...] = (
    Hello(N1, N2, 4, 2, "cc", "aa", 3, 1, election_timeout_s=1.0),
    MembersRequest(12, is_settled=True, is_forwarded=True),
    ChangeMembers(Term(2), index(5), TARGET, 13, is_forwarded=True),
    MembersResponse(
        12,
        Members(
            attrs.evolve(MEMBERS, old_voters=frozenset({N1, N3})),
            index(5),
            True,
            Term(2),
            N1,
            (PeerStatus(N2, index(5), index(6), 0, is_heard=True), PeerStatus(N3, lag=5)),
        ),
    ),
    MembersFailed(13, ChangeRefusal.NO_QUORUM, "bring them back", N1),
    MembersFailed(14, ChangeRefusal.NOT_LEADER, "no answer", None, may_be_done=True),
    StatusResponse(attrs.evolve(STATUS, configuration=MEMBERS, configuration_index=index(5), is_removed=True), 15),
)


def recorded(name: str, folder: Path = V1) -> list[tuple[str, bytes]]:
    """Return what each line of a file names, and its bytes."""
    lines = (folder / name).read_text(encoding="ascii").splitlines()
    return [(kind, bytes.fromhex(encoded)) for kind, _, encoded in (line.rpartition(" ") for line in lines)]


def copy_of(name: str, folder: Path, recorded_in: Path = V1) -> Path:
    """Return a copy of a recorded database, which opening it may change."""
    return Path(shutil.copyfile(recorded_in / name, folder / name))


def test_messages_of_version_1_are_read() -> None:
    """Each means what it meant, so that a node of that version is understood well enough to be refused clearly."""
    read = [decode_message(encoded) for _, encoded in recorded("messages.txt")]

    assert tuple(read) == MESSAGES


def test_messages_of_the_first_nodes_of_version_2_are_read() -> None:
    """What they did not say is 0: no election timeout is known of them, and their TimeoutNow is of no round."""
    lines = recorded("messages.txt", V2)

    assert tuple(decode_message(encoded) for _, encoded in lines) == MESSAGES_2
    assert [encode_message(message) for message in MESSAGES_2] == [encoded for _, encoded in lines]


def test_messages_of_the_first_nodes_of_version_4_are_read() -> None:
    """Members are asked for and changed across versions from this one on."""
    lines = recorded("messages.txt", V4)

    assert tuple(decode_message(encoded) for _, encoded in lines) == MESSAGES_4
    assert [encode_message(message) for message in MESSAGES_4] == [encoded for _, encoded in lines]


def test_snapshot_messages_of_protocol_version_2_are_read() -> None:
    """A request is the whole snapshot, with its members, or with nobody if an older version had taken it."""
    read = [decode_message(encoded) for _, encoded in recorded("snapshots.txt", V2)]

    named = attrs.evolve(WHOLE, configuration=MEMBERS)
    empty = attrs.evolve(WHOLE, snapshot_id=SnapshotId("whole-2-1-00000000"))
    assert read == [
        install_request(Whole(named, b"whole state"), term=2, leader="n1"),
        install_request(Whole(empty, b""), term=2, leader="n1"),
        InstallSnapshotResponse(Term(2), index(2), SnapshotId("")),
        InstallSnapshotResponse(Term(3), index(0), SnapshotId("")),
        Hello(N1, N2, 2, 2, "cc", "aa", 3, 1),
        HelloResponse(N2, 2, 2, "cc", "bb", 4, 1, ""),
    ]


def test_node_of_protocol_version_2_agrees_on_it() -> None:
    """Both sides speak it then, so that nodes can be upgraded one by one."""
    said = [decode_message(encoded) for kind, encoded in recorded("snapshots.txt", V2) if kind == "Hello"]
    known = Introductions(
        StorageIdentity(N2, "bb", 4, "cc"), on_identified=lambda peer, incarnation: None, election_timeout_s=1.0
    )
    [hello] = said
    assert isinstance(hello, Hello)

    assert known.answer(hello).refusal == ""

    introduced = known.get(N1)
    assert introduced is not None
    assert introduced.protocol_version == 2


def test_entries_of_version_1_are_read_and_written_alike() -> None:
    """Each entry is what it was, and is encoded to the same bytes: logs of old and new nodes must be equal."""
    read = [(kind, decode_entry(encoded)) for kind, encoded in recorded("entries.txt")]

    assert read == [(entry.kind.name, entry) for entry in ENTRIES]
    assert [entry.encoded for _, entry in read] == [encoded for _, encoded in recorded("entries.txt")]


def test_configuration_of_version_1_is_read() -> None:
    """With its learner, its old voters and its ids."""
    [(_, encoded)] = recorded("configuration.txt")

    assert decode_configuration(encoded) == Configuration.with_servers(
        [Server(N1, True, False, "127.0.0.1:7101", "aa"), Server(N2, False, True)],
        old_voters=frozenset({N1, N3}),
        cluster_id="cc",
    )


def test_snapshot_of_the_store_of_version_1_is_read() -> None:
    """The key-value store has every key, with its value."""
    [(_, encoded)] = recorded("kv_snapshot.txt")
    machine = KeyValueMachine()
    machine.restore(encoded)

    assert [(pair.key, pair.value) for pair in machine.scan().pairs] == [
        (f"key{n}", f"value{n}".encode()) for n in range(8)
    ]


async def test_storage_of_version_1_is_read_and_upgraded(tmp_path: Path) -> None:
    """All that it held is there, nobody owns it yet, and it has this version's format; a term makes it a founder's."""
    path = copy_of("node.db", tmp_path)

    async with SqliteStorage(path) as storage:
        stored = await storage.load()
        whole = await read_snapshot(storage)

    name = SnapshotId(f"upgraded-2-1-{hashlib.sha256(b'whole state').hexdigest()}")
    metadata = SnapshotMetadata(index(2), Term(1), Configuration(), name)
    assert stored == StoredState(HardState(Term(2), N1, is_founder=True), metadata, ENTRIES[1:], identity=None)
    assert whole == Whole(metadata, b"whole state")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (files.FORMAT_VERSION,)
    assert int.from_bytes(path.read_bytes()[60:64], "big") == files.FORMAT_VERSION


@pytest.mark.parametrize(
    ("version", "members", "timeout_s"), [(2, Configuration(), 0), (3, MEMBERS, 0), (4, MEMBERS, 0), (5, MEMBERS, 1.5)]
)
async def test_storage_of_a_later_version_is_read_and_upgraded(
    version: int, members: Configuration, timeout_s: float, tmp_path: Path
) -> None:
    """The snapshot is in chunks then, and has the members that it had; whose storage it is stays."""
    path = copy_of("node.db", tmp_path, DATA / f"disk_{version}")

    async with SqliteStorage(path) as storage:
        stored = await storage.load()
        whole = await read_snapshot(storage)

    name = SnapshotId(f"upgraded-2-1-{hashlib.sha256(b'whole state').hexdigest()}")
    metadata = SnapshotMetadata(index(2), Term(1), members, name)
    identity = StorageIdentity(N1, "aa", 3, "cc", timeout_s)
    assert stored == StoredState(HardState(Term(2), N1, is_founder=True), metadata, ENTRIES[1:], identity)
    assert whole == Whole(metadata, b"whole state")
    assert await load(path) == stored
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (files.FORMAT_VERSION,)


async def test_storage_of_version_1_gets_an_identity(tmp_path: Path) -> None:
    """It is kept beside what was there."""
    path, identity = copy_of("new.db", tmp_path), StorageIdentity(N1, "made now", 1)

    async with SqliteStorage(path) as storage:
        assert await storage.load() == StoredState()
        await storage.save_identity(identity)

    assert await load(path) == StoredState(identity=identity)


async def test_upgrade_of_a_storage_that_is_cut_off_is_made_again(tmp_path: Path) -> None:
    """A crash right after the commit, before the database file itself is written, is found in the log."""
    path, crashed = copy_of("node.db", tmp_path), tmp_path / "crashed"
    crashed.mkdir()
    async with SqliteStorage(path) as storage:
        before = await storage.load()
        await storage.save_identity(StorageIdentity(N1, "one", 1))
        shutil.copyfile(V1 / "node.db", crashed / "node.db")
        shutil.copyfile(log_of(path), log_of(crashed / "node.db"))

    stored = await load(crashed / "node.db")

    assert (stored.hard_state, stored.entries) == (before.hard_state, before.entries)


@pytest.mark.parametrize("folder", ["v1", "disk_2", "disk_3", "disk_4", "disk_5"])
async def test_node_of_an_older_version_goes_on(folder: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    """A node that is started on what one of an older version left has all its keys, and takes new ones."""
    machine = KeyValueMachine()
    async with Node(
        "n1",
        machine=machine,
        transport=MemoryTransport(MemoryNetwork(), "n1"),
        storage=SqliteStorage(copy_of("kv.db", tmp_path, DATA / folder)),
        discovery=StaticDiscovery({}),
        voters=["n1"],
    ) as node:
        await node.propose(encode_command(Put("key8", b"value8")))

    assert [(pair.key, pair.value) for pair in machine.scan().pairs] == [
        (f"key{n}", f"value{n}".encode()) for n in range(9)
    ]
