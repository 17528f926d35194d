"""The parts of the demo that need no processes."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from clustercore.cli.demo.check import compare, read_back
from clustercore.cli.demo.errors import DemoFailed
from clustercore.cli.demo.failover import Failover
from clustercore.cli.demo.load import Load
from clustercore.cli.demo.ports import PortReservation
from clustercore.cli.demo.writes import Write, made_up_writes, read_writes
from clustercore.cli.kv_client import KvClient
from clustercore.interfaces import ConfigError, InvalidCommand, LogIndex, NodeId, NodeStatus, OutcomeUnknown, Role, Term

# --- Writes ----------------------------------------------------------------------------------------------------------


def test_made_up_writes_are_all_different() -> None:
    """Each write has a key and a value of its own, of the size that measurements use."""
    writes = made_up_writes(1000)

    assert len({write.key for write in writes}) == len({write.value for write in writes}) == 1000
    assert {len(write.value) for write in writes} == {64}


def test_input_is_read_by_lines(tmp_path: Path) -> None:
    """Strings are stored as they are and other values as JSON; blank lines are skipped, and counted."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"key": "ä", "value": "1"}\n\n{"value": {"n": [1, null]}, "key": "b"}\r\n')

    assert read_writes(path) == [
        Write("ä", b"1", f"{path}, line 1"),
        Write("b", b'{"n": [1, null]}', f"{path}, line 3"),
    ]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("{", "is not JSON"),
        ("[1]", "[1] is not allowed; a line must be"),
        ('{"key": "a"}', '{"key": "a"} is not allowed; a line must be {"key": "...", "value": ...}'),
        ('{"key": "a", "value": "1", "ttl": 3}', "is not allowed; a line must be"),
        ('{"key": 1, "value": "1"}', "key = 1 is not allowed; it must be a string that is not empty"),
        ('{"key": "", "value": "1"}', 'key = "" is not allowed; it must be a string that is not empty'),
        ('{"key": "\\ud800", "value": "1"}', "holds text that UTF-8 cannot"),
        ('{"key": "first", "value": "2"}', 'the key "first" is in line 1 already; each key may be written once'),
    ],
)
def test_bad_input_line_is_named(tmp_path: Path, line: str, error: str) -> None:
    """A line that cannot be written is refused with its number and what is allowed."""
    path = tmp_path / "in.jsonl"
    path.write_text(f'{{"key": "first", "value": "1"}}\n{line}\n')

    with pytest.raises(ConfigError) as caught:
        read_writes(path)

    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert error in str(caught.value)


def test_input_without_writes_is_refused(tmp_path: Path) -> None:
    """An empty file, and none, are told as such."""
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")

    with pytest.raises(ConfigError, match="holds no writes"):
        read_writes(empty)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_writes(tmp_path / "none.jsonl")


# --- Failover --------------------------------------------------------------------------------------------------------


def told(term: int, last_log_index: int, role: Role = Role.FOLLOWER) -> NodeStatus:
    """Return what a survivor tells."""
    index = LogIndex(last_log_index)
    return NodeStatus(NodeId("n2"), role, Term(term), None, LogIndex(0), LogIndex(0), LogIndex(1), index, 0, ())


def test_failover_ends_with_the_first_write_of_the_new_term() -> None:
    """A late answer of the dead leader is none of the new one, even if it comes while the new one is known."""
    failover = Failover(killed_at=10.0, old_term=3)

    failover.acknowledged(10.1, 99)
    failover.observe(told(3, 100))
    failover.acknowledged(10.2, 100)
    failover.observe(told(4, 100, Role.CANDIDATE))
    assert not failover.over.is_set()
    failover.acknowledged(11.5, 102)
    failover.acknowledged(11.6, 103)
    failover.observe(told(4, 103, Role.LEADER))
    failover.acknowledged(11.7, 104)

    assert failover.duration_s == 1.5
    assert failover.over.is_set()


def test_failover_lasts_until_a_leader_of_a_later_term_is_known() -> None:
    """Answers alone do not end it, nor does a leader of the old term."""
    failover = Failover(killed_at=10.0, old_term=3)

    failover.observe(told(3, 100, Role.LEADER))
    failover.acknowledged(10.1, 101)

    assert failover.duration_s is None


# --- Load ------------------------------------------------------------------------------------------------------------


@attrs.define
class FakeClient:
    """Does what its function says with each put."""

    answer: Callable[[str], None] = lambda _: None
    puts: list[str] = attrs.field(factory=list)

    async def put(self, key: str, value: bytes) -> Any:
        await trio.lowlevel.checkpoint()
        self.puts.append(key)
        self.answer(key)
        return SimpleNamespace(revision=len(self.puts))


def load_of(count: int, clients: Sequence[FakeClient]) -> Load:
    """Return a load over fake clients."""
    return Load(made_up_writes(count), cast(Sequence[KvClient], clients))


@pytest.mark.parametrize(("count", "held"), [(1, 1), (2, 1), (10, 3), (100, 3)])
async def test_load_holds_its_last_writes_until_the_leader_is_dead(
    count: int, held: int, autojump_clock: MockClock
) -> None:
    """Half is written before the kill at least, and something is left for the failover to be seen by."""
    load = load_of(count, [FakeClient(), FakeClient(), FakeClient()])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        await load.half_done.wait()
        await trio.testing.wait_all_tasks_blocked()
        before = len(load.acknowledged)
        load.begin_failover(Failover(trio.current_time(), 1))

    assert before == count - held
    assert sorted(write.key for write in load.acknowledged) == [write.key for write in load.writes]


async def test_load_makes_writes_of_unknown_outcome_again(autojump_clock: MockClock) -> None:
    """Every write is acknowledged once, and the attempts that nobody knows of are counted."""
    outcomes = [True, False, True]

    def answer(key: str) -> None:
        if outcomes and outcomes.pop():
            raise OutcomeUnknown("who knows")

    load = load_of(4, [FakeClient(answer)])
    load.killed.set()

    await load.run()

    assert load.unknown == 2
    assert len(load.acknowledged) == 4


async def test_load_gives_up_a_write_that_is_never_acknowledged(autojump_clock: MockClock) -> None:
    """A cluster that does not come back ends the demo with a failure that names the write."""

    def answer(key: str) -> None:
        raise OutcomeUnknown("who knows")

    load = load_of(1, [FakeClient(answer)])
    load.killed.set()

    with pytest.RaisesGroup(pytest.RaisesExc(DemoFailed, match="write 0 is not acknowledged after 60 s")):
        await load.run()


async def test_load_names_the_line_that_the_store_refuses(autojump_clock: MockClock) -> None:
    """A value that is too large is the input's mistake, told with its origin."""

    def answer(key: str) -> None:
        raise InvalidCommand("the value has 9 bytes; at most 8 are allowed")

    load = load_of(1, [FakeClient(answer)])
    load.killed.set()

    with pytest.RaisesGroup(pytest.RaisesExc(ConfigError, match="write 0: the value has 9 bytes")):
        await load.run()


# --- Check -----------------------------------------------------------------------------------------------------------


def test_compare_counts_each_lost_write_once() -> None:
    """A write is lost if one node lacks it or holds another value; what was not acknowledged is not missed."""
    writes = [Write("a", b"1", ""), Write("b", b"2", ""), Write("c", b"3", "")]
    whole = {"a": b"1", "b": b"2", "c": b"3"}

    same = compare(writes, {"n1": whole, "n2": dict(whole)})
    holed = compare(writes, {"n1": whole, "n2": {"a": b"1", "b": b"x"}, "n3": {"a": b"1", "b": b"x", "d": b""}})

    assert (same.lost, same.is_same_everywhere) == (0, True)
    assert (holed.lost, holed.is_same_everywhere) == (2, False)
    assert holed.lost_by_node == {"n1": [], "n2": ["b", "c"], "n3": ["b", "c"]}


async def test_read_back_reads_all_pages_of_one_node() -> None:
    """Everything is read locally, page after page."""
    pairs = [SimpleNamespace(key=f"{n}", value=b"%d" % n) for n in range(5)]

    class Pages:
        async def scan(self, prefix: str, *, limit: int, start_after: str, local: bool) -> Any:
            await trio.lowlevel.checkpoint()
            assert (prefix, local) == ("", True)
            rest = [pair for pair in pairs if pair.key > start_after]
            return SimpleNamespace(pairs=rest[:2], more=len(rest) > 2)

    assert await read_back("n1", cast(KvClient, Pages())) == {f"{n}": b"%d" % n for n in range(5)}


# --- Ports -----------------------------------------------------------------------------------------------------------


def test_reserved_ports_are_different_and_can_be_listened_on() -> None:
    """A node can listen at a port that is held for it, as transports do."""
    reservation = PortReservation(3)
    try:
        assert len(set(reservation.ports)) == 3
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", reservation.ports[0]))
            listener.listen()
    finally:
        reservation.close()


@pytest.mark.skipif(sys.platform != "linux", reason="ports are held on Linux only")
def test_reserved_port_answers_nobody() -> None:
    """While no node listens, a connection to a held port is refused, and another socket does not get it by chance."""
    reservation = PortReservation(1)
    try:
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(("127.0.0.1", reservation.ports[0]))
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", reservation.ports[0]))
    finally:
        reservation.close()
