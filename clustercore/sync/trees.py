"""The digest trees of a store, one a kind, kept up with it by its log of changes."""

from __future__ import annotations

from collections.abc import Collection

import trio

from clustercore.sync.digests import ROOT_BYTES, DigestTree
from clustercore.sync.entities import EntityStore

__all__ = ["DigestTrees"]

# Changes that are hashed without letting other tasks run: about a millisecond.
_CHANGES_PER_CHECKPOINT = 250

EMPTY_ROOT = bytes(ROOT_BYTES)


class DigestTrees:
    """What a store holds durably, as digests. They follow it when they are asked for, and cost nothing until then."""

    def __init__(self, store: EntityStore) -> None:
        self._store = store
        self._trees: dict[str, DigestTree] = {}
        # Of which epoch and floor of the store, and of its changes up to which number.
        self._epoch = ""
        self._floor = 0
        self._seq = 0
        self._turn = trio.Lock()

    async def catch_up(self) -> None:
        """Take in what has changed in the store. Others run meanwhile, and what they change is taken in, too.

        Cancellation: it goes on the next time.
        """
        async with self._turn:
            if (self._epoch, self._floor) != (self._store.epoch, self._store.floor):
                # What the log does not tell: tombstones that were collected.
                self._trees, self._seq = {}, 0
                self._epoch, self._floor = self._store.epoch, self._store.floor
            while True:
                part = self._store.changes(self._seq, _CHANGES_PER_CHECKPOINT)
                for change in part.changes:
                    tree = self._trees.setdefault(change.kind, DigestTree())
                    tree.set(change.entity_id, change.group, change.state.encoded)
                self._seq = part.next_seq
                if not part.has_more:
                    return
                await trio.lowlevel.checkpoint()

    @property
    def seq(self) -> int:
        """The store's changes up to this one are in the digests."""
        return self._seq

    def kinds(self, wanted: Collection[str]) -> list[str]:
        """Return the kinds that there is something of, among the wanted ones, in order; all if none is named."""
        return sorted(kind for kind in self._trees if not wanted or kind in wanted)

    def of(self, kind: str) -> DigestTree:
        """Return a kind's tree, to be read only."""
        return self._trees.get(kind) or DigestTree()

    def root(self, kind: str) -> bytes:
        """Return the digest of all of a kind."""
        tree = self._trees.get(kind)
        return EMPTY_ROOT if tree is None else tree.root
