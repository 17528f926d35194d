"""The frames of a connection before h2 sees them (RFC 9113 §4): GOAWAY is taken out, and plain DATA goes past it.

h2 takes a GOAWAY for the end: from then on it refuses every frame of the streams under way (python-hyper/h2#1181). But
a server that closes in order, for the age of the connection or to stop, says by it only that it takes no new streams;
those up to the number it names are still answered.

A DATA frame without flags changes nothing but the windows of flow control. For one of a few bytes h2 runs through more
code than all the rest of a node that hears a heartbeat: a fifth of what an idle node costs. So those of links are read
and written here, and whoever takes one past h2 gives its bytes back to the peer's window itself.
"""

from __future__ import annotations

import attrs

__all__ = ["HEADER_BYTES", "FrameFilter", "Goaway", "encode_data", "encode_window_update", "plain_data_at"]

# What a client begins with (RFC 9113 §3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
_DATA, _HEADERS, _PUSH_PROMISE, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 5, 7, 8, 9
_END_HEADERS = 4
# The kind and the flags of a DATA frame that ends nothing and is not padded.
_PLAIN_DATA = bytes((_DATA, 0))
# Length, kind and flags of a WINDOW_UPDATE; its stream and what is added to the window follow.
_WINDOW_UPDATE_START = bytes((0, 0, 4, _WINDOW_UPDATE, 0))
# A reserved bit stands before each number of a stream.
_STREAM_ID_MASK = (1 << 31) - 1


@attrs.frozen
class Goaway:
    """What a server says when it goes away."""

    # Streams above this one were not looked at, and never will be.
    last_stream_id: int
    # 0 for a close in order.
    error_code: int
    debug: str


class FrameFilter:
    """Passes on the bytes of a connection, and knows where frames begin.

    It holds at most one GOAWAY, or the header of a frame.
    """

    def __init__(self, *, client_side: bool) -> None:
        """Begin with a connection. On a server's side, where a GOAWAY is of no interest, it is passed on too."""
        self._takes_goaway = client_side
        self._held = bytearray()
        # Bytes that the frame under way has still to come; at first, what a client says before all frames.
        self._passing = 0 if client_side else len(_PREFACE)
        # Headers have begun, and only a CONTINUATION may follow.
        self._is_in_headers = False

    @property
    def is_at_frame(self) -> bool:
        """Whether what comes next is a frame that may be of any kind."""
        return not (self._held or self._passing or self._is_in_headers)

    def feed(self, data: bytes) -> tuple[bytes, list[Goaway]]:
        """Take what came next; return what h2 is to see, and the GOAWAY frames that are complete now."""
        found: list[Goaway] = []
        if not self._held and self._passing >= len(data):
            # In the middle of a long frame.
            self._passing -= len(data)
            return data, found
        passed: list[bytes] = []
        unread = bytes(self._held) + data if self._held else data
        self._held.clear()
        position = min(self._passing, len(unread))
        passed.append(unread[:position])
        self._passing -= position
        while len(unread) - position >= HEADER_BYTES:
            length = int.from_bytes(unread[position : position + 3], "big")
            end = position + HEADER_BYTES + length
            kind, flags = unread[position + 3], unread[position + 4]
            if kind == _GOAWAY and self._takes_goaway:
                if end > len(unread):
                    break
                found.append(_read(unread[position + HEADER_BYTES : end]))
            else:
                if kind in (_HEADERS, _PUSH_PROMISE, _CONTINUATION):
                    self._is_in_headers = not flags & _END_HEADERS
                passed.append(unread[position:end])
                self._passing = max(0, end - len(unread))
            position = min(end, len(unread))
        self._held += unread[position:]
        return b"".join(passed), found


def _read(payload: bytes) -> Goaway:
    return Goaway(
        int.from_bytes(payload[:4], "big") & _STREAM_ID_MASK,
        int.from_bytes(payload[4:8], "big"),
        payload[8:].decode(errors="replace"),
    )


# --- DATA and WINDOW_UPDATE (RFC 9113 §6.1, §6.9) ---


def plain_data_at(data: bytes, position: int) -> tuple[int, bytes] | None:
    """Return the stream and the payload of the frame that begins here; None unless it is whole DATA without flags."""
    start = position + HEADER_BYTES
    end = start + int.from_bytes(data[position : position + 3], "big")
    if data[position + 3 : position + 5] != _PLAIN_DATA or not start <= end <= len(data):
        return None
    return int.from_bytes(data[position + 5 : start], "big") & _STREAM_ID_MASK, data[start:end]


def encode_data(stream_id: int, payload: bytes) -> bytes:
    """Return a DATA frame without flags."""
    return b"%b%b%b%b" % (len(payload).to_bytes(3, "big"), _PLAIN_DATA, stream_id.to_bytes(4, "big"), payload)


def encode_window_update(stream_id: int, size: int) -> bytes:
    """Return the frame that lets a peer send more, on one stream, or with 0 on the whole connection."""
    return _WINDOW_UPDATE_START + stream_id.to_bytes(4, "big") + size.to_bytes(4, "big")
