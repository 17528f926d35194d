"""The page of the Cluster Center, and what its story checks: drawn whatever the servers are at, and able to fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from io import StringIO
from types import ModuleType
from typing import Any

import attrs
import pytest
from rich.console import Console

from clustercore.interfaces import NodeId, ServiceError
from clustercore.sync import Conflict, ConflictSide, EntityStore, Stamp
from clustercore_memory import MemoryRecords
from tests.unit.repository import ROOT, reads_repository

pytestmark = reads_repository

TOLD = {
    "term": 12,
    "leads": True,
    "schedulers": ["a", "b"],
    "healthy": ["a", "b", "c"],
    "missions": ["RUNNING"] * 5 + ["COMPLETED"] * 4 + ["ABORTED"] * 3,
    "uavs": 1000,
    "flying": 12,
    "heartbeats": 123_456,
    "lag_s": 59.7,
    "sessions": 10,
    "sync_bytes": 1000,
    "repaired_by_full": 0,
    "conflicts": {"1": "mission-00", "2": "mission-01"},
}


@attrs.define
class FakeProcess:
    node_id: str
    is_running: bool = True


@attrs.define
class FakeCenter:
    servers: list[Any]

    @property
    def told(self) -> list[dict[str, Any]]:
        return [server.told for server in self.servers if server.told is not None]

    def total(self, count: str) -> int:
        return sum(server.total(count) for server in self.servers)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of the example."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    return lambda name: import_module(f"cluster_center.{name}")


def test_page_fits_a_narrow_terminal_whatever_the_servers_are_at(example: Callable[[str], ModuleType]) -> None:
    """At 80 columns nothing is cut, of servers that lead, are cut off, are silent and are off."""
    make = example("center").Server
    follows = {**TOLD, "leads": False, "lag_s": None, "conflicts": {"2": "mission-01", "3": "mission-02"}}
    servers = [
        make(FakeProcess("a"), None, told=TOLD, past=[TOLD]),
        make(FakeProcess("b"), None, told=follows, is_cut_off=True),
        make(FakeProcess("c"), None),
        make(FakeProcess("d", is_running=False), None, past=[TOLD]),
    ]
    out = StringIO()
    console = Console(width=80, file=out)
    page = example("page").Page(FakeCenter(servers), console, is_live=False)

    page.say("something happens")
    console.print(page.render())

    text = out.getvalue()
    assert "…" not in text
    rows = [line.split() for line in text.splitlines() if re.match(r"^ [abcd] ", line)]
    assert rows == [
        ["a", "leads", "12", "a", "b", "c", "5", "7", "12", "246,912", "60", "s", "2"],
        ["b", "cut", "off", "a", "b", "c", "5", "7", "12", "123,456", "2"],
        ["c", "silent"],
        ["d", "off"],
    ]
    # Each conflict once, and the counts of those that were killed with those of now.
    assert "3 conflicts resolved" in text
    assert "40 sessions" in text
    assert text.count("something happens") == 2


def make_conflict(rule: str = "version", loser: bytes = b'{"progress":100,"state":"COMPLETED"}') -> Conflict:
    """Return a conflict about mission-00."""
    winner = ConflictSide(Stamp(2, 1 << 20, "a#1"), None, b'{"progress":10,"state":"ABORTED"}')
    lost = ConflictSide(Stamp(1, 1 << 20, "b#1"), None, loser)
    return Conflict("1", "mission", "mission-00", "progress", rule, "lww", winner, lost, winner.value, NodeId("a"), 5)


def test_edit_is_lost_unless_it_holds_or_every_log_has_it(example: Callable[[str], ModuleType]) -> None:
    """An edit that neither holds nor is in each server's log is noticed."""
    checks = example("checks")
    edit = checks.Edit("mission-00", {"state": "COMPLETED", "progress": 100})
    held = {"state": "ABORTED", "progress": 10}
    log, other = {"1": make_conflict()}, {"1": make_conflict(loser=b'{"progress":99,"state":"COMPLETED"}')}

    assert checks._is_kept(edit, {"state": "COMPLETED", "progress": 100, "area": "x"}, [{}, {}])
    assert checks._is_kept(edit, held, [log, log])
    assert not checks._is_kept(edit, held, [log, {}])
    assert not checks._is_kept(edit, held, [log, other])


def test_conflict_that_two_servers_decided_otherwise_is_noticed(example: Callable[[str], ModuleType]) -> None:
    """Who noticed, and when, may differ; what was decided may not."""
    checks, one = example("checks"), make_conflict()
    elsewhere = attrs.evolve(one, node_id=NodeId("b"), detected_at_ms=7)

    assert checks._are_alike([{"1": one}, {"1": elsewhere}, {}])
    assert not checks._are_alike([{"1": one}, {"1": attrs.evolve(elsewhere, rule="timestamp")}])


@pytest.mark.parametrize(
    ("method", "request_", "said"),
    [
        ("_read", b"{}", "missing a required argument: 'kind'; expected is kind"),
        ("_read", b"[1]", "expected is kind"),
        ("_read", b'{"kind": "drone"}', "kind = 'drone': expected one of mission, uav"),
        ("_put", b'{"kind": "drone", "entities": {}}', "kind = 'drone': expected one of mission, uav"),
        (
            "_put",
            b'{"kind": "mission", "entities": {"m1": {}, "m2": {"speed": 1}}}',
            "got an unexpected keyword argument 'speed'; expected is state, progress, order, area, updated_at",
        ),
        (
            "_edit",
            b'{"kind": "mission", "entity_id": "m0", "fields": {"speed": 1}}',
            "has no fields ['speed'] to change; it has",
        ),
        ("_edit", b'{"kind": "mission", "entity_id": "", "fields": {}}', "the id of an entity is ''"),
    ],
)
async def test_desk_says_what_is_wrong_with_a_question(
    example: Callable[[str], ModuleType], method: str, request_: bytes, said: str
) -> None:
    """It names the value, and what is allowed; nothing of the question is carried out."""
    kinds, desk = example("kinds"), example("desk")
    async with EntityStore(NodeId("a"), [kinds.MISSION, kinds.UAV], MemoryRecords()) as store:
        await store.put(kinds.MISSION, "m0", kinds.Mission())
        asked = desk.Desk(store, None, None, None, None)
        with pytest.raises(ServiceError, match=re.escape(said)):
            await desk._answer(getattr(asked, method), request_)
        assert list(store.ids(kinds.MISSION)) == ["m0"]
