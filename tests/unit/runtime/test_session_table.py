"""The table of sessions, rule by rule: a command has one outcome, kept until its client is done with it."""

from __future__ import annotations

import pytest

from clustercore.raft.protobuf import bytes_field, encode_varint, varint_field
from clustercore.runtime.session_entries import Answer, Outcome, encode_answer
from clustercore.runtime.session_table import MalformedTable, SessionTable
from tests.unit.runtime.session_building import TableBench

NO_SESSION, SETTLED, LIMIT, NEVER = (
    Answer(outcome) for outcome in (Outcome.NO_SESSION, Outcome.SETTLED, Outcome.LIMIT, Outcome.NEVER)
)


def opened(index: int) -> Answer:
    """The answer to an entry that opened a session, or did something to it."""
    return Answer(Outcome.DONE, index)


# --- Once ------------------------------------------------------------------------------------------------------------


def test_command_that_comes_again_gets_its_first_answer() -> None:
    """The second copy is not applied; its answer names the index of the first (thesis §6.3)."""
    bench = TableBench()
    assert bench.open() == opened(1)

    first = bench.command(1, 1, b"a")
    bench.term = 2
    second = bench.command(1, 1, b"a")

    assert first == second == Answer(Outcome.APPLIED, 2, 1, b"<a>")
    assert bench.applied == [b"a"]


def test_commands_may_come_in_any_order() -> None:
    """Numbers are names: a later one that comes first does not settle an earlier one."""
    bench = TableBench()
    bench.open()

    assert [bench.command(1, number, b"%d" % number).outcome for number in (2, 1, 3)] == [Outcome.APPLIED] * 3
    assert bench.applied == [b"2", b"1", b"3"]


def test_session_that_was_never_opened_applies_nothing() -> None:
    """Nor does one that was closed; closing twice is no error of the table."""
    bench = TableBench()
    assert bench.command(7, 1) == NO_SESSION
    bench.open()
    session_id = bench.index

    assert bench.close(session_id) == opened(session_id)
    assert bench.command(session_id, 1) == NO_SESSION
    assert bench.resolve(session_id, 1) == NO_SESSION
    assert bench.keep_alive(session_id) == NO_SESSION
    assert bench.close(session_id) == NO_SESSION
    assert bench.applied == []


def test_each_opening_is_a_session_of_its_own() -> None:
    """Two copies of one request to open make two sessions, and one's numbers mean nothing to the other."""
    bench = TableBench()
    bench.open()
    bench.open()

    assert bench.table.session_ids == (1, 2)
    assert bench.command(1, 1, b"a").outcome is bench.command(2, 1, b"b").outcome is Outcome.APPLIED
    assert bench.applied == [b"a", b"b"]


# --- Being done ------------------------------------------------------------------------------------------------------


def test_outcome_goes_when_the_client_is_done_with_it() -> None:
    """What is settled is not kept, and a late copy of it is not applied."""
    bench = TableBench()
    bench.open()
    bench.command(1, 1, b"abc")
    assert bench.table.result_bytes == 5

    bench.command(1, 2, b"d", below=2)

    assert bench.table.result_bytes == 3
    assert bench.command(1, 1, b"abc", below=1) == SETTLED
    assert bench.resolve(1, 1) == SETTLED
    assert bench.applied == [b"abc", b"d"]


def test_outcome_named_as_unsettled_stays() -> None:
    """One command that nobody asked about keeps its own outcome, and none of those after it."""
    bench = TableBench()
    bench.open()
    for number in (1, 2, 3):
        bench.command(1, number, b"%d" % number)

    bench.keep_alive(1, below=4, unsettled=(2,))

    assert [bench.command(1, number).outcome for number in (1, 2, 3)] == [
        Outcome.SETTLED,
        Outcome.APPLIED,
        Outcome.SETTLED,
    ]
    assert bench.table.result_bytes == 3


def test_what_was_settled_stays_settled_whatever_older_entries_say() -> None:
    """Entries overtake each other: what an older one names as open does not come back."""
    bench = TableBench()
    bench.open()
    bench.keep_alive(1, below=5, unsettled=(2, 4))

    # Older, further back, and naming others: 2 is settled by it, 1 and 3 were.
    bench.keep_alive(1, below=3, unsettled=(1,))
    assert [bench.resolve(1, number) for number in (1, 2, 3)] == [SETTLED] * 3
    # Newer: 4 is still open, 3 is not opened again, 5 was open and stays so.
    bench.keep_alive(1, below=6, unsettled=(3, 4, 5))
    assert [bench.resolve(1, number) for number in (3, 4, 5)] == [SETTLED, NEVER, NEVER]
    # Older again, and naming 4.
    bench.keep_alive(1, below=5, unsettled=(4,))
    assert bench.resolve(1, 4) == NEVER


# --- Resolving -------------------------------------------------------------------------------------------------------


def test_resolving_tells_what_was_applied() -> None:
    """It answers as a copy of the command would, and again."""
    bench = TableBench()
    bench.open()
    applied = bench.command(1, 1, b"a")

    assert bench.resolve(1, 1) == bench.resolve(1, 1) == applied


def test_resolved_command_that_had_not_come_is_never_applied() -> None:
    """Resolving goes through the log, so it is before or after the command, on every node alike."""
    bench = TableBench()
    bench.open()

    assert bench.resolve(1, 1) == NEVER
    assert bench.command(1, 1, b"a") == NEVER
    assert bench.applied == []


# --- Limits ----------------------------------------------------------------------------------------------------------


def test_too_many_sessions_are_refused() -> None:
    """None is pushed out; one that is closed makes room."""
    bench = TableBench(max_sessions=2)
    bench.open()
    bench.open()

    assert bench.open() == LIMIT
    bench.close(1)
    assert bench.open() == opened(bench.index)


def test_dead_sessions_make_room_before_a_new_one_is_counted() -> None:
    """The entry that opens a session brings the time by which others have expired."""
    bench = TableBench(max_sessions=1)
    bench.open(ttl_ms=100)
    bench.led_ms = 101

    assert bench.open() == opened(2)
    assert bench.table.session_ids == (2,)


def test_too_many_outcomes_are_refused_and_not_noted() -> None:
    """Commands and resolving alike; with fewer kept, the same command is applied."""
    bench = TableBench(max_outstanding=2)
    bench.open()
    bench.command(1, 1)
    bench.resolve(1, 2)

    assert bench.command(1, 3, b"c") == LIMIT
    assert bench.resolve(1, 3) == LIMIT
    assert bench.command(1, 3, b"c", below=2, unsettled=(1,)) == LIMIT
    assert bench.command(1, 3, b"c", below=2).outcome is Outcome.APPLIED


def test_command_without_room_for_its_result_is_refused_for_ever() -> None:
    """A copy that comes when there is room is not applied either, so the client knows what to think."""
    bench = TableBench(max_result_bytes=3)
    bench.open()
    bench.open()
    bench.command(1, 1, b"abc")

    assert bench.command(2, 1, b"d") == Answer(Outcome.NO_ROOM)
    bench.close(1)
    assert bench.table.result_bytes == 0
    assert bench.command(2, 1, b"d") == Answer(Outcome.NO_ROOM)
    assert bench.command(2, 2, b"e").outcome is Outcome.APPLIED
    assert bench.applied == [b"abc", b"e"]


def test_command_of_a_version_that_is_not_on_is_refused_for_ever() -> None:
    """Also when the version is switched on before a copy of it comes."""
    bench = TableBench()
    bench.open()

    assert bench.command(1, 1, version=2) == Answer(Outcome.NOT_ENABLED)
    bench.version = 2
    assert bench.command(1, 1, version=2) == Answer(Outcome.NOT_ENABLED)
    assert bench.command(1, 2, version=2).outcome is Outcome.APPLIED


# --- Time ------------------------------------------------------------------------------------------------------------


def test_session_expires_after_its_ttl_of_silence() -> None:
    """At the very end of its time it lives; a millisecond later it does not."""
    bench = TableBench()
    bench.open(ttl_ms=100)
    bench.led_ms = 100
    assert bench.command(1, 1).outcome is Outcome.APPLIED
    bench.led_ms = 200
    assert bench.keep_alive(1) == opened(1)
    bench.led_ms = 301

    assert bench.command(1, 2) == NO_SESSION
    assert bench.table.result_bytes == 0


def test_resolving_does_not_keep_a_session_alive() -> None:
    """Whoever resolves need not be the client."""
    bench = TableBench()
    bench.open(ttl_ms=100)
    bench.led_ms = 60
    assert bench.resolve(1, 1) == NEVER
    bench.led_ms = 101

    assert bench.resolve(1, 1) == NO_SESSION


def test_time_goes_on_under_a_new_leader_from_where_it_was() -> None:
    """A leader counts from the beginning of its term, whatever its clock shows; between leaders no time passes."""
    bench = TableBench(led_ms=500)
    bench.open(ttl_ms=100)
    assert bench.table.time_ms == 500
    bench.term, bench.led_ms = 2, 0
    bench.open()
    bench.term, bench.led_ms = 4, 90
    assert bench.keep_alive(1) == opened(1)

    assert bench.table.time_ms == 590


def test_time_never_falls() -> None:
    """A stamp that is less than the one before in its term, which no leader makes, moves nothing."""
    bench = TableBench(led_ms=500)
    bench.open()
    bench.led_ms = 400
    bench.open()
    bench.led_ms = 600
    bench.open()

    assert bench.table.time_ms == 600


def test_session_closed_before_its_time_is_no_trouble_later() -> None:
    """Its end comes and finds nothing."""
    bench = TableBench()
    bench.open(ttl_ms=100)
    bench.close(1)
    bench.led_ms = 200
    bench.open()

    assert bench.table.session_ids == (3,)


# --- In snapshots ----------------------------------------------------------------------------------------------------


def test_empty_table_is_no_bytes() -> None:
    """So a snapshot from before there were sessions has the table that it had."""
    assert SessionTable().encode() == b""
    assert SessionTable.decode(b"").encode() == b""


def test_table_survives_a_snapshot() -> None:
    """Sessions, outcomes, what is settled, time and the bytes of results come back, and go on the same."""
    bench = TableBench(led_ms=40)
    bench.open(ttl_ms=100)
    bench.open(ttl_ms=1000)
    bench.command(1, 1, b"a")
    bench.command(2, 1, b"")
    bench.command(2, 300, b"b" * 200, below=300, unsettled=(1, 2))
    bench.resolve(2, 301)
    bench.command(2, 302, version=9)
    bench.max_result_bytes = 1

    restored = SessionTable.decode(bench.table.encode())

    assert restored.encode() == bench.table.encode()
    assert (restored.time_ms, restored.result_bytes) == (40, bench.table.result_bytes)
    assert restored.session_ids == (1, 2)
    bench.table, bench.led_ms = restored, 141
    assert bench.command(1, 1) == NO_SESSION
    assert bench.command(2, 300).index == 5
    assert bench.resolve(2, 3) == SETTLED


@pytest.mark.parametrize(
    ("encoded", "told"),
    [
        (b"\xff", "cut off"),
        (bytes_field(4, varint_field(1, 5)), "no id or no ttl_ms"),
        (bytes_field(4, varint_field(2, 5)), "no id or no ttl_ms"),
        (bytes_field(4, bytes_field(6, b"")), "it must be from 1"),
        (bytes_field(4, bytes_field(6, bytes_field(2, encode_answer(LIMIT)))), "LIMIT is not one that is kept"),
        (bytes_field(4, bytes_field(5, b"\xff")), "cut off"),
    ],
)
def test_bytes_that_are_no_table_are_refused(encoded: bytes, told: str) -> None:
    """The text says what is wrong."""
    with pytest.raises(MalformedTable, match=told):
        SessionTable.decode(encoded)


def test_fields_of_a_later_version_are_passed_over() -> None:
    """At every level."""
    outcome = varint_field(1, 1) + bytes_field(2, encode_answer(NEVER)) + varint_field(9, 9) + bytes_field(8, b"")
    session = b"".join(varint_field(number, 7) for number in (1, 2, 3, 4, 9)) + bytes_field(9, b"x")
    encoded = bytes_field(4, session + bytes_field(5, encode_varint(1)) + bytes_field(6, outcome))

    table = SessionTable.decode(encoded + varint_field(9, 9) + bytes_field(9, b"x"))

    assert table.session_ids == (7,)
