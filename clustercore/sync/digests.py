"""Digests of a replica, by which two find out where they differ, without telling what they hold.

The records of a kind, each of one field group of one entity, are spread over 256 buckets, and each bucket over 16
leaves, by a hash of the entity's id, so that all groups of an entity share a leaf. A digest is a sum of hashes, one for
each record, tombstones among them: so it does not depend on the order in which records came, and a change of one record
is one subtraction and one addition, in whatever bucket (Bellare and Micciancio, "A New Paradigm for Collision-free
Hashing", EUROCRYPT 1997, section 5).

The digest of a whole kind travels with all its 128 bits. Those of buckets, leaves and records are cut short, after
being hashed with a *salt* that each comparison draws: what one takes for equal by accident, the next one does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import attrs

__all__ = [
    "BUCKETS",
    "LEAVES",
    "ROOT_BYTES",
    "SHORT_BYTES",
    "SPLIT",
    "STAMP_BYTES",
    "DigestTree",
    "Leaf",
    "leaf_of",
    "stamp_of",
]

BUCKETS = 256
SPLIT = 16
LEAVES = BUCKETS * SPLIT

ROOT_BYTES = 16
# Of a bucket's or a leaf's digest on the wire. One comparison in 4,000,000,000 takes a bucket that differs for equal.
SHORT_BYTES = 4
# Of a record's. A comparison sends a few thousand of them at most, and none may be missed for the others' sake.
STAMP_BYTES = 6

_MODULUS = 1 << (8 * ROOT_BYTES)


def leaf_of(entity_id: str) -> int:
    """Return the leaf, from 0 to 4095, of an entity; its bucket is a sixteenth of that."""
    return int.from_bytes(blake2b(entity_id.encode(), digest_size=2).digest(), "big") % LEAVES


def stamp_of(salt: bytes, record_hash: int) -> bytes:
    """Return what a record's hash is shortened to in a comparison with this salt."""
    return blake2b(record_hash.to_bytes(ROOT_BYTES, "big"), digest_size=STAMP_BYTES, key=salt).digest()


def _hash_record(entity_id: str, group: str, state: bytes) -> int:
    hasher = blake2b(digest_size=ROOT_BYTES)
    # The lengths keep the id and the group apart.
    for part in (entity_id.encode(), group.encode(), state):
        hasher.update(len(part).to_bytes(4, "big"))
        hasher.update(part)
    return int.from_bytes(hasher.digest(), "big")


@attrs.define(eq=False)
class Leaf:
    """The records of a sixteenth of a bucket."""

    # The sum of all hashes.
    total: int = 0
    # By entity id and group.
    hashes: dict[tuple[str, str], int] = attrs.field(factory=dict)

    def in_order(self) -> Iterator[tuple[tuple[str, str], int]]:
        """Yield each record's key and hash, in the order of the keys: a transfer that was cut goes on by it."""
        for key in sorted(self.hashes):
            yield key, self.hashes[key]


class DigestTree:
    """The running digests of one kind on one replica.

    Its memory is one hash a record; an update costs one hash too.
    """

    def __init__(self) -> None:
        self._total = 0
        self._buckets = [0] * BUCKETS
        self._leaves: dict[int, Leaf] = {}

    def __len__(self) -> int:
        return sum(len(leaf.hashes) for leaf in self._leaves.values())

    def set(self, entity_id: str, group: str, state: bytes | None) -> None:
        """Take note of what the replica holds of a record from now on; None: nothing any more."""
        number = leaf_of(entity_id)
        leaf = self._leaves.get(number)
        if leaf is None:
            leaf = self._leaves[number] = Leaf()
        key = entity_id, group
        change = -leaf.hashes.get(key, 0)
        if state is None:
            leaf.hashes.pop(key, None)
        else:
            new = _hash_record(entity_id, group, state)
            leaf.hashes[key] = new
            change += new
        leaf.total = (leaf.total + change) % _MODULUS
        self._buckets[number // SPLIT] = (self._buckets[number // SPLIT] + change) % _MODULUS
        self._total = (self._total + change) % _MODULUS
        if not leaf.hashes:
            del self._leaves[number]

    @property
    def root(self) -> bytes:
        """The digest of all records."""
        return self._total.to_bytes(ROOT_BYTES, "big")

    def buckets(self, salt: bytes) -> tuple[bytes, ...]:
        """Return the short digest of each bucket."""
        return tuple(_short(salt, total) for total in self._buckets)

    def leaves(self, bucket: int, salt: bytes) -> tuple[bytes, ...]:
        """Return the short digest of each leaf of a bucket."""
        return tuple(_short(salt, self.leaf(number).total) for number in _leaves_of(bucket))

    def leaf(self, number: int) -> Leaf:
        """Return a leaf, to be read only."""
        return self._leaves.get(number) or _NO_RECORDS

    def stamps(self, number: int, salt: bytes) -> tuple[bytes, ...]:
        """Return the stamp of each record of a leaf, in no order that means anything."""
        return tuple(stamp_of(salt, found) for found in self.leaf(number).hashes.values())

    def differing_leaves(self, bucket: int, salt: bytes, theirs: Iterable[bytes]) -> list[int]:
        """Return the leaves of a bucket in which a replica with these digests holds something else."""
        mine = self.leaves(bucket, salt)
        return [number for number, one, other in zip(_leaves_of(bucket), mine, theirs, strict=True) if one != other]


_NO_RECORDS = Leaf()


def _leaves_of(bucket: int) -> range:
    return range(bucket * SPLIT, (bucket + 1) * SPLIT)


def _short(salt: bytes, total: int) -> bytes:
    return blake2b(total.to_bytes(ROOT_BYTES, "big"), digest_size=SHORT_BYTES, key=salt).digest()
