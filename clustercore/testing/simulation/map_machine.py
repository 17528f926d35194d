"""The state machine of campaigns: a map, whose commands and answers a checker of linearizability understands."""

from __future__ import annotations

import json
from typing import assert_never

from clustercore.interfaces import InvalidCommand, LogIndex, StateMachine
from clustercore.testing.models import MapAppend, MapCompareAndSet, MapDelete, MapGet, MapInput, MapOutput, MapPut

__all__ = ["MapMachine", "decode_output", "encode_input"]

_KINDS: dict[str, type[MapAppend] | type[MapCompareAndSet] | type[MapDelete] | type[MapPut]] = {
    "append": MapAppend,
    "cas": MapCompareAndSet,
    "delete": MapDelete,
    "put": MapPut,
}


def encode_input(input: MapInput) -> bytes:
    """Return an operation as a command, or a get as a query."""
    match input:
        case MapGet(key):
            return key.encode()
        case MapPut(key, value):
            fields: list[str | None] = ["put", key, value]
        case MapAppend(key, value):
            fields = ["append", key, value]
        case MapDelete(key):
            fields = ["delete", key]
        case MapCompareAndSet(key, expected, value):
            fields = ["cas", key, expected, value]
        case _:
            assert_never(input)
    return json.dumps(fields).encode()


def decode_output(result: bytes) -> MapOutput:
    """Return what an operation answered."""
    output: MapOutput = json.loads(result)
    return output


class MapMachine(StateMachine):
    """A map from keys to texts: what ``key_value_model`` says, replicated."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        """Carry out one operation."""
        kind, key, *rest = json.loads(command)
        value = self.values.get(key)
        match kind:
            case "put":
                self.values[key] = rest[0]
            case "append":
                self.values[key] = (value or "") + rest[0]
            case "delete":
                self.values.pop(key, None)
                return json.dumps(value is not None).encode()
            case _:
                if value == rest[0]:
                    self.values[key] = rest[1]
                return json.dumps(value == rest[0]).encode()
        return b"null"

    def validate(self, command: bytes) -> None:
        """Refuse what is none of the operations."""
        fields = json.loads(command)
        if not isinstance(fields, list) or not fields or fields[0] not in _KINDS:
            raise InvalidCommand(f"{command!r} is none of {sorted(_KINDS)}")

    def query(self, query: bytes) -> bytes:
        """Return the value of a key, as JSON."""
        return json.dumps(self.values.get(query.decode())).encode()

    def snapshot(self) -> bytes:
        """Return all pairs."""
        return json.dumps(sorted(self.values.items())).encode()

    def restore(self, snapshot: bytes) -> None:
        """Take over all pairs."""
        self.values = dict(json.loads(snapshot))
