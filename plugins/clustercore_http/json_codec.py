"""Messages as JSON: one object each, whose ``type`` is the message's name and whose other keys are its fields.

Bytes are in base 64 (RFC 4648), enums by their value, an entry with index, term, kind and command: its encoding follows
from these, so it arrives with the bytes with which it left. What comes in is held to the types: JSON says neither that
a number is whole nor that text is no number, and Python would turn one into the other.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from enum import Enum
from typing import Any, get_args

from cattrs import ClassValidationError, Converter
from cattrs.strategies import configure_tagged_union

from clustercore.interfaces import Entry, EntryKind, LogIndex, MalformedMessage, Message, NodeStatus, Term, leaves_of

__all__ = ["decode_line", "encode_line", "show_status"]

# A union. cattrs takes it, though its annotations ask for a class.
_MESSAGE: Any = Message
_LIMIT = 1 << 64


def _number(value: object, _: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LIMIT:
        raise ValueError(f"{value!r} is no whole number from 0 to 2**64 - 1")
    return value


def _flag(value: object, _: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _text(value: object, _: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _data(value: object, _: object) -> bytes:
    return b64decode(_text(value, None), validate=True)


def _entry(value: dict[str, Any], _: object) -> Entry:
    index, term = _number(value["index"], None), _number(value["term"], None)
    if not (index and term):
        raise ValueError(f"entry has index {index} and term {term}; both start at 1")
    kind = EntryKind[_text(value["kind"], None).upper()]
    return Entry.create(LogIndex(index), Term(term), kind, _data(value["command"], None))


def _show_entry(entry: Entry) -> dict[str, object]:
    return {
        "index": entry.index,
        "term": entry.term,
        "kind": entry.kind.name.lower(),
        "command": b64encode(entry.command).decode(),
    }


def _make_converter() -> Converter:
    converter = Converter(forbid_extra_keys=False, prefer_attrib_converters=False)
    converter.register_unstructure_hook(bytes, lambda data: b64encode(data).decode())
    converter.register_structure_hook(bytes, _data)
    converter.register_structure_hook(int, _number)
    converter.register_structure_hook(bool, _flag)
    converter.register_structure_hook(str, _text)
    converter.register_unstructure_hook(Entry, _show_entry)
    converter.register_structure_hook(Entry, _entry)
    converter.register_unstructure_hook_func(
        lambda kind: isinstance(kind, type) and issubclass(kind, Enum), lambda member: member.value
    )
    # JSON has no sets; sorted, so that the same message is the same text.
    converter.register_unstructure_hook_func(
        lambda kind: getattr(kind, "__origin__", None) is frozenset, lambda names: sorted(names)
    )
    configure_tagged_union(_MESSAGE, converter, tag_name="type")
    return converter


_converter = _make_converter()
_TYPES = frozenset(kind.__name__ for kind in get_args(_MESSAGE))


def encode_line(message: Message) -> bytes:
    """Return a message as one line of JSON, with its end."""
    return json.dumps(_converter.unstructure(message, _MESSAGE), separators=(",", ":")).encode() + b"\n"


def decode_line(line: bytes | bytearray) -> Message:
    """Read what ``encode_line``, or any JSON writer, made.

    Raises: MalformedMessage.
    """
    raw: Any = None
    try:
        raw = json.loads(line)
        if not isinstance(raw, dict) or raw.get("type") not in _TYPES:
            raise ValueError(f"there is no message of type {raw.get('type') if isinstance(raw, dict) else raw!r}")
        message: Message = _converter.structure(raw, _MESSAGE)
    except ClassValidationError as exc:
        reasons = "; ".join(str(inner) for inner in leaves_of(exc))
        raise MalformedMessage(f"{raw['type']}: {reasons}") from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise MalformedMessage(f"this is no message: {exc}") from exc
    return message


def show_status(status: NodeStatus) -> bytes:
    """Return a status for people, and for programs that read JSON."""
    return json.dumps(_converter.unstructure(status, NodeStatus), indent=2).encode() + b"\n"
