"""One connection: whole frames both ways, and a watch that ends it when its peer is silent.

A peer is silent when it could have been heard and was not. Someone waits to receive, nothing was read for
``keepalive_time`` and nothing came for ``keepalive_timeout`` after a PING; or someone waits to send, and for both times
together nothing of it could be handed over, because the socket's buffer is full. A connection on which nobody waits is
not judged: it may be full of what nobody has taken yet.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio

from clustercore.interfaces import LOST, LinkClosed, SocketConnection, SocketOptions, certificate_names
from clustercore_tcp.frames import FrameReader, Kind, encode_frame

__all__ = ["Connection"]

# One read of the socket: a loopback's or a fast link's burst, without much to copy when it is less.
_READ_BYTES = 64 * 1024
# A long frame is handed to the socket in pieces of this size, to see that it moves: 2 s at 1 Mbit/s.
_WRITE_BYTES = 256 * 1024


class Connection:
    """Sends and receives frames. One task sends and one receives at a time; PING and PONG come in between."""

    def __init__(self, socket: SocketConnection, options: SocketOptions, on_close: Callable[[], object]) -> None:
        self._socket = socket
        self._options = options
        self._on_close = on_close
        self._reader = FrameReader(options.max_message_bytes)
        self._is_magic_due = False
        self._put_back: tuple[Kind, bytes] | None = None
        # Why the connection has ended here; None while it is open.
        self.end_reason: str | None = None
        self._is_writing = False
        self._turn = trio.lowlevel.ParkingLot()
        self._is_pong_due = False
        self._is_receiving = False
        now = trio.current_time()
        self._last_read = now
        self._last_written = now
        self._pinged_at = -1.0
        # The names in the peer's certificate; None without TLS.
        self.names = certificate_names(socket.certificate)
        # Between two calls nobody is judged.
        self.is_watched = True

    @property
    def peer(self) -> str:
        """The peer's address, for messages."""
        return self._socket.peer

    @property
    def is_quiet(self) -> bool:
        """Whether it is open, and nothing came that was not taken."""
        return self.end_reason is None and self._reader.is_empty and self._socket.is_quiet

    def close(self, reason: str = "closed here") -> None:
        """End it at once; who sends or receives gets LinkClosed. Idempotent."""
        if self.end_reason is None:
            self.end_reason = reason
            self._socket.close()
            self._on_close()
            self._turn.unpark_all()

    def closed(self, reason: str | None = None) -> LinkClosed:
        """Return the error that says that it has ended, and why."""
        return LinkClosed(f"connection with {self.peer}: {self.end_reason or reason}")

    # --- Sending ---

    async def send(self, kind: Kind, payload: bytes = b"", *, before: bytes = b"") -> None:
        """Hand over a whole frame, behind raw bytes.

        Cancellation: before the first byte, nothing was sent; after it, the connection closes.
        Raises: LinkClosed.
        """
        if self._is_writing:
            await self._wait_turn()
        await self._write(before + encode_frame(kind, payload) if before else encode_frame(kind, payload))
        if self._is_pong_due:
            await self._answer_ping()

    async def _wait_turn(self) -> None:
        while self._is_writing and self.end_reason is None:
            await self._turn.park()

    async def _write(self, data: bytes) -> None:
        if self.end_reason is not None:
            await trio.lowlevel.checkpoint()
            raise self.closed()
        await trio.lowlevel.checkpoint_if_cancelled()
        self._is_writing = True
        self._last_written = trio.current_time()
        try:
            if len(data) <= _WRITE_BYTES:
                await self._socket.stream.send_all(data)
            else:
                view = memoryview(data)
                for start in range(0, len(data), _WRITE_BYTES):
                    await self._socket.stream.send_all(view[start : start + _WRITE_BYTES])
                    self._last_written = trio.current_time()
        except LOST as exc:
            self.close(str(exc.__cause__ or exc) or "it has ended")
            raise self.closed() from exc
        except BaseException:
            # Perhaps half of the frame is out: nothing can follow that.
            self.close("a frame was cut off in the middle of its sending")
            raise
        finally:
            self._is_writing = False
            self._turn.unpark()

    async def _answer_ping(self) -> None:
        """Send a PONG, which is not to be cut off: what was sent or received before must not be lost for it."""
        self._is_pong_due = False
        with trio.CancelScope(shield=True, relative_deadline=self._options.keepalive_timeout_s):
            await self._write(encode_frame(Kind.PONG))

    # --- Receiving ---

    def expect_magic(self) -> None:
        """Expect the first bytes of a connection before the next frame."""
        self._is_magic_due = True

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
                if not self._is_writing:
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
        self._is_receiving = True
        try:
            data = await self._socket.stream.receive_some(_READ_BYTES)
        except LOST as exc:
            self.close(str(exc.__cause__ or exc) or "it has ended")
            raise self.closed() from exc
        finally:
            self._is_receiving = False
        if not data:
            self.close("ended by the peer" + ("" if self._reader.is_empty else ", in the middle of a frame"))
            raise self.closed()
        self._last_read = trio.current_time()
        self._reader.feed(data)

    # --- Keepalive ---

    def take_ping_due(self) -> bool:
        """Say whether to call ``ping`` now, because somebody waits for a peer that was not heard for a while."""
        now = trio.current_time()
        is_due = (
            self.is_watched
            and self._is_receiving
            and not self._is_writing
            and self._pinged_at < self._last_read
            and now >= self._last_read + self._options.keepalive_time_s
        )
        if is_due:
            self._pinged_at = now
        return is_due

    async def ping(self) -> None:
        """Send a PING, if the connection is still open and nobody sends anything else."""
        if not self._is_writing and self.end_reason is None:
            with suppress(LinkClosed):
                await self._write(encode_frame(Kind.PING))

    def close_if_silent(self) -> None:
        """End it if the peer is silent."""
        if not self.is_watched:
            return
        now, options = trio.current_time(), self._options
        patience_s = options.keepalive_time_s + options.keepalive_timeout_s
        if self._is_writing:
            stuck_s = now - max(self._last_written, self._last_read)
            if stuck_s >= patience_s:
                self.close(f"keepalive: nothing could be sent and nothing was read for {stuck_s:.1f} s")
        elif (
            self._is_receiving
            and self._pinged_at >= self._last_read
            and now >= self._pinged_at + options.keepalive_timeout_s
        ):
            self.close(f"keepalive: nothing was read for {now - self._last_read:.1f} s")
