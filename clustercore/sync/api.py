"""Entities: what an application calls, whichever way a kind is replicated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, TypeVar

from clustercore.sync.kinds import EntityKind

__all__ = ["Entities"]

E = TypeVar("E")


class Entities(ABC):
    """Reads and edits of entities. ``EntityStore`` merges edits, ``RaftEntities`` puts them in one order."""

    @abstractmethod
    def get(self, kind: EntityKind[E], entity_id: str) -> E | None:
        """Return an entity as this node knows it; None if there is none, or not all of it has come yet.

        Raises: ValueError if another node wrote what this node's class cannot hold.
        """

    @abstractmethod
    def ids(self, kind: EntityKind[Any]) -> Iterator[str]:
        """Yield the ids of the entities of a kind that are there, in no order. Change nothing meanwhile."""

    @abstractmethod
    async def put(self, kind: EntityKind[E], entity_id: str, entity: E) -> bool:
        """Make an entity what it says: create it, or change the groups that differ. None may: then nothing is written.

        Returns whether the edit holds. It does not if it met a concurrent one that wins over it; see the conflict log.

        Durability: on return the edit survives a power cut: on this node, or on a majority for a kind that goes through
            the Raft log.
        Cancellation: the edit may have been made, or may still be.
        Raises: InvalidCommand if the id is empty or longer than 255 bytes, or a field has no JSON value; StorageError,
            or for a kind in the Raft log what ``Node.propose`` raises.
        """

    @abstractmethod
    async def update(self, kind: EntityKind[Any], entity_id: str, **fields: Any) -> bool:
        """Change some fields of an entity. Return whether it was there, and the edit holds; else nothing is changed.

        The fields of a group are written together: of a group {state, progress} a change of ``progress`` also says
        again which state it belongs to.

        Durability, Cancellation and Raises: as ``put``.
        """

    @abstractmethod
    async def delete(self, kind: EntityKind[Any], entity_id: str) -> bool:
        """Delete an entity. Return whether it was there, and the deletion holds; else nothing is changed.

        Durability, Cancellation and Raises: as ``put``.
        """
