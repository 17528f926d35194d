"""The commands of the key-value store, their results and the events of a watch, as frozen values.

They know nothing of bytes on a wire: ``codec`` does. Who embeds a node proposes ``encode_command(Put(...))`` and reads
``decode_result(applied.result)``; ``KeyValueClient`` returns the same results.
"""

from __future__ import annotations

import attrs

__all__ = [
    "Cas",
    "CasResult",
    "Command",
    "Delete",
    "DeleteResult",
    "Get",
    "GetResult",
    "KvEvent",
    "KvPair",
    "Put",
    "PutResult",
    "Refused",
    "Result",
    "Scan",
    "ScanResult",
]


def _show_length(value: bytes | None) -> str:
    """Stand for a value in a repr: values are large, and may be secret."""
    return "None" if value is None else f"<{len(value)}>"


# --- Commands ------------------------------------------------------------------------------------------------


@attrs.frozen
class Put:
    """Set a key's value, whatever it was."""

    key: str
    value: bytes = attrs.field(repr=_show_length)


@attrs.frozen
class Delete:
    """Remove a key. A key that is absent stays so, and nothing changes."""

    key: str


@attrs.frozen
class Cas:
    """Compare and set: set a key's value if the key is as expected."""

    key: str
    value: bytes = attrs.field(repr=_show_length)
    # None: the key is absent. bytes: it has this value. int: its last change has this revision (0: absent). Only a
    # revision tells a value from the same value written again.
    expected: bytes | int | None


@attrs.frozen
class Get:
    """Read one key. As a query it costs no log entry; in the log, it reads what was agreed on at its place."""

    key: str


@attrs.frozen
class Scan:
    """Read one page of the keys that start with a prefix; in the log or as a query, as ``Get``."""

    # Empty for all keys.
    prefix: str = ""
    # At most limits.MAX_SCAN_PAIRS; 0 stands for limits.DEFAULT_SCAN_PAIRS.
    limit: int = 0
    # Only keys after this one: the last key of the page before. Empty for the first page.
    start_after: str = ""


Command = Put | Delete | Cas | Get | Scan


# --- Results -------------------------------------------------------------------------------------------------


@attrs.frozen
class PutResult:
    """The value is set."""

    # The key's revision: the log index of this change.
    revision: int


@attrs.frozen
class DeleteResult:
    """The key is absent."""

    # False when it was absent before; then nothing changed.
    deleted: bool
    # The log index of the deletion; 0 if there was none.
    revision: int


@attrs.frozen
class CasResult:
    """The key was compared, and set if it was as expected."""

    swapped: bool
    # The key's revision now: of this change if swapped, else of the value that is there; 0 if the key is absent.
    revision: int
    # When not swapped: the value that is there, None if the key is absent. None when swapped.
    value: bytes | None = attrs.field(default=None, repr=_show_length)


@attrs.frozen
class GetResult:
    """What a key held."""

    # None if the key is absent.
    value: bytes | None = attrs.field(repr=_show_length)
    # The log index of the key's last change; 0 if it is absent.
    revision: int
    # The log index of the last command applied to the state that was read.
    applied_index: int


@attrs.frozen
class KvPair:
    """A key that exists, its value and the log index of its last change."""

    key: str
    value: bytes = attrs.field(repr=_show_length)
    revision: int


@attrs.frozen
class ScanResult:
    """One page of keys."""

    # Sorted by key.
    pairs: tuple[KvPair, ...]
    # There are keys after the last of these: scan on with ``start_after=pairs[-1].key``.
    more: bool
    # The log index of the last command applied to the state that was read. A watch after it misses nothing.
    applied_index: int


@attrs.frozen
class Refused:
    """The command could not be read: it changed nothing, on any node."""

    message: str


Result = PutResult | DeleteResult | CasResult | GetResult | ScanResult | Refused


# --- Events --------------------------------------------------------------------------------------------------


@attrs.frozen
class KvEvent:
    """One change of one key."""

    key: str
    # The value set; None if the key was deleted.
    value: bytes | None = attrs.field(repr=_show_length)
    # The log index of the change: every change has its own, and they grow.
    revision: int
