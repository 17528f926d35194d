"""A trace as a file: JSON lines, the first of which says what world it is from and how to see it again.

Lines are in their canonical form (``codec.canonical``), so that the same run gives the same bytes and one hash. The
hash leaves out ``replay``: a run is the same however it was started.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import attrs

from clustercore.testing.trace.codec import (
    Refused,
    TraceError,
    canonical,
    decode_event,
    encode_event,
    parse_line,
    read_fields,
)
from clustercore.testing.trace.events import Event

__all__ = ["VERSION", "Trace", "TraceHeader", "TraceWriter", "read_trace", "trace_hash", "write_trace"]

# Of the format. A reader takes exactly its own: a trace is cheap to make again from its seed.
VERSION = 1
_MARK = "clustercore_trace"


@attrs.frozen
class TraceHeader:
    """The first line: which world this is."""

    # ``protocol`` for cores alone, ``node`` for whole nodes.
    level: str
    # In the order in which they are drawn.
    nodes: tuple[str, ...]
    # What was run, in a few words.
    title: str = ""
    # None where no single number decided everything.
    seed: int | None = None
    # All that was drawn or chosen to build the world, and whatever a replay needs.
    options: Mapping[str, object] = attrs.field(factory=dict)
    # The command that makes this run again; empty if there is none.
    replay: str = ""


@attrs.frozen
class Trace:
    """A whole trace."""

    header: TraceHeader
    events: tuple[Event, ...]

    @property
    def hash(self) -> str:
        """What ``trace_hash`` says of it."""
        return trace_hash(self.header, self.events)


class _Hash:
    """The running hash of a trace."""

    def __init__(self, header: TraceHeader) -> None:
        self._sha256 = hashlib.sha256()
        self.add(_header_line(attrs.evolve(header, replay="")))

    def add(self, line: str) -> None:
        """Take one more line."""
        self._sha256.update(line.encode() + b"\n")

    def __str__(self) -> str:
        return self._sha256.hexdigest()


class TraceWriter:
    """Writes a trace as it happens."""

    def __init__(self, file: TextIO, header: TraceHeader) -> None:
        """Write the header to a file open for text, which stays the caller's to close."""
        self._file = file
        self._hash = _Hash(header)
        self._file.write(_header_line(header) + "\n")

    @property
    def hash(self) -> str:
        """The hash of the trace so far: SHA-256, in hexadecimal."""
        return str(self._hash)

    def write(self, event: Event) -> None:
        """Add an event."""
        line = canonical(encode_event(event))
        self._hash.add(line)
        self._file.write(line + "\n")


def trace_hash(header: TraceHeader, events: Iterable[Event]) -> str:
    """Return the hash that a file of this trace has: SHA-256 of its lines, the header's without ``replay``."""
    found = _Hash(header)
    for event in events:
        found.add(canonical(encode_event(event)))
    return str(found)


def write_trace(path: Path, header: TraceHeader, events: Iterable[Event]) -> str:
    """Write a whole trace, and return its hash. A file of that name is replaced at once, and never left in part.

    Raises: OSError, as ``open`` does.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("w", encoding="ascii", newline="\n") as file:
            writer = TraceWriter(file, header)
            for event in events:
                writer.write(event)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return writer.hash


def read_trace(path: Path) -> Trace:
    """Read a trace.

    Raises: TraceError if there is no such file, or it is not a trace of this version; the text names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: this is no trace: {error}") from error
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror or error}") from error
    lines = text.split("\n")
    if lines.pop():
        raise TraceError(f"{path}:{len(lines) + 1}: the line ends early: whatever wrote the trace was cut off there")
    with _naming(path, 1):
        header = _read_header(lines[0] if lines else "")
    events: list[Event] = []
    for number, line in enumerate(lines[1:], start=2):
        with _naming(path, number):
            event = decode_event(parse_line(line))
            if events and event.time < events[-1].time:
                raise Refused(f"time = {event.time} is not allowed; the event before is at {events[-1].time}")
            events.append(event)
    return Trace(header, tuple(events))


@contextmanager
def _naming(path: Path, number: int) -> Iterator[None]:
    """Add file and line to what is refused."""
    try:
        yield
    except Refused as refused:
        raise TraceError(f"{path}:{number}: {refused}") from refused


def _header_line(header: TraceHeader) -> str:
    return canonical({_MARK: VERSION, **attrs.asdict(header)})


def _read_header(line: str) -> TraceHeader:
    fields = parse_line(line) if line else {}
    if _MARK not in fields:
        raise Refused(f'the first line of a trace must be an object with "{_MARK}": {VERSION}')
    if fields[_MARK] != VERSION:
        raise Refused(f"this is a trace of version {fields[_MARK]}; this clustercore reads version {VERSION}")
    header = read_fields(TraceHeader, {name: value for name, value in fields.items() if name != _MARK})
    if len(set(header.nodes)) < len(header.nodes):
        raise Refused(f"nodes = {canonical(header.nodes)} is not allowed; each node may be named once")
    return header
