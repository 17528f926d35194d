"""What docs/reference/entity-formats.md says of bytes is what the code writes."""

from __future__ import annotations

import re
import sqlite3
import zlib
from pathlib import Path

from clustercore.interfaces import NodeId
from clustercore.sync import GroupState, Stamp, Write, decode_group_state, replica
from clustercore_memory import MemoryRecords
from clustercore_sqlite import SqliteRecords
from tests.unit.docs_pages import ROOT, blocks, page, table
from tests.unit.repository import reads_repository
from tests.unit.sync.fleet import MISSION, Mission, Wall, make_store

pytestmark = reads_repository

PAGE = "docs/reference/entity-formats.md"
MS = 1_700_000_000_000


def test_page_has_the_bytes_of_a_state() -> None:
    """The example is what the state that it describes is written as."""
    (example,) = blocks(ROOT / PAGE, "text")
    shown = bytes.fromhex("".join(re.split(r"\s{3,}", line)[0] for line in example.text.splitlines()))
    base = Stamp(1, MS << 16, "a#00000001")
    past = (("b#00000002", (MS - 1) << 16),)
    state = GroupState.of(Write(Stamp(2, (MS + 1) << 16 | 3, "a#00000001"), base, past, b'{"x":1}'))

    assert state.encoded == shown
    assert decode_group_state(shown) == state


async def test_page_names_the_records_of_a_store() -> None:
    """Each kind of record is on the page, and a store writes those that it has cause to."""
    documented = {row[0].split(",")[0].strip("`") for row in table(PAGE, "key")}
    named = {value.decode() for name, value in vars(replica).items() if name in KINDS}
    assert documented == named

    records = MemoryRecords()
    async with make_store("a", wall=Wall(MS), records=records) as store, make_store("b", wall=Wall(MS + 9_000)) as b:
        await store.put(MISSION, "m1", Mission("PLANNED", 0))
        await store.delete(MISSION, "m1")
        await store.collect_tombstones({}, grace_s=-1)
        await b.put(MISSION, "m2", Mission("PLANNED", 0))
        await store.apply(b.changes().changes, NodeId("b"), {"b": b"7"})
        await store.put(MISSION, "m3", Mission("PLANNED", 0))
        async with make_store("c", wall=Wall(MS)) as c:
            await c.put(MISSION, "m3", Mission("RUNNING", 0))
            await store.apply(c.changes().changes)
    async with records:
        assert {chr(key[0]) for key in await records.load()} == documented


KINDS = ("_META", "_GROUP", "_CHECKPOINT", "_HELD", "_COLLECTED", "_CLOCK", "_CONFLICT")


async def test_page_has_the_ids_of_the_file(tmp_path: Path) -> None:
    """A file of records has the application id, version and checksums that the page names."""
    path = tmp_path / "entities.db"
    async with SqliteRecords(path) as records:
        await records.load()
        await records.commit({b"key": b"value"})
    header = path.read_bytes()[:100]
    application_id, version = int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big")
    assert f"`0x{application_id:X}`" in page(PAGE)
    assert f"user version {version})" in page(PAGE)
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT key, value, checksum FROM records").fetchall()
    finally:
        connection.close()
    assert rows == [(b"key", b"value", zlib.crc32(b"keyvalue"))]
