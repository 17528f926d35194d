"""The conflict log: every decision between edits that did not know each other, with both values, to be read and undone.

A conflict is named by the hash of what met, so every node that sees the two edits logs it under the same id, and logs
it once. A node that only ever sees what was made after the decision has nothing to log.

The newest entries are in memory, and among the store's records, so that they survive a restart; a file of JSON lines
can have all of them. This file knows entries, and neither replicas nor how is decided.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs

from clustercore.interfaces import ConfigError, NodeId
from clustercore.sync.writes import Stamp, Write

__all__ = ["AmbiguousConflict", "Conflict", "ConflictCount", "ConflictLog", "ConflictSide", "conflict_id"]
__all__ += ["match_conflict"]

log = logging.getLogger(__name__)

# Entries in memory: with two values of a kilobyte each, 20 MB.
RING_SIZE = 10_000
# How many ids an error names.
NAMED_IDS = 5
# When the file of JSON lines is this long it is moved aside.
ROTATE_BYTES = 16 << 20
# How many that were moved aside are kept, beside the one that is written.
KEPT_FILES = 4


class AmbiguousConflict(ConfigError):
    """The ids of several conflicts begin with what was given for one. Give more digits."""

    def __init__(self, given: str, ids: Sequence[str], count: int) -> None:
        shown = ", ".join(ids) + (", ..." if count > len(ids) else "")
        super().__init__(f"the ids of {count} conflicts begin with {given!r}: {shown}; give more digits")
        self.given = given
        # Some of them, at most ``NAMED_IDS``, and how many there are.
        self.ids = tuple(ids)
        self.count = count


@attrs.frozen
class ConflictSide:
    """One of the two edits that met."""

    stamp: Stamp
    # What its maker had seen there; None if nothing.
    base: Stamp | None
    # The canonical JSON of the group's fields; None for a deletion.
    value: bytes | None
    # Whether it deletes the entity, and not one group of it.
    is_deletion: bool = False

    @property
    def node_id(self) -> NodeId:
        """The node that made the edit."""
        return self.stamp.node_id


@attrs.frozen
class Conflict:
    """Two edits that did not know each other, and what was decided."""

    # The same on every node.
    conflict_id: str
    kind: str
    entity_id: str
    group: str
    # What decided, in a word or two, as the resolver says it.
    rule: str
    # Who decided: "lww", or the resolver's class.
    resolver: str
    # The edit that the last-write rules prefer; of a merge, the later.
    winner: ConflictSide
    loser: ConflictSide
    # What holds of the two: the winner's value, or what was merged.
    result: bytes | None
    # Who noticed, and when by its wall clock, in ms since 1970 UTC. These two differ from node to node.
    node_id: NodeId
    detected_at_ms: int

    def encode(self) -> bytes:
        """Return the entry as a line of JSON without its end, as the file and the store's records have it."""
        return _ENCODER.encode(self.to_json()).encode()

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON can say it, and ``from_json`` reads it."""
        plain = {field: getattr(self, field) for field in _PLAIN}
        return plain | {
            "winner": _side_to_json(self.winner),
            "loser": _side_to_json(self.loser),
            "result": _value_to_json(self.result),
        }

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Conflict:
        """Return the entry that ``to_json`` made. Raises: KeyError, TypeError, ValueError if it is none."""
        for field in _PLAIN:
            expected = int if field == "detected_at_ms" else str
            if not isinstance(entry[field], expected):
                raise TypeError(f"{field} is {entry[field]!r}; it must be of type {expected.__name__}")
        return cls(
            **{field: entry[field] for field in _PLAIN},
            winner=_side_from_json(entry["winner"]),
            loser=_side_from_json(entry["loser"]),
            result=_value_from_json(entry["result"]),
        )


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_PLAIN = ("conflict_id", "kind", "entity_id", "group", "rule", "resolver", "node_id", "detected_at_ms")


def _side_to_json(side: ConflictSide) -> dict[str, Any]:
    return {
        "stamp": _stamp_to_json(side.stamp),
        "base": None if side.base is None else _stamp_to_json(side.base),
        "value": _value_to_json(side.value),
        "is_deletion": side.is_deletion,
    }


def _stamp_to_json(stamp: Stamp) -> tuple[int, int, str]:
    return stamp.version, stamp.time, stamp.writer


def _stamp_from_json(version: object, time: object, writer: object) -> Stamp:
    if not (isinstance(version, int) and isinstance(time, int) and isinstance(writer, str)):
        raise TypeError(f"a stamp is {[version, time, writer]}; it must be two integers and a text")
    return Stamp(version, time, writer)


def _side_from_json(side: dict[str, Any]) -> ConflictSide:
    base = side["base"]
    return ConflictSide(
        _stamp_from_json(*side["stamp"]),
        None if base is None else _stamp_from_json(*base),
        _value_from_json(side["value"]),
        side["is_deletion"],
    )


def _value_to_json(value: bytes | None) -> str | dict[str, str] | None:
    """Return a value as text: it is JSON itself, unless a broken node made it."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"hex": value.hex()}


def _value_from_json(value: str | dict[str, str] | None) -> bytes | None:
    if value is None:
        return None
    return value.encode() if isinstance(value, str) else bytes.fromhex(value["hex"])


def conflict_id(kind: str, entity_id: str, group: str, one: Write, other: Write) -> str:
    """Return the name of a conflict: 32 hexadecimal digits of the SHA-256 of what met, in whatever order."""
    parts = [kind.encode(), entity_id.encode(), group.encode(), *sorted((one.encoded, other.encoded))]
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).hexdigest()[:32]


def match_conflict(given: str, entries: Iterable[Conflict]) -> Conflict | None:
    """Return the entry whose id is given, or begins with it; None if there is none.

    Args:
        given: An id, or the first digits of one. No entry's if it is empty.
        entries: Each id is in them once.

    Raises: AmbiguousConflict if several begin with it.
    """
    found = [entry for entry in entries if given and entry.conflict_id.startswith(given)]
    if len(found) > 1:
        raise AmbiguousConflict(given, [entry.conflict_id for entry in found[:NAMED_IDS]], len(found))
    return found[0] if found else None


@attrs.frozen
class ConflictCount:
    """How often a rule decided between two nodes, since the log was opened."""

    kind: str
    group: str
    rule: str
    winner_node: NodeId
    loser_node: NodeId
    count: int


class ConflictLog:
    """A bounded log, newest last, of one store or one machine.

    Args:
        limit: Entries that are kept; the oldest go first.
        path: A file that gets every entry as a line of JSON; None for none. Made if it is not there. When it is longer
            than ``rotate_bytes`` it is moved to ``path.1``, that one to ``path.2``, and so on up to ``keep``.
        rotate_bytes: See ``path``.
        keep: See ``path``.
        on_conflict: Is told of every entry. It must not raise.

    The file is for people and other programs: it is written when a conflict is found, in the event loop (some
    microseconds into the system's cache), and not synced. Without it nothing is lost that ``limit`` allows for. When it
    cannot be written, that is counted (``file_errors``) and logged, and sync goes on.

    Raises: ConfigError if a number is out of range.
    """

    def __init__(
        self,
        limit: int = RING_SIZE,
        *,
        path: Path | str | None = None,
        rotate_bytes: int = ROTATE_BYTES,
        keep: int = KEPT_FILES,
        on_conflict: Callable[[Conflict], None] = lambda conflict: None,
    ) -> None:
        for name, value, least in (("limit", limit, 1), ("rotate_bytes", rotate_bytes, 1), ("keep", keep, 0)):
            if value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
        self._limit = limit
        self._path = None if path is None else Path(path)
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._on_conflict = on_conflict
        self._is_open = False
        # None while the log is not open, and after it could not be opened anew.
        self._file: FileIO | None = None
        self._entries: dict[str, Conflict] = {}
        self._counts: Counter[tuple[str, str, str, NodeId, NodeId]] = Counter()
        self.file_errors = 0

    def __enter__(self) -> Self:
        """Open the file, if there is to be one. Raises: OSError."""
        if self._path is not None:
            self._file = _open_to_append(self._path)
        self._is_open = True
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self._is_open = False
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Conflict]:
        """Yield the entries, oldest first. Change nothing meanwhile."""
        return iter(self._entries.values())

    def has(self, conflict_id: str) -> bool:
        """Whether there is an entry of this id."""
        return conflict_id in self._entries

    def get(self, conflict_id: str) -> Conflict | None:
        """Return an entry by its id, or by as many of its first digits as no other has; None if there is none.

        Raises: AmbiguousConflict if several begin with these digits.
        """
        return self._entries.get(conflict_id) or match_conflict(conflict_id, self._entries.values())

    def counts(self) -> tuple[ConflictCount, ...]:
        """Return how often each rule decided between whom, most often first."""
        return tuple(ConflictCount(*key, count) for key, count in self._counts.most_common())

    def take_back(self, entries: Iterable[Conflict]) -> list[str]:
        """Take in what was logged before a restart, oldest first; it is neither told nor counted again.

        Returns: the ids of the entries that had to go, if there are more than are kept.
        """
        for entry in entries:
            self._entries[entry.conflict_id] = entry
        return self._drop_oldest()

    def add(self, conflict: Conflict, encoded: bytes | None = None) -> list[str] | None:
        """Log a conflict. Return the ids of entries that had to go for it; None if it was there already.

        Args:
            conflict: The entry.
            encoded: What its ``encode`` returns, if that is known.
        """
        if conflict.conflict_id in self._entries:
            return None
        self._entries[conflict.conflict_id] = conflict
        sides = conflict.winner.node_id, conflict.loser.node_id
        self._counts[(conflict.kind, conflict.group, conflict.rule, *sides)] += 1
        self._write(conflict, encoded)
        self._on_conflict(conflict)
        return self._drop_oldest()

    def _drop_oldest(self) -> list[str]:
        gone = []
        while len(self._entries) > self._limit:
            oldest = next(iter(self._entries))
            del self._entries[oldest]
            gone.append(oldest)
        return gone

    def _write(self, conflict: Conflict, encoded: bytes | None) -> None:
        if self._path is None or not self._is_open:
            return
        try:
            if self._file is None:
                self._file = _open_to_append(self._path)
            _append(self._file, (encoded or conflict.encode()) + b"\n")
            if self._file.tell() >= self._rotate_bytes:
                self._rotate(self._path)
        except OSError:
            self.file_errors += 1
            log.exception("the conflict log cannot be written to %s", self._path)

    def _rotate(self, path: Path) -> None:
        if self._file is not None:
            self._file.close()
        # If something fails here, the next entry finds it so, and tries again.
        self._file = None
        for number in range(self._keep, 0, -1):
            older = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number}"))
        if self._keep == 0:
            path.unlink(missing_ok=True)
        self._file = _open_to_append(path)


def _open_to_append(path: Path) -> FileIO:
    """Open a file of lines to write more, after its last whole line: a crash may have cut off the one after that."""
    file = FileIO(path, "a")
    try:
        size = file.tell()
        with path.open("rb") as existing:
            if size and existing.seek(size - 1) >= 0 and existing.read() != b"\n":
                existing.seek(0)
                file.truncate(existing.read().rfind(b"\n") + 1)
    except BaseException:
        file.close()
        raise
    return file


def _append(file: FileIO, line: bytes) -> None:
    """Write a line, or nothing of it. Raises: OSError."""
    start = file.tell()
    try:
        written = file.write(line)
        if written != len(line):
            raise OSError(f"{written} of {len(line)} bytes were written")
    except OSError:
        # The next line must not continue this one.
        with suppress(OSError):
            file.truncate(start)
        raise
