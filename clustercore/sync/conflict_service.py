"""The conflict log over the network: what ``clustercore conflicts`` asks a node.

Requests and responses are messages with one field of bytes, number 1, which holds JSON: what is in an entry is for
people, and may grow without a change of the schema.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs

from clustercore.interfaces import (
    MalformedMessage,
    NodeCompanion,
    NodeHandle,
    NodeSite,
    Service,
    ServiceError,
    ServiceTransport,
    encode_field,
    split_fields,
)
from clustercore.sync._proto.conflicts import FILE_DESCRIPTOR
from clustercore.sync.conflict_log import AmbiguousConflict, Conflict, ConflictLog

__all__ = ["ConflictClient", "ConflictDesk"]

SERVICE = "clustercore.v1.Conflicts"
# Entries of one answer, and how long they may be together: fewer of them come where values are large, but always one.
MAX_ENTRIES = 500
MAX_BYTES = 1 << 20


class ConflictDesk(NodeCompanion):
    """Answers questions about conflicts on the node's listener, and writes losing values back when asked to.

    Give it to the node: ``Node(..., companions=[ConflictDesk(store.conflicts, store.restore)])``.

    Args:
        log: Where they are logged.
        restore: Writes one back: ``EntityStore.restore`` or ``RaftEntities.restore``.
    """

    def __init__(self, log: ConflictLog, restore: Callable[[str], Awaitable[bool]]) -> None:
        self._log = log
        self._restore = restore

    def services(self, node: NodeHandle) -> Sequence[Service]:
        """Return the service."""
        answers = {"List": self._list, "Show": self._show, "Restore": self._write_back}
        return [Service(SERVICE, answers, descriptor=FILE_DESCRIPTOR)]

    async def run(self, site: NodeSite) -> None:
        """There is nothing to do but answer."""
        return None

    async def _list(self, request: bytes) -> bytes:
        asked = _unwrap(request)
        kind, entity_id = asked.get("kind"), asked.get("entity_id")
        found = [entry for entry in self._log if kind in (None, entry.kind) and entity_id in (None, entry.entity_id)]
        limit = asked.get("limit")
        limit = MAX_ENTRIES if not isinstance(limit, int) else max(0, min(limit, MAX_ENTRIES))
        counts = [attrs.asdict(count) for count in self._log.counts()]
        told = [entry.to_json() for entry in _newest(found, limit)]
        return _wrap({"total": len(found), "conflicts": told, "counts": counts})

    async def _show(self, request: bytes) -> bytes:
        try:
            entry = self._log.get(_id_of(request))
        except AmbiguousConflict as error:
            return _wrap({"conflict": None, "several": _several(error)})
        return _wrap({"conflict": None if entry is None else entry.to_json()})

    async def _write_back(self, request: bytes) -> bytes:
        try:
            return _wrap({"restored": await self._restore(_id_of(request))})
        except AmbiguousConflict as error:
            return _wrap({"restored": False, "several": _several(error)})


class ConflictClient:
    """Asks a node's ``ConflictDesk``.

    Args:
        transport: A transport that carries services, entered.
        address: Where the node serves.

    Every method raises what ``ServiceTransport.call`` does, and MalformedMessage for an answer that is none.
    Cancellation: ``restore`` may be carried out all the same; the others change nothing.
    """

    def __init__(self, transport: ServiceTransport, address: str) -> None:
        self._transport = transport
        self._address = address

    async def list(
        self, *, kind: str | None = None, entity_id: str | None = None, limit: int = 50
    ) -> tuple[Sequence[Conflict], int, Sequence[dict[str, Any]]]:
        """Return the newest conflicts, oldest first; how many there are in all; and the counts by rule and nodes.

        The counts are of all conflicts of these kinds, also of those that the log has let go.

        Args:
            kind: Of this kind only.
            entity_id: Of entities with this id only.
            limit: How many at most. There may be fewer: an answer has at most 500, and about 1 MiB.
        """
        told = await self._ask("List", {"kind": kind, "entity_id": entity_id, "limit": limit})
        counts = [count for count in told["counts"] if kind in (None, count["kind"])]
        return [Conflict.from_json(entry) for entry in told["conflicts"]], told["total"], counts

    async def show(self, conflict_id: str) -> Conflict | None:
        """Return a conflict by its id, or the first digits of it; None if there is none.

        Raises: AmbiguousConflict if several begin with these digits.
        """
        entry = _one_of(conflict_id, await self._ask("Show", {"id": conflict_id}))["conflict"]
        return None if entry is None else Conflict.from_json(entry)

    async def restore(self, conflict_id: str) -> bool:
        """Write the losing value back on that node. Return whether there is such a conflict.

        Raises: AmbiguousConflict if several begin with these digits; nothing is written.
        """
        return bool(_one_of(conflict_id, await self._ask("Restore", {"id": conflict_id}))["restored"])

    async def _ask(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        return _read(await self._transport.call(self._address, f"{SERVICE}/{method}", _wrap(request)))


def _newest(found: Sequence[Conflict], limit: int) -> Sequence[Conflict]:
    """Return the newest of these, as many as one answer takes."""
    # Beside the values there are a few hundred bytes.
    taken, left = 0, MAX_BYTES
    while taken < min(limit, len(found)):
        entry = found[-1 - taken]
        left -= sum(len(value or b"") for value in (entry.winner.value, entry.loser.value, entry.result))
        if left < 0 and taken:
            break
        taken += 1
    return found[len(found) - taken :]


def _several(error: AmbiguousConflict) -> dict[str, Any]:
    return {"ids": error.ids, "count": error.count}


def _one_of(conflict_id: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer about one conflict. Raises: AmbiguousConflict if it is about several."""
    if several := answer.get("several"):
        raise AmbiguousConflict(conflict_id, several["ids"], several["count"])
    return answer


def _wrap(value: dict[str, Any]) -> bytes:
    return encode_field(1, json.dumps(value, ensure_ascii=False).encode())


def _read(message: bytes) -> dict[str, Any]:
    """Return what a message holds. Raises: MalformedMessage."""
    try:
        (field,) = (field for number, _, field in split_fields(message) if number == 1 and isinstance(field, bytes))
        value = json.loads(field)
    except ValueError as error:
        raise MalformedMessage(f"this is no message about conflicts: {error}") from error
    if not isinstance(value, dict):
        raise MalformedMessage(f"this is no message about conflicts, but {type(value).__name__}")
    return value


def _unwrap(request: bytes) -> dict[str, Any]:
    try:
        return _read(request)
    except MalformedMessage as error:
        raise ServiceError(str(error)) from error


def _id_of(request: bytes) -> str:
    conflict_id = _unwrap(request).get("id")
    if not isinstance(conflict_id, str) or not conflict_id:
        raise ServiceError("the request names no conflict; give an id, or the first digits of one")
    return conflict_id
