"""What a command may hold, and the checks that say so.

The limits rule what is let in, not what a command in the log means: ``validate`` and the client check them, ``apply``
does not. So a later version may raise a limit, and old nodes still agree with new ones about every logged command.
"""

from __future__ import annotations

from clustercore.interfaces import InvalidCommand
from clustercore_kv.values import Cas, Command, Delete, Get, Put, Scan

__all__ = [
    "DEFAULT_SCAN_PAIRS",
    "MAX_KEY_BYTES",
    "MAX_SCAN_BYTES",
    "MAX_SCAN_PAIRS",
    "MAX_VALUE_BYTES",
    "check_command",
    "check_key",
    "check_prefix",
    "check_scan",
    "check_value",
]

# Room for a path or two identifiers; the sorted keys all live in memory.
MAX_KEY_BYTES = 1024
# As in etcd: larger values delay every other command on their way through the log.
MAX_VALUE_BYTES = 1024 * 1024
# A page is built and encoded between two checkpoints: 10,000 pairs take 15 to 25 ms, measured.
MAX_SCAN_PAIRS = 10_000
DEFAULT_SCAN_PAIRS = 1_000
# A page is no larger than this, unless its only pair is; so it fits wherever the largest value does.
MAX_SCAN_BYTES = MAX_VALUE_BYTES


def check_command(command: Command) -> None:
    """Check everything in a command that has a limit.

    Raises: InvalidCommand, naming the limit and the size.
    """
    match command:
        case Put(key=key, value=value):
            check_key(key)
            check_value("value", value)
        case Cas(key=key, value=value, expected=expected):
            check_key(key)
            check_value("value", value)
            if isinstance(expected, bytes):
                check_value("expected value", expected)
        case Delete(key=key) | Get(key=key):
            check_key(key)
        case Scan():
            check_scan(command)


def check_key(key: str) -> None:
    """Refuse a key that is empty, too long or no text. Raises: InvalidCommand."""
    if not key:
        raise InvalidCommand(f"a key is empty; it must have 1 to {MAX_KEY_BYTES} bytes of UTF-8")
    _check_text("key", key)


def check_prefix(prefix: str) -> None:
    """Refuse a prefix that no key can have. Raises: InvalidCommand."""
    _check_text("prefix", prefix)


def check_value(name: str, value: bytes) -> None:
    """Refuse a value that is too long; ``name`` says which. Raises: InvalidCommand."""
    if len(value) > MAX_VALUE_BYTES:
        raise InvalidCommand(f"the {name} has {len(value)} bytes; at most {MAX_VALUE_BYTES} are allowed")


def check_scan(scan: Scan) -> None:
    """Refuse a page that is too long, or a range that no key can lie in. Raises: InvalidCommand."""
    _check_text("prefix", scan.prefix)
    _check_text("start_after", scan.start_after)
    if not 0 <= scan.limit <= MAX_SCAN_PAIRS:
        raise InvalidCommand(
            f"the scan's limit is {scan.limit}; 1 to {MAX_SCAN_PAIRS} are allowed, and 0 for {DEFAULT_SCAN_PAIRS}"
        )


def _check_text(name: str, text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidCommand(f"the {name} {text!r} is not text that UTF-8 can hold: {error.reason}") from error
    if size > MAX_KEY_BYTES:
        raise InvalidCommand(f"the {name} {text[:20]!r}... has {size} bytes; at most {MAX_KEY_BYTES} are allowed")
