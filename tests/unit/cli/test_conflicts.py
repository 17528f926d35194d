"""``clustercore conflicts``: what it shows, and that a node answers it."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import click
import pytest
from click.testing import CliRunner

from clustercore import Node
from clustercore.cli.commands import root
from clustercore.cli.conflicts import describe, listing, read_file
from clustercore.interfaces import (
    LogIndex,
    MalformedMessage,
    NodeId,
    ServiceError,
    StateMachine,
    encode_field,
)
from clustercore.sync import AmbiguousConflict, Conflict, ConflictClient, ConflictDesk, ConflictLog, ConflictSide, Stamp
from clustercore.sync.conflict_service import _read
from clustercore_memory import MemoryNetwork, MemoryStorage, MemoryTransport
from clustercore_static import StaticDiscovery
from tests.unit.sync.fleet import MISSION, Mission, exchange, make_store

NOW = 1_700_000_000_123 << 16
ENTRY = Conflict(
    "abc" + "0" * 29,
    "mission",
    "m1",
    "progress",
    "version",
    "lww",
    ConflictSide(Stamp(6, NOW + 2, "a#1"), Stamp(5, NOW, "a#1"), b'{"progress":5}'),
    ConflictSide(Stamp(2, NOW, "b#1"), None, None, is_deletion=True),
    b'{"progress":5}',
    NodeId("c"),
    NOW >> 16,
)


def test_description_has_both_sides() -> None:
    """All that an entry knows is told in a few lines."""
    assert describe(ENTRY).splitlines() == [
        "conflict  abc00000000000000000000000000000",
        "what      mission/m1, group progress",
        "noticed   2023-11-14T22:13:20.123Z by c",
        "decided   by version (lww)",
        'winner    a v6 at 2023-11-14T22:13:20.123Z+2, over version 5 of a: {"progress":5}',
        "loser     b v2 at 2023-11-14T22:13:20.123Z+0, over nothing: deletes the entity",
        'holds     {"progress":5}',
    ]
    assert "281474976710655 ms" in describe(attrs.evolve(ENTRY, detected_at_ms=2**48 - 1, result=None))


def test_listing_has_a_row_for_each() -> None:
    """A row tells what met, who won and by which rule."""
    (row,) = zip(*(column.cells for column in listing([ENTRY]).columns), strict=True)
    assert row == ("abc000000000", "2023-11-14T22:13:20.123Z", "mission/m1 progress", "version", "a v6", "b v2")


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    """A log's file, of which one was moved aside."""
    path = tmp_path / "conflicts.jsonl"
    with ConflictLog(path=path, rotate_bytes=10) as log:
        for number in range(3):
            log.add(attrs.evolve(ENTRY, conflict_id=f"{number:032x}", entity_id=f"m{number}"))
    return path


def test_file_is_read_with_those_that_were_moved_aside(log_file: Path) -> None:
    """Oldest first; a line that a crash cut off is passed over, and one that is something else is told."""
    assert [entry.entity_id for entry in read_file(log_file)] == ["m0", "m1", "m2"]
    log_file.write_bytes(b'{"conflict_id": ')
    assert [entry.entity_id for entry in read_file(log_file)] == ["m0", "m1", "m2"]
    log_file.write_bytes(b"{}\n")
    with pytest.raises(click.ClickException, match="jsonl, line 1: no entry"):
        list(read_file(log_file))


def test_commands_read_a_file(log_file: Path) -> None:
    """``list`` and ``show`` need no node if they are given a file."""
    runner = CliRunner()
    listed = runner.invoke(root, ["conflicts", "list", "--file", str(log_file), "--limit", "2"])
    assert listed.exit_code == 0
    assert listed.stdout.startswith("2 of 3 conflicts")
    assert "mission/m0" not in listed.stdout
    as_json = runner.invoke(root, ["conflicts", "list", "--file", str(log_file), "--id", "m1", "--json"])
    assert [entry["entity_id"] for entry in json.loads(as_json.stdout)["conflicts"]] == ["m1"]
    shown = runner.invoke(root, ["conflicts", "show", f"{2:032x}", "--file", str(log_file)])
    assert "mission/m2" in shown.stdout
    shown = runner.invoke(root, ["conflicts", "show", f"{2:032x}", "--file", str(log_file), "--json"])
    assert json.loads(shown.stdout)["entity_id"] == "m2"
    several = runner.invoke(root, ["conflicts", "show", "000", "--file", str(log_file)])
    assert (several.exit_code, several.stdout) == (2, "")
    assert f"the ids of 3 conflicts begin with '000': {0:032x}, " in several.stderr
    none = runner.invoke(root, ["conflicts", "show", "nonsense", "--file", str(log_file)])
    assert (none.exit_code, none.stdout) == (3, "")
    assert "there is no conflict whose id begins with nonsense" in none.stderr


@pytest.mark.parametrize("command", ["show", "restore"])
def test_empty_id_is_refused_before_a_node_is_asked(command: str) -> None:
    """As from a script whose variable is empty: no id begins with nothing."""
    refused = CliRunner().invoke(root, ["conflicts", command, "", "--node", "127.0.0.1:1"])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "it is empty; expected an id, or its first digits" in refused.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"nonsense", "line 2: no entry of a conflict log: it is not JSON at column 1"),
        (b"\xff\xfe\n", "line 2: no entry of a conflict log: byte 1 is not UTF-8"),
        (b"[]\n", "line 2: no entry"),
        (b'{"kind": 1}\n', "line 2: no entry of a conflict log: it has no 'conflict_id'"),
        (
            json.dumps(ENTRY.to_json() | {"detected_at_ms": "now"}).encode() + b"\n",
            "detected_at_ms is 'now'; it must be",
        ),
        (json.dumps(ENTRY.to_json()).replace("[6, ", '["6", ').encode() + b"\n", "a stamp is"),
    ],
)
def test_file_that_is_no_log_is_told_by_name_and_line(tmp_path: Path, text: bytes, reason: str) -> None:
    """Whatever is wrong with a line, the command says where it is and what is expected, and shows no entries."""
    path = tmp_path / "conflicts.jsonl"
    path.write_bytes(ENTRY.encode() + b"\n" + text)
    result = CliRunner().invoke(root, ["conflicts", "list", "--file", str(path)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{path}, line 2: " in result.stderr
    assert reason in result.stderr


def test_all_files_that_were_moved_aside_are_read_in_their_order(tmp_path: Path) -> None:
    """However many there are, by number and not by name, each entry once; other files beside them are none of them."""
    path = tmp_path / "conflicts.jsonl"
    with ConflictLog(path=path, rotate_bytes=1, keep=200) as log:
        for number in range(150):
            log.add(attrs.evolve(ENTRY, conflict_id=f"{number:032x}", entity_id=f"m{number}"))
    (tmp_path / "conflicts.jsonl.120.gz").write_bytes(b"no")
    (tmp_path / "conflicts.jsonl.old").write_bytes(b"no")
    # A gap, where somebody has taken one away; and an entry that was logged again after a restart.
    (tmp_path / "conflicts.jsonl.100").unlink()
    path.write_bytes(attrs.evolve(ENTRY, conflict_id=f"{7:032x}").encode() + b"\n")
    assert [entry.entity_id for entry in read_file(path)] == [f"m{number}" for number in range(150) if number != 50]


class Nothing(StateMachine):
    """The desk has no need of a state machine."""

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        return b""

    def snapshot(self) -> bytes:
        return b""


async def test_node_answers_and_writes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The desk lists, shows and restores; what makes no sense is refused."""
    network = MemoryNetwork()
    async with make_store("a") as a, make_store("b") as b:
        await a.put(MISSION, "m1", Mission("RUNNING", 10))
        await b.put(MISSION, "m1", Mission("ABORTED", 0))
        await b.put(MISSION, "m2", Mission("PLANNED", 0))
        await exchange(a, b)
        node = Node(
            "a",
            machine=Nothing(),
            transport=MemoryTransport(network, "a"),
            storage=MemoryStorage(),
            discovery=StaticDiscovery({"a": "a"}),
            companions=[ConflictDesk(a.conflicts, a.restore)],
        )
        async with node, MemoryTransport(network, "client") as transport:
            client = ConflictClient(transport, "a")
            found, total, counts = await client.list(kind="mission", limit=1)
            assert (total, len(found)) == (2, 1)
            assert {(count["group"], count["rule"], count["count"]) for count in counts} == {
                ("progress", "node id", 1),
                ("rest", "node id", 1),
            }
            assert await client.list(entity_id="m2") == ([], 0, counts)
            assert await client.list(kind="uav") == ([], 0, [])
            assert (await client.list(limit=0))[:2] == ([], 2)
            with monkeypatch.context() as patched:
                # Too much for one answer: the newest alone.
                patched.setattr("clustercore.sync.conflict_service.MAX_BYTES", 1)
                assert (await client.list())[:2] == (list(a.conflicts)[-1:], 2)
            (conflict,) = (entry for entry in a.conflicts if entry.group == "progress")
            assert await client.show(conflict.conflict_id[:8]) == conflict
            assert await client.show("none") is None
            one, other = sorted(entry.conflict_id for entry in a.conflicts)
            shared = next(size for size in range(33) if one[: size + 1] != other[: size + 1])
            if shared:
                with pytest.raises(AmbiguousConflict):
                    await client.show(one[:shared])

            assert await client.restore(conflict.conflict_id)
            held = a.get(MISSION, "m1")
            assert held is not None
            assert (held.state, held.progress) == ("RUNNING", 10)
            assert not await client.restore("none")
            for method, request in (
                ("Show", b""),
                ("Restore", encode_field(1, b"{}")),
                ("List", encode_field(1, b"[")),
            ):
                with pytest.raises(ServiceError):
                    await transport.call("a", f"clustercore.v1.Conflicts/{method}", request)
    with pytest.raises(MalformedMessage):
        _read(encode_field(1, b"[]"))
