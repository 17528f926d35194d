"""The receiving half of a gRPC stream: from the data of HTTP/2 frames to whole messages, and the window given back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from grpclib.const import Status
from grpclib.protocol import Buffer

if TYPE_CHECKING:
    from clustercore_grpc.stream import MessageStream

__all__ = ["Inbox"]

# A flag for compression and the length (gRPC over HTTP2, "Length-Prefixed-Message").
_PREFIX_BYTES = 5

# Read bytes that may go unacknowledged: acknowledging each message alone costs more than the message. Far below a
# stream's window, so it never stalls one.
_ACK_BYTES = 16 * 1024


class _Refused(Exception):
    """The peer sent what is not taken; carries the status to tell it."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Inbox(Buffer):
    """Takes DATA frames, gives whole messages."""

    def __init__(self, stream: MessageStream, acknowledge: Callable[[int], None]) -> None:
        super().__init__(acknowledge)
        self.messages: deque[bytes] = deque()
        self._stream = stream
        self._acknowledge = acknowledge
        self._partial = bytearray()
        # What was taken, and not given back to the peer's window: of what h2 has seen, and of what went past it.
        self._unread_bytes = 0
        self.unseen_bytes = 0

    def add(self, data: bytes, ack_size: int) -> None:
        self._unread_bytes += ack_size
        if not self._stream.is_open:
            self._give_back()
            return
        self._take_in(data)

    def add_unseen(self, data: bytes) -> None:
        """Take what came in a frame that h2 has not seen, of a stream that is open."""
        self.unseen_bytes += len(data)
        self._take_in(data)

    def _take_in(self, data: bytes) -> None:
        self._partial += data
        try:
            self._split()
        except _Refused as exc:
            self._stream.refuse(exc.status, str(exc))
            return
        if self.messages:
            self._stream.wake_receivers()
        else:
            # All there is belongs to one message, which must not wait for a window it fills alone.
            self.acknowledge()

    def _split(self) -> None:
        partial, start = self._partial, 0
        while len(partial) - start >= _PREFIX_BYTES:
            body = start + _PREFIX_BYTES
            length = int.from_bytes(partial[start + 1 : body], "big")
            if partial[start]:
                raise _Refused(Status.UNIMPLEMENTED, "the message is compressed, which was not agreed on")
            if length > self._stream.max_message_bytes:
                allowed = self._stream.max_message_bytes
                raise _Refused(Status.RESOURCE_EXHAUSTED, f"message of {length} bytes; at most {allowed} are taken")
            if len(partial) < body + length:
                break
            self.messages.append(bytes(partial[body : body + length]))
            start = body + length
        del partial[:start]

    def take(self) -> bytes:
        message = self.messages.popleft()
        if not self.messages:
            self.acknowledge()
        return message

    def acknowledge(self) -> None:
        if self._unread_bytes + self.unseen_bytes >= _ACK_BYTES:
            self._give_back()

    def _give_back(self, *, is_released: bool = False) -> None:
        size, self._unread_bytes = self._unread_bytes, 0
        unseen, self.unseen_bytes = self.unseen_bytes, 0
        self._acknowledge(size)
        if unseen:
            self._stream.give_back(unseen, is_released=is_released)

    def eof(self) -> None:
        self._stream.wake_receivers()

    def unacked_size(self) -> int:
        """Say what is to be given back of a stream that is released. What h2 has not seen of it is."""
        size, self._unread_bytes = self._unread_bytes, 0
        self._give_back(is_released=True)
        return size

    def clear(self) -> None:
        self.messages.clear()
        self._partial.clear()
