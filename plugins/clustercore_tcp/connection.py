"""One connection: whole frames both ways, and a watch that ends it when its peer is silent.

A peer is silent when it could have been heard and was not. Someone waits to receive, nothing was read for
``keepalive_time`` and nothing came for ``keepalive_timeout`` after a PING; or someone waits to send, and for both times
together nothing of it could be handed over, because the socket's buffer is full. A connection on which nobody waits is
not judged: it may be full of what nobody has taken yet.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import trio

from clustercore.interfaces import LinkClosed, WatchedConnection
from clustercore_tcp.frames import FrameReader, Kind, encode_frame

__all__ = ["Connection"]


class Connection(WatchedConnection):
    """Sends and receives frames. One task sends and one receives at a time; PING and PONG come in between."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take over a socket, as ``WatchedConnection`` does."""
        super().__init__(*args, **kwargs)
        self._reader = FrameReader(self.options.max_message_bytes)
        self._is_magic_due = False
        self._put_back: tuple[Kind, bytes] | None = None
        self._is_pong_due = False
        self._pinged_at = -1.0

    @property
    def is_quiet(self) -> bool:
        return super().is_quiet and self._reader.is_empty

    # --- Sending ---

    async def send(self, kind: Kind, payload: bytes = b"", *, before: bytes = b"") -> None:
        """Hand over a whole frame, behind raw bytes.

        Cancellation: before the first byte, nothing was sent; after it, the connection closes.
        Raises: LinkClosed.
        """
        await self.wait_turn()
        await self._write(before + encode_frame(kind, payload) if before else encode_frame(kind, payload))
        if self._is_pong_due:
            await self._answer_ping()

    async def _write(self, data: bytes) -> None:
        if self.end_reason is None:
            await trio.lowlevel.checkpoint_if_cancelled()
        await self.write(data)

    async def _answer_ping(self) -> None:
        """Send a PONG, which is not to be cut off: what was sent or received before must not be lost for it."""
        self._is_pong_due = False
        with trio.CancelScope(shield=True, relative_deadline=self.options.keepalive_timeout_s):
            await self._write(encode_frame(Kind.PONG))

    # --- Receiving ---

    def expect_magic(self) -> None:
        """Expect the first bytes of a connection before the next frame, which says what it is for, and is short."""
        self._is_magic_due = True
        self._reader.expect_first()

    def opened(self) -> None:
        """Take frames as long as messages may be: the other side has shown its token."""
        self._reader.expect_any()

    async def receive(self) -> tuple[Kind, bytes]:
        """Wait for the next frame that is neither PING nor PONG.

        Cancellation: no frame is lost.
        Raises: LinkClosed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            frame = self._take()
            if frame is None:
                await self._fill()
            elif frame[0] is Kind.PING:
                self._is_pong_due = True
                # While a frame is being sent, its sender answers behind it.
                if not self.is_writing:
                    await self._answer_ping()
            elif frame[0] is not Kind.PONG:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return frame

    def put_back(self, frame: tuple[Kind, bytes]) -> None:
        """Have ``receive`` return a frame again that it returned last."""
        self._put_back = frame

    def _take(self) -> tuple[Kind, bytes] | None:
        if self.end_reason is not None:
            raise self.closed()
        if self._put_back is not None:
            frame, self._put_back = self._put_back, None
            return frame
        try:
            if self._is_magic_due and self._reader.take_magic():
                self._is_magic_due = False
            return None if self._is_magic_due else self._reader.take()
        except LinkClosed as exc:
            self.close(f"refused: {exc}")
            raise self.closed() from None

    async def _fill(self) -> None:
        data = await self.read()
        if not data:
            self.close("ended by the peer" + ("" if self._reader.is_empty else ", in the middle of a frame"))
            raise self.closed()
        self._reader.feed(data)

    # --- Keepalive ---

    def check_alive(self, nursery: trio.Nursery) -> None:
        if self.is_free:
            return
        self._close_if_silent()
        if self._take_ping_due():
            nursery.start_soon(self._ping)

    def _take_ping_due(self) -> bool:
        """Say whether to send a PING now, because somebody waits for a peer that was not heard for a while."""
        now = trio.current_time()
        is_due = (
            self.is_reading
            and not self.is_writing
            and self._pinged_at < self.last_read
            and now >= self.last_read + self.options.keepalive_time_s
        )
        if is_due:
            self._pinged_at = now
        return is_due

    async def _ping(self) -> None:
        """Send a PING, if the connection is still open and nobody sends anything else."""
        if not self.is_writing and self.end_reason is None:
            self.counters.pings += 1
            with suppress(LinkClosed):
                await self._write(encode_frame(Kind.PING))

    def _close_if_silent(self) -> None:
        now, options = trio.current_time(), self.options
        patience_s = options.keepalive_time_s + options.keepalive_timeout_s
        if self.is_writing:
            stuck_s = now - max(self.last_written, self.last_read)
            if stuck_s >= patience_s:
                self.give_up("nothing could be sent and nothing was read", stuck_s)
        elif (
            self.is_reading
            and self._pinged_at >= self.last_read
            and now >= self._pinged_at + options.keepalive_timeout_s
        ):
            self.give_up("nothing was read", now - self.last_read)
