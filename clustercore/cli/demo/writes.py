"""What the demo writes: made up, or read from a file of JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import attrs

from clustercore.interfaces import ConfigError
from clustercore.runtime.kinds import show

__all__ = ["Write", "made_up_writes", "read_writes"]

# With the text before it a value has 64 bytes, as in the project's other measurements.
_PADDING = "."
_VALUE_BYTES = 64
_ALLOWED = 'a line must be {"key": "...", "value": ...}'


@attrs.frozen
class Write:
    """One key and the one value it gets."""

    key: str
    value: bytes
    # Where it comes from, for errors.
    origin: str


def made_up_writes(count: int) -> list[Write]:
    """Return so many writes, each with a key and a value of its own."""
    return [
        Write(f"demo/{number:08}", f"value {number} ".ljust(_VALUE_BYTES, _PADDING).encode(), f"write {number}")
        for number in range(count)
    ]


def read_writes(path: Path) -> list[Write]:
    """Read writes from a file, a JSON object with ``key`` and ``value`` on each line. Blank lines are skipped.

    A value that is a string is stored as its text; any other is stored as JSON.

    Raises: ConfigError naming file, line and what is allowed, also for a key that is there twice: at the end the demo
        expects the one value that it wrote.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    writes: dict[str, tuple[int, Write]] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            write = _parse(line, f"{path}, line {number}")
            if write.key in writes:
                raise ConfigError(
                    f"{write.origin}: the key {show(write.key)} is in line {writes[write.key][0]} already; "
                    "each key may be written once"
                )
            writes[write.key] = (number, write)
    if not writes:
        raise ConfigError(f"{path}: holds no writes; {_ALLOWED}")
    return [write for _, write in writes.values()]


def _parse(line: bytes, origin: str) -> Write:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{origin}: is not JSON: {error}; {_ALLOWED}") from error
    if not isinstance(record, dict) or record.keys() != {"key", "value"}:
        raise ConfigError(f"{origin}: {show(record)} is not allowed; {_ALLOWED}")
    key, value = record["key"], record["value"]
    if not isinstance(key, str) or not key:
        raise ConfigError(f"{origin}: key = {show(key)} is not allowed; it must be a string that is not empty")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        key.encode()
        return Write(key, text.encode(), origin)
    except UnicodeEncodeError as error:
        raise ConfigError(f"{origin}: holds text that UTF-8 cannot: {error.reason}") from error
