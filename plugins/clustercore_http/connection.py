"""One HTTP/1.1 connection: h11 for the protocol, a socket below it, and a watch that ends it when its peer is silent.

Bodies that last, those of links and streams, are lines; an empty one says nothing but that its sender is there. Each
side writes one when it has written nothing for ``keepalive_time``, so a peer from which nothing was read for that and
``keepalive_timeout`` together is silent, as is one that takes nothing of what is being sent for so long. A connection
on which nobody waits is not judged.
"""

from __future__ import annotations

from typing import Any

import h11
import trio

from clustercore.interfaces import LinkClosed, WatchedConnection

__all__ = ["HttpConnection", "Lines", "size_of"]


class HttpConnection(WatchedConnection):
    """Sends and receives HTTP events. One task sends and one receives at a time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take over a socket, as ``WatchedConnection`` does."""
        super().__init__(*args, **kwargs)
        self.h11 = h11.Connection(our_role=h11.CLIENT if self.is_client else h11.SERVER)
        # Whether a body that lasts is being sent, to which the watch adds empty lines, and whether one is received.
        self.says_lines = False
        self.expects_lines = False

    @property
    def is_quiet(self) -> bool:
        return super().is_quiet and not self.h11.trailing_data[0]

    # --- Sending ---

    async def send(self, *events: Any) -> None:
        """Hand over HTTP events whole.

        Cancellation: before the first byte, nothing was sent; after it, the connection closes.
        Raises: LinkClosed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        await self.wait_turn()
        if self.end_reason is not None:
            raise self.closed()
        try:
            data = b"".join([self.h11.send(event) or b"" for event in events])
        except h11.LocalProtocolError as exc:
            self.close(f"it is past the point where this could be said: {exc}")
            raise self.closed() from exc
        await self.write(data)

    # --- Receiving ---

    async def next_event(self) -> Any:
        """Wait for the next HTTP event.

        Cancellation: none is lost.
        Raises: LinkClosed if the connection has ended, or the peer does not speak HTTP.
        """
        while True:
            if self.end_reason is not None:
                raise self.closed()
            try:
                event = self.h11.next_event()
            except h11.RemoteProtocolError as exc:
                self.close(f"refused: it does not speak HTTP/1.1 as it should: {exc}")
                raise self.closed() from exc
            if event is h11.NEED_DATA:
                await self.read_more()
            elif isinstance(event, h11.ConnectionClosed):
                self.close("ended by the peer")
                raise self.closed()
            else:
                return event

    async def read_more(self) -> None:
        """Read once, for the next event. Raises: LinkClosed."""
        # No bytes are the peer's end; whether it was the right moment for it, h11 says with the next event.
        self.h11.receive_data(await self.read())

    async def read_body(self, max_bytes: int) -> bytes:
        """Read the rest of a message, up to its end.

        Raises: LinkClosed; also if it is longer than allowed.
        """
        parts: list[bytes] = []
        size = 0
        while True:
            event = await self.next_event()
            if isinstance(event, h11.EndOfMessage):
                return b"".join(parts)
            size += len(event.data)
            if size > max_bytes:
                self.close(
                    f"refused: a body of more than {max_bytes} bytes, which is all that max_message_bytes allows"
                )
                raise self.closed()
            parts.append(bytes(event.data))

    # --- Keepalive ---

    def check_alive(self, nursery: trio.Nursery) -> None:
        self._close_if_silent()
        is_line_due = (
            self.says_lines
            and not self.is_writing
            and trio.current_time() >= self.last_written + self.options.keepalive_time_s
        )
        if is_line_due:
            nursery.start_soon(self._send_empty_line)

    async def _send_empty_line(self) -> None:
        """Say that we are here, if the connection is still open and nobody says anything else."""
        if self.is_writing or self.end_reason is not None or not self.says_lines:
            return
        self.counters.pings += 1
        try:
            await self.send(h11.Data(data=b"\n"))
        except LinkClosed:
            return

    def _close_if_silent(self) -> None:
        now = trio.current_time()
        patience_s = self.options.keepalive_time_s + self.options.keepalive_timeout_s
        silent_s = now - self.last_read
        stuck_s = min(silent_s, now - self.last_written) if self.is_writing else 0.0
        if self.says_lines and stuck_s >= patience_s:
            self.give_up("nothing could be sent and nothing was read", stuck_s)
        elif self.expects_lines and self.is_reading and silent_s >= patience_s:
            self.give_up("nothing was read", silent_s)


class Lines:
    """The lines of a body that lasts, without the empty ones. Holds at most one, and what came with its end."""

    def __init__(self, connection: HttpConnection, max_message_bytes: int) -> None:
        self._connection = connection
        self._max_message_bytes = max_message_bytes
        self._unread = bytearray()
        # Up to here there is no line end: what has been looked through is not looked through again.
        self._searched = 0

    async def next(self) -> bytes | None:
        """Wait for the next line; None at the end of the body.

        Cancellation: no line is lost.
        Raises: LinkClosed; also if a line is longer than allowed, or cut off.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            line = self._take()
            if line:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return line
            if line is not None:
                continue
            event = await self._connection.next_event()
            if isinstance(event, h11.Data):
                self._unread += event.data
            elif isinstance(event, h11.EndOfMessage):
                if self._unread:
                    raise self._refuse("a line that is cut off")
                return None

    def _take(self) -> bytes | None:
        """Return the first whole line without its end; None if there is none."""
        end = self._unread.find(b"\n", self._searched)
        if size_of(self._unread, end) > self._max_message_bytes:
            raise self._refuse(f"a line of more than max_message_bytes allows, {self._max_message_bytes}")
        if end < 0:
            self._searched = len(self._unread)
            return None
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        self._searched = 0
        return line

    def _refuse(self, what: str) -> LinkClosed:
        self._connection.close(f"refused: {what}")
        return self._connection.closed()


def size_of(line: bytes | bytearray, end: int = -1) -> int:
    """Return how many bytes a line of JSON counts for: three quarters of its text, which is what base 64 makes of them.

    A line that has no end yet counts as far as it goes.
    """
    return (len(line) if end < 0 else end) * 3 // 4
