"""The digest trees of a store, one a kind, kept up with it by its log of changes."""

from __future__ import annotations

from collections.abc import Collection

import attrs
import trio

from clustercore.sync.digests import ROOT_BYTES, DigestTree
from clustercore.sync.entities import EntityStore

__all__ = ["EMPTY_ROOT", "DigestTrees"]

# Changes that are hashed without letting other tasks run: about a millisecond.
_CHANGES_PER_CHECKPOINT = 250

# The digest of a kind of which there is nothing.
EMPTY_ROOT = bytes(ROOT_BYTES)


@attrs.define(eq=False)
class _Built:
    """Trees, and what they are of."""

    # Of which epoch of the store, after how many removals, and of its changes up to which number.
    epoch: str
    removals: int
    seq: int = 0
    trees: dict[str, DigestTree] = attrs.field(factory=dict)

    def is_of(self, store: EntityStore) -> bool:
        """Whether the log of changes tells all that happened since."""
        return (self.epoch, self.removals) == (store.epoch, store.removals)


class DigestTrees:
    """What a store holds, as digests. They follow it when they are asked for, and cost nothing until then.

    What is on its way to the disk is among it: whoever tells of them calls the store's ``settle`` before.
    """

    def __init__(self, store: EntityStore) -> None:
        self._store = store
        self._built = self._building = _Built("", 0)
        self._turn = trio.Lock()

    async def catch_up(self) -> None:
        """Take in what has changed in the store. Others run meanwhile, and what they change is taken in, too.

        Where the log does not tell all, because tombstones were collected, they are built anew beside those there are:
        what is in the middle of a comparison goes on with these, for in half of a tree nothing would be missed.

        Cancellation: it goes on the next time.
        """
        async with self._turn:
            if not self._building.is_of(self._store):
                self._building = _Built(self._store.epoch, self._store.removals)
            building = self._building
            while True:
                part = self._store.changes(building.seq, _CHANGES_PER_CHECKPOINT, is_staged_told=True)
                for change in part.changes:
                    tree = building.trees.setdefault(change.kind, DigestTree())
                    tree.set(change.entity_id, change.group, change.state.encoded)
                building.seq = part.next_seq
                if not part.has_more:
                    self._built = building
                    return
                await trio.lowlevel.checkpoint()

    @property
    def seq(self) -> int:
        """The store's changes up to this one are in the digests."""
        return self._built.seq

    def kinds(self, wanted: Collection[str]) -> list[str]:
        """Return the kinds that there is something of, among the wanted ones, in order; all if none is named."""
        return sorted(kind for kind in self._built.trees if not wanted or kind in wanted)

    def of(self, kind: str) -> DigestTree:
        """Return a kind's tree, to be read only."""
        tree = self._built.trees.get(kind)
        return DigestTree() if tree is None else tree

    def root(self, kind: str) -> bytes:
        """Return the digest of all of a kind."""
        tree = self._built.trees.get(kind)
        return EMPTY_ROOT if tree is None else tree.root
