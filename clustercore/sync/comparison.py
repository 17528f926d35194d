"""What replicas ask each other to find out where they differ; see ``digests``, and ``messages`` for all else."""

from __future__ import annotations

from typing import Any

import attrs

from clustercore.interfaces import MalformedMessage
from clustercore.sync.changes import Change
from clustercore.sync.digests import BUCKETS, LEAVES, ROOT_BYTES, SHORT_BYTES, SPLIT, STAMP_BYTES
from clustercore.sync.wire import (
    CHANGES,
    DATA,
    LIMIT,
    NUMBER,
    NUMBERS,
    TEXT,
    WALL_MS,
    Field,
    SyncMessage,
    TimedMessage,
    data_by_name,
    maybe_message,
    messages,
    pieces,
)

__all__ = [
    "BucketsRequest",
    "BucketsResponse",
    "CompareRequest",
    "CompareResponse",
    "FetchRequest",
    "FetchResponse",
    "LeafStamps",
    "Place",
]

_MAX_SALT_BYTES = 64


def _check_salt(instance: object, attribute: attrs.Attribute[bytes], salt: bytes) -> None:
    if not 1 <= len(salt) <= _MAX_SALT_BYTES:
        raise MalformedMessage(f"a salt has {len(salt)} bytes; it must be 1 to {_MAX_SALT_BYTES}")


def _check_buckets(instance: object, attribute: attrs.Attribute[tuple[int, ...]], buckets: tuple[int, ...]) -> None:
    # One that is asked for twice would make the answer larger than all there is.
    if len(set(buckets)) != len(buckets) or any(bucket >= BUCKETS for bucket in buckets):
        raise MalformedMessage(
            f"of {len(buckets)} buckets, each must be one of the {BUCKETS} there are, and named once"
        )


def _check_digests(size: int) -> Any:
    def check(instance: object, attribute: attrs.Attribute[Any], pairs: tuple[tuple[str, bytes], ...]) -> None:
        for kind, data in pairs:
            if len(data) != size:
                raise MalformedMessage(f"the digests of kind {kind!r} have {len(data)} bytes; they must have {size}")

    return check


@attrs.frozen(kw_only=True)
class CompareRequest(SyncMessage):
    """The digest of each kind that the receiver holds."""

    session_id: bytes
    salt: bytes = attrs.field(validator=_check_salt)
    # Each kind's, by name.
    roots: tuple[tuple[str, bytes], ...] = attrs.field(validator=_check_digests(ROOT_BYTES))

    SCHEMA = (Field(1, "session_id", DATA), Field(2, "salt", DATA), Field(3, "roots", data_by_name()))


@attrs.frozen(kw_only=True)
class CompareResponse(TimedMessage):
    """The digests of the buckets of each kind that differs."""

    # Where the source was when it compared: whoever has fetched all that differs holds all up to here.
    seq: int
    # Of each kind: those of its buckets, one after another.
    buckets: tuple[tuple[str, bytes], ...] = attrs.field(default=(), validator=_check_digests(BUCKETS * SHORT_BYTES))

    SCHEMA = (Field(1, "seq", NUMBER), Field(2, "buckets", data_by_name()), WALL_MS)


@attrs.frozen(kw_only=True)
class BucketsRequest(SyncMessage):
    """A question for the digests of the leaves of some buckets of one kind."""

    session_id: bytes
    salt: bytes = attrs.field(validator=_check_salt)
    kind: str
    buckets: tuple[int, ...] = attrs.field(validator=_check_buckets)

    SCHEMA = (
        Field(1, "session_id", DATA),
        Field(2, "salt", DATA),
        Field(3, "kind", TEXT),
        Field(4, "buckets", NUMBERS),
    )


@attrs.frozen
class BucketsResponse(SyncMessage):
    """For each bucket that was asked for, in that order, the digests of its leaves, one after another."""

    leaves: tuple[bytes, ...]

    SCHEMA = (Field(1, "leaves", pieces(SPLIT * SHORT_BYTES)),)


def _check_leaf(instance: object, attribute: attrs.Attribute[int], leaf: int) -> None:
    if leaf >= LEAVES:
        raise MalformedMessage(f"leaf {leaf} is beyond the {LEAVES} that there are")


@attrs.frozen
class LeafStamps(SyncMessage):
    """A leaf, and the stamps of what the receiver holds in it."""

    leaf: int = attrs.field(validator=_check_leaf)
    stamps: tuple[bytes, ...]

    SCHEMA = (Field(1, "leaf", NUMBER), Field(2, "stamps", pieces(STAMP_BYTES)))


@attrs.frozen
class Place(SyncMessage):
    """A place among the records of a leaf, which are in the order of entity id and group."""

    entity_id: str
    group: str

    SCHEMA = (Field(1, "entity_id", TEXT), Field(2, "group", TEXT))


@attrs.frozen(kw_only=True)
class FetchRequest(SyncMessage):
    """A question for the records of some leaves of one kind that the receiver does not hold like this."""

    session_id: bytes
    salt: bytes = attrs.field(validator=_check_salt)
    kind: str
    leaves: tuple[LeafStamps, ...]
    # Go on in the first leaf after this record.
    after: Place | None = None
    max_changes: int
    max_bytes: int

    SCHEMA = (
        Field(1, "session_id", DATA),
        Field(2, "salt", DATA),
        Field(3, "kind", TEXT),
        Field(4, "leaves", messages(LeafStamps)),
        Field(5, "after", maybe_message(Place)),
        Field(6, "max_changes", LIMIT),
        Field(7, "max_bytes", LIMIT),
    )


@attrs.frozen(kw_only=True)
class FetchResponse(TimedMessage):
    """Changes that the receiver does not hold like this."""

    changes: tuple[Change, ...] = ()
    # How many of the leaves are done with.
    done: int = 0
    # Where the source is now.
    seq: int = 0

    SCHEMA = (Field(1, "changes", CHANGES), Field(2, "done", NUMBER), Field(3, "seq", NUMBER), WALL_MS)
