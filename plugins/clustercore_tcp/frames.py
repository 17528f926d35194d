"""What is on the wire: frames, and the first of them, which says what a connection is for.

Both sides send frames. A frame is

    length: 4 bytes   big-endian, of the kind and the payload together
    checksum: 4 bytes big-endian, CRC-32 (that of zlib) of the kind and the payload
    kind: 1 byte      see ``Kind``
    payload: the rest

and so at most ``max_message_bytes`` and a few bytes; a longer one is refused by its length, before anything of it is
kept. The dialling side begins with the eight bytes ``MAGIC``, so that what speaks another protocol, or random bytes,
are found out at once, and then with OPEN. The other side answers ACCEPTED, or REFUSED and closes.

    OPEN      1 byte: lane "c" or "b" of a link, or "s" for calls of services; then the token in UTF-8, and if the
              client means a certain cluster, a zero byte and the cluster's id
    MESSAGE   of a link, both ways: an Envelope of protos/clustercore/v1/raft.proto
    UNARY, STREAM      of calls, one at a time: 2 bytes length of the method's name, the name, the request
    RESPONSE  the response of UNARY, or one of STREAM
    END       the good end of a STREAM, after which, as after a RESPONSE to UNARY, comes the next call
    FAILED    instead: 1 byte, "r" if the request is refused and "f" if it failed, then why in UTF-8; as "R" or "F",
              4 bytes come before that: after how many milliseconds to try again, all ones for never
    PING, PONG         either side at any time; the payload is empty

TCP's own checksum is 16 bits and lets one altered segment in some ten thousand pass (Stone and Partridge, "When the CRC
and TCP Checksum Disagree", SIGCOMM 2000); a frame that fails its own closes the connection.
"""

from __future__ import annotations

from enum import IntEnum
from zlib import crc32

from clustercore.interfaces import LinkClosed

__all__ = ["HEADER_BYTES", "MAGIC", "MAX_OPEN_BYTES", "FrameReader", "Kind", "encode_frame"]

# 0x89 and the line ends give away a connection that is not transparent; the digit is the version of this format.
MAGIC = b"\x89CLCR1\r\n"

HEADER_BYTES = 9
# Of the first frame of a connection, before the token in it is known to be right. Headers of HTTP are as long at most.
MAX_OPEN_BYTES = 64 * 1024


class Kind(IntEnum):
    """What a frame is."""

    OPEN = 1
    ACCEPTED = 2
    REFUSED = 3
    MESSAGE = 4
    UNARY = 5
    STREAM = 6
    RESPONSE = 7
    END = 8
    FAILED = 9
    PING = 10
    PONG = 11


_KINDS = {int(kind): kind for kind in Kind}
_KIND_BYTES = {kind: bytes([kind]) for kind in Kind}
_KIND_CHECKSUMS = {kind: crc32(encoded) for kind, encoded in _KIND_BYTES.items()}


def encode_frame(kind: Kind, payload: bytes = b"") -> bytes:
    """Return a whole frame."""
    checksum = crc32(payload, _KIND_CHECKSUMS[kind])
    return b"%b%b%b%b" % (
        (len(payload) + 1).to_bytes(4, "big"),
        checksum.to_bytes(4, "big"),
        _KIND_BYTES[kind],
        payload,
    )


class FrameReader:
    """Takes bytes as they come and gives frames. Holds at most one frame, and what came with its end."""

    def __init__(self, max_payload_bytes: int) -> None:
        self._max_message_bytes = max_payload_bytes
        # What the next frame may have, looked at before anything of it is kept; and where that is from.
        self._allowed, self._reason = max_payload_bytes, "max_message_bytes allows"
        self._unread = bytearray()

    def expect_first(self) -> None:
        """Take only a short frame next: nobody knows yet who sends it."""
        self._allowed, self._reason = MAX_OPEN_BYTES, "the first one may have"

    def expect_any(self) -> None:
        """Take frames as long as messages may be."""
        self._allowed, self._reason = self._max_message_bytes, "max_message_bytes allows"

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left of what came."""
        return not self._unread

    def feed(self, data: bytes | bytearray) -> None:
        """Take what came next."""
        self._unread += data

    def take_magic(self) -> bool:
        """Take the first bytes of a connection; False if more are needed.

        Raises: LinkClosed, as soon as a byte is wrong.
        """
        start = bytes(self._unread[: len(MAGIC)])
        if start != MAGIC[: len(start)]:
            raise LinkClosed(f"it does not speak clustercore's TCP protocol, version 1: it begins with {start!r}")
        if len(start) < len(MAGIC):
            return False
        del self._unread[: len(MAGIC)]
        return True

    def take(self) -> tuple[Kind, bytes] | None:
        """Take the next frame; None if more bytes are needed.

        Raises: LinkClosed if what came is no frame.
        """
        unread = self._unread
        if len(unread) < HEADER_BYTES:
            return None
        length = int.from_bytes(unread[:4], "big")
        if not 1 <= length <= self._allowed + 1:
            raise LinkClosed(f"a frame of {length} bytes; {self._reason} {self._allowed}")
        end = HEADER_BYTES - 1 + length
        if len(unread) < end:
            return None
        kind = _KINDS.get(unread[8])
        payload = bytes(unread[HEADER_BYTES:end])
        if kind is None:
            raise LinkClosed(f"a frame of unknown kind {unread[8]}")
        if int.from_bytes(unread[4:8], "big") != crc32(payload, _KIND_CHECKSUMS[kind]):
            raise LinkClosed(f"a frame of kind {kind.name} whose checksum is wrong: it was altered on its way")
        del unread[:end]
        return kind, payload
