"""GOAWAY (RFC 9113 §6.8) taken out of what a server sends, before h2 sees it.

h2 takes a GOAWAY for the end: from then on it refuses every frame of the streams under way (python-hyper/h2#1181). But
a server that closes in order, for the age of the connection or to stop, says by it only that it takes no new streams;
those up to the number it names are still answered.
"""

from __future__ import annotations

import attrs

__all__ = ["Goaway", "GoawayFilter"]

_HEADER_BYTES = 9
_GOAWAY = 7
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


class GoawayFilter:
    """Passes on the bytes of a connection but for GOAWAY frames. Holds at most one of these, or a frame's header."""

    def __init__(self) -> None:
        self._held = bytearray()
        # Bytes that the frame under way has still to come.
        self._passing = 0

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
        while len(unread) - position >= _HEADER_BYTES:
            length = int.from_bytes(unread[position : position + 3], "big")
            end = position + _HEADER_BYTES + length
            if unread[position + 3] == _GOAWAY:
                if end > len(unread):
                    break
                found.append(_read(unread[position + _HEADER_BYTES : end]))
            else:
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
