"""The trace format: what is written is read again, equal traces are equal bytes, a mistake is told with its line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from hypothesis import given

from clustercore.testing.trace import Event, Trace, TraceError, TraceHeader, TraceWriter, read_trace, write_trace
from clustercore.testing.trace.events import EVENTS, Sent
from tests.unit.testing.traces import HEADER, TEN_EVENTS, events, headers


@given(header=headers(), found=events())
def test_trace_is_read_as_it_was_written(
    header: TraceHeader, found: list[Event], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any header and any events survive the file, and the file has the hash of what was written."""
    path = tmp_path_factory.getbasetemp() / "any.jsonl"

    written = write_trace(path, header, found)

    assert read_trace(path) == Trace(header, tuple(found))
    assert read_trace(path).hash == written


@given(header=headers(), found=events())
def test_equal_traces_are_equal_bytes(header: TraceHeader, found: list[Event]) -> None:
    """Each line has one form, so that writing what was read changes nothing; only ASCII, and one event a line."""
    files = [io.StringIO(), io.StringIO()]
    for file in files:
        writer = TraceWriter(file, header)
        for event in found:
            writer.write(event)

    assert files[0].getvalue() == files[1].getvalue()
    assert files[0].getvalue().isascii()
    assert files[0].getvalue().count("\n") == len(found) + 1


def test_hash_tells_events_and_worlds_apart_but_not_commands(tmp_path: Path) -> None:
    """The hash is of what happened and in which world, however it was started."""

    def hash_of(header: TraceHeader, found: tuple[Event, ...]) -> str:
        return write_trace(tmp_path / "run.jsonl", header, found)

    known = hash_of(HEADER, TEN_EVENTS)

    assert known == hash_of(attrs.evolve(HEADER, replay="something else"), TEN_EVENTS)
    assert known != hash_of(attrs.evolve(HEADER, seed=8), TEN_EVENTS)
    assert known != hash_of(HEADER, TEN_EVENTS[:-1])
    assert known != hash_of(HEADER, (attrs.evolve(TEN_EVENTS[0], time=0.25), *TEN_EVENTS[1:]))


def test_hash_is_pinned(tmp_path: Path) -> None:
    """The same trace has this hash on every Python: a change here is a new version of the format."""
    assert write_trace(tmp_path / "run.jsonl", HEADER, TEN_EVENTS) == PINNED


PINNED = "06fbbab78f5e59b1d50570c55d4af78aebc1f2285097287e213bb14b7d7727b2"


@pytest.mark.parametrize("kind", EVENTS.values(), ids=EVENTS)
def test_event_is_documented_and_frozen(kind: type[Event]) -> None:
    """Every kind of event says what happened, and cannot be changed."""
    assert kind.__doc__
    assert attrs.has(kind)
    assert kind.__setattr__ is not object.__setattr__


Change = Callable[[list[str]], None]


def replace(line: int, before: str, after: str) -> Change:
    """Return a change of one line, numbered from 1."""

    def change(lines: list[str]) -> None:
        assert before in lines[line - 1]
        lines[line - 1] = lines[line - 1].replace(before, after)

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda lines: lines.clear(), '1: the first line of a trace must be an object with "clustercore_trace": 1'),
        (
            replace(1, '"clustercore_trace":1', '"clustercore_trace":2'),
            "1: this is a trace of version 2; this clustercore reads version 1",
        ),
        (replace(1, '"nodes":', '"nodse":'), "1: nodse is not a known field; did you mean nodes? known: level, nodes"),
        (replace(1, '"n2"', '"n1"'), '1: nodes = ["n1","n1"] is not allowed; each node may be named once'),
        (replace(1, '"seed":7', '"seed":"7"'), '1: seed = "7" is not allowed; it must be a whole number or null'),
        (replace(7, "{", "["), "7: this is no JSON: "),
        (replace(7, "0.5", "NaN"), "7: NaN is not allowed; numbers are finite"),
        (lambda lines: lines.__setitem__(6, "17"), "7: 17 is not allowed; a line must be an object"),
        (lambda lines: lines.__setitem__(6, "[" * 100_000), "7: this is no JSON"),
        (replace(7, '"sent"', '"snt"'), '7: event = "snt" is not known; did you mean sent? known: sent, delivered'),
        (replace(7, '"event":"sent",', ""), "7: event = null is not known; known: sent, "),
        (replace(7, '"to":"n2",', ""), "7: sent: to is missing; it must be a text"),
        (replace(7, '"to":', '"too":'), "7: sent: too is not a known field; did you mean to? known: time, node, "),
        (
            replace(7, '"message":1', '"message":-1'),
            "7: sent: message = -1 is not allowed; it must be a whole number of at least 0",
        ),
        (
            replace(7, '"message":1', '"message":true'),
            "7: sent: message = true is not allowed; it must be a whole number of at least 0",
        ),
        (replace(7, '"1:1"', "[]"), '7: sent: detail = {"entries":[]} is not allowed; it must be an object of texts'),
        (
            replace(7, "0.5", "-1"),
            "7: sent: time = -1 is not allowed; it must be a finite number of at least 0",
        ),
        (replace(7, "0.5", "0.25"), "7: time = 0.25 is not allowed; the event before is at 0.5"),
        (
            replace(5, '[1,1,"command","x = 1"]', "[1,1]"),
            "5: appended: entries = [[1,1]] is not allowed; it must be a list of entries, each [index, term",
        ),
        (replace(11, "}\n", "}"), "11: the line ends early: whatever wrote the trace was cut off there"),
    ],
)
def test_mistake_is_told_with_its_line(change: Change, complaint: str, tmp_path: Path) -> None:
    """What is wrong in a trace is one line of text: file, line, field, value, and what is allowed."""
    path = tmp_path / "run.jsonl"
    write_trace(path, HEADER, TEN_EVENTS)
    lines = path.read_text().splitlines(keepends=True)
    change(lines)
    path.write_text("".join(line if line.endswith(("\n", "}")) else f"{line}\n" for line in lines))

    with pytest.raises(TraceError) as caught:
        read_trace(path)

    assert str(caught.value).startswith(f"{path}:{complaint}")
    assert "\n" not in str(caught.value)


def test_what_is_no_file_or_no_text_is_told(tmp_path: Path) -> None:
    """A missing file, a folder and a file of bytes are refused by name."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\n")

    for path, complaint in [(tmp_path / "absent", "cannot be read: No such file"), (binary, ": this is no trace: ")]:
        with pytest.raises(TraceError, match=complaint) as caught:
            read_trace(path)
        assert str(path) in str(caught.value)


def test_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    """A trace is replaced as a whole or not at all, and nothing is left beside it."""
    path = tmp_path / "run.jsonl"
    write_trace(path, HEADER, TEN_EVENTS)
    before = path.read_text()
    wrong = Sent(1.0, "n1", 1, "n2", "AppendEntriesRequest", 1, {"bad": float("nan")})

    with pytest.raises(ValueError, match="not JSON compliant"):
        write_trace(path, HEADER, [wrong])

    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_lines_are_what_the_documentation_says(tmp_path: Path) -> None:
    """The first line names version and world; a field that has its default is left out of an event."""
    path = tmp_path / "run.jsonl"
    write_trace(path, HEADER, TEN_EVENTS)

    first, *rest = map(json.loads, path.read_text().splitlines())

    assert first["clustercore_trace"] == 1
    assert rest[0] == {
        "event": "started",
        "time": 0.0,
        "node": "n1",
        "term": 1,
        "voted_for": None,
        "base_index": 0,
        "base_term": 0,
        "commit_index": 0,
    }
