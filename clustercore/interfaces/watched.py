"""A connection that is closed at once and by anyone, that counts what it carries, and whose peer may be watched.

What a peer's silence is, only the protocol on top can tell: it derives from ``WatchedConnection`` and says so in
``check_alive``. All else that two protocols over Trio's streams have in common is here.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from clustercore.interfaces.errors import LinkClosed
from clustercore.interfaces.socket_options import SocketOptions
from clustercore.interfaces.sockets import LOST, SocketConnection
from clustercore.interfaces.statistics import Counters
from clustercore.interfaces.tls import certificate_names

__all__ = ["WatchedConnection"]

# One read of the socket: a loopback's or a fast link's burst, without much to copy when it is less.
_READ_BYTES = 64 * 1024
# What is long is handed to the socket in pieces of this size, to see that it moves: 2 s at 1 Mbit/s.
_WRITE_BYTES = 256 * 1024


class WatchedConnection:
    """Reads and writes bytes. One task writes and one reads at a time."""

    def __init__(
        self,
        socket: SocketConnection,
        options: SocketOptions,
        *,
        is_client: bool,
        counters: Counters,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        """Take over a socket.

        Args:
            socket: What to read from and write to.
            options: Those of the transport.
            is_client: Whether this side dialled.
            counters: Where bytes and pings are counted.
            on_close: Called once, when the connection ends here.
        """
        self.socket = socket
        self.options = options
        self.is_client = is_client
        self.counters = counters
        self._on_close = on_close
        # Why the connection has ended here; None while it is open.
        self.end_reason: str | None = None
        # Whether it is for calls and none is under way, so that another may follow. Then nobody waits for the peer.
        self.is_free = False
        # Writers take turns; here wait those whose turn it is not.
        self.is_writing = False
        self._turn = trio.lowlevel.ParkingLot()
        self.is_reading = False
        # Trio's clock.
        self.last_read = self.last_written = trio.current_time()
        # The names in the peer's certificate; None without TLS.
        self.names = certificate_names(socket.certificate)

    @property
    def peer(self) -> str:
        """The peer's address, for messages."""
        return self.socket.peer

    @property
    def is_quiet(self) -> bool:
        """Whether it is open, and nothing came that was not taken."""
        return self.end_reason is None and self.socket.is_quiet

    def close(self, reason: str = "closed here") -> None:
        """End it at once; who reads or writes gets LinkClosed. Idempotent; never blocks."""
        if self.end_reason is None:
            self.end_reason = reason
            self.socket.close()
            self._on_close()
            self._turn.unpark_all()

    def closed(self) -> LinkClosed:
        """Return the error that says that it has ended, and why."""
        return LinkClosed(f"connection with {self.peer}: {self.end_reason}")

    def check_alive(self, nursery: trio.Nursery) -> None:
        """Give up a peer that is silent, or start in the nursery what asks it for a sign of life.

        The default trusts every peer. Called by: the transport's watch, several times within ``keepalive_time``.
        """

    def give_up(self, how: str, silent_s: float) -> None:
        """End it because the peer is silent. Called by: ``check_alive``."""
        if self.end_reason is None:
            self.counters.silences += 1
            self.close(f"keepalive: {how} for {silent_s:.1f} s")

    async def wait_turn(self) -> None:
        """Wait until nobody writes. Returns at once, without a checkpoint, if nobody does."""
        while self.is_writing and self.end_reason is None:
            await self._turn.park()

    async def write(self, data: bytes) -> None:
        """Hand over all of this.

        Cancellation: perhaps half of it is out, and the connection closes.
        Raises: LinkClosed.
        """
        if self.end_reason is not None:
            await trio.lowlevel.checkpoint()
            raise self.closed()
        self.is_writing = True
        self.last_written = trio.current_time()
        try:
            if len(data) <= _WRITE_BYTES:
                await self.socket.stream.send_all(data)
                self.counters.bytes_sent += len(data)
            else:
                view = memoryview(data)
                for start in range(0, len(data), _WRITE_BYTES):
                    piece = view[start : start + _WRITE_BYTES]
                    await self.socket.stream.send_all(piece)
                    self.counters.bytes_sent += len(piece)
                    self.last_written = trio.current_time()
        except LOST as exc:
            self.close(str(exc.__cause__ or exc) or "it has ended")
            raise self.closed() from exc
        except BaseException:
            # Perhaps half of it is out: nothing can follow that.
            self.close("what was being sent was cut off in the middle")
            raise
        finally:
            self.is_writing = False
            self._turn.unpark()

    async def read(self) -> bytes:
        """Wait for what comes next; empty when the peer has ended its side.

        Cancellation: nothing is lost.
        Raises: LinkClosed.
        """
        self.is_reading = True
        try:
            data = await self.socket.stream.receive_some(_READ_BYTES)
        except LOST as exc:
            self.close(str(exc.__cause__ or exc) or "it has ended")
            raise self.closed() from exc
        finally:
            self.is_reading = False
        self.last_read = trio.current_time()
        self.counters.bytes_received += len(data)
        return bytes(data)
