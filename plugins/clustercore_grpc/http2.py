"""One HTTP/2 connection over a socket of the transport's asyncio loop.

grpclib's protocol classes do the HTTP/2; what is different here is how a connection ends. Every end is ``abort``: the
socket goes at once, with whatever was still to be written, every stream on it is told why, and the ones who wait are
woken. grpclib closes instead, which waits for a peer that may never read again, and leaves calls hanging.

Keepalive (gRFC A8): a connection on which nothing was read for ``keepalive_time`` is pinged; if then nothing is read
for ``keepalive_timeout``, it is aborted. Any byte counts as life. The timer looks only at what was read, so a peer
that stopped reading while our buffer is full is found out as well.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

import trio
from grpclib.config import Configuration
from grpclib.protocol import AbstractHandler, EventsProcessor, H2Protocol
from grpclib.protocol import Connection as GrpclibConnection
from grpclib.utils import Wrapper
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import RemoteSettingsChanged
from h2.exceptions import H2Error, StreamClosedError
from h2.settings import SettingCodes

from clustercore.interfaces import Counters, SocketOptions, certificate_names
from clustercore_grpc.errors import StreamBroken
from clustercore_grpc.frames import (
    HEADER_BYTES,
    FrameFilter,
    Goaway,
    encode_data,
    encode_window_update,
    plain_data_at,
)
from clustercore_grpc.loop import SocketLoop
from clustercore_grpc.stream import MAX_FRAME_BYTES, MessageStream

__all__ = ["Connection", "Http2Protocol"]

log = logging.getLogger(__name__)

# What a peer may send on one stream, and on all of a connection, before we have read it. A stream's is more than a
# 10 Gbit/s link carries in a millisecond; the connection's leaves room for many streams that nobody reads.
STREAM_WINDOW_BYTES = 2 * 1024 * 1024
CONNECTION_WINDOW_BYTES = 32 * 1024 * 1024
# Streams of one connection: above what a client keeps open for its calls and watches.
MAX_STREAMS = 1000

# Above this the socket's own buffer asks streams to wait; our streams then write nothing more.
WRITE_HIGH_WATER_BYTES = 256 * 1024
# Only answers to a peer's pings, settings and resets can fill the buffer this far: a peer that makes us write them and
# does not read them is cut off.
WRITE_LIMIT_BYTES = 4 * 1024 * 1024

# Whether a peer is alive is looked at in so many steps of ``keepalive_time``; pings go out and peers are given up up to
# one such step later than they could be.
_LOOKS = 4

# Headers are ours or checked where they are read; h2's own checks cost as much as all the rest of a small message.
_CONFIGURATIONS = {
    client_side: H2Configuration(
        client_side=client_side,
        header_encoding="utf-8",
        validate_inbound_headers=False,
        validate_outbound_headers=False,
        normalize_inbound_headers=False,
        normalize_outbound_headers=False,
    )
    for client_side in (True, False)
}


class Connection(GrpclibConnection):
    """What the streams of a connection share: the HTTP/2 state and the socket."""

    def __init__(
        self, h2_connection: H2Connection, socket: asyncio.Transport, options: SocketOptions, counters: Counters
    ) -> None:
        super().__init__(h2_connection, socket, config=Configuration().__for_client__())
        self.h2 = h2_connection
        self.socket = socket
        self.options = options
        self.counters = counters
        self._is_holding_back = False
        # What was taken past h2 on all streams, and not given back to the peer's window yet.
        self.unseen_bytes = 0
        # The names in the peer's certificate; None without TLS.
        self.names = certificate_names(socket.get_extra_info("peercert"))

    def create_stream(self, *, stream_id: int | None = None, wrapper: Wrapper | None = None) -> MessageStream:
        """Make a stream: of a request that came in, or without an id for one that is to be sent."""
        return MessageStream(self, stream_id=stream_id)

    @contextmanager
    def in_one_write(self) -> Iterator[None]:
        """Hand to the socket at the end of the block, in which nothing waits, what is said inside it.

        Each write may wake the peer at once, and on a busy machine take its turn away from this process: a small
        request in three of them takes several times as long as in one.
        """
        self._is_holding_back = True
        try:
            yield
        finally:
            self._is_holding_back = False
            self.flush()

    def flush(self) -> None:
        """Write what HTTP/2 has to say, unless the socket is gone."""
        if self._is_holding_back:
            return
        data = self.h2.data_to_send()
        if data:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if not self.socket.is_closing():
            self.socket.write(data)
            self.counters.bytes_sent += len(data)

    # --- DATA that h2 does not see ---

    def send_data(self, stream_id: int, data: bytes) -> None:
        """Write a DATA frame that ends nothing. The caller has seen that the peer's window and limit allow it.

        Raises: h2.exceptions.StreamClosedError if the peer has reset the stream.
        """
        stream = self.h2.streams[stream_id]
        if stream.closed:
            raise StreamClosedError(stream_id)
        # What h2 would do, and goes on from when the peer changes its windows.
        self.h2.outbound_flow_control_window -= len(data)
        stream.outbound_flow_control_window -= len(data)
        self._write(self.h2.data_to_send() + encode_data(stream_id, data))

    def has_room_for(self, stream: MessageStream, size: int) -> bool:
        """Whether so many bytes more may be taken past h2. A peer that keeps to its windows sends no more."""
        return (
            stream.buffer.unseen_bytes + size <= STREAM_WINDOW_BYTES
            and self.unseen_bytes + size <= CONNECTION_WINDOW_BYTES
        )

    def give_back(self, stream_id: int, size: int, *, is_released: bool) -> None:
        """Let the peer send as many bytes again as were taken past h2, of a released stream on the others."""
        self.unseen_bytes -= size
        update = b"" if is_released else encode_window_update(stream_id, size)
        self._write(self.h2.data_to_send() + update + encode_window_update(0, size))

    def is_closing(self) -> bool:
        """Whether the socket is closed, or about to be."""
        return self.socket.is_closing()

    def close(self) -> None:
        """Abort the socket."""
        self.socket.abort()


class Http2Protocol(H2Protocol):
    """The asyncio protocol of one connection, client or server side."""

    connection: Connection
    processor: EventsProcessor

    def __init__(
        self,
        handler: AbstractHandler,
        options: SocketOptions,
        loop: SocketLoop,
        *,
        client_side: bool,
        on_made: Callable[[Http2Protocol], None] = lambda protocol: None,
        on_end: Callable[[Http2Protocol], None],
        on_too_many_pings: Callable[[], None] = lambda: None,
        keepalive_time_s: float | None = None,
        counters: Counters,
    ) -> None:
        super().__init__(handler, Configuration().__for_client__(), _CONFIGURATIONS[client_side])
        self._options = options
        self._loop = loop
        self._on_made = on_made
        self._on_end = on_end
        self._on_too_many_pings = on_too_many_pings
        self._keepalive_time_s = options.keepalive_time_s if keepalive_time_s is None else keepalive_time_s
        self._counters = counters
        # Why the connection has ended, or None.
        self.end_reason: str | None = None
        # Why no further stream can be opened while those under way are answered, or None.
        self.going_away: str | None = None
        self._frames = FrameFilter(client_side=client_side)
        # Set when the peer has shown that it speaks HTTP/2, and when the connection has ended.
        self._ready = trio.Event()
        # Tasks that wait for room for another stream, in order, and how many were woken that have not opened it yet.
        self._stream_waiters = trio.lowlevel.ParkingLot()
        self._woken = 0
        self._last_read = 0.0
        self._pinged_at = 0.0

    # --- Called by asyncio ---

    def resume_writing(self) -> None:
        super().resume_writing()
        for stream in list(self.processor.streams.values()):
            stream.window_updated.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.abort("connection lost" + (f": {exc}" if exc is not None else ""))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        socket = cast(asyncio.Transport, transport)
        if self.end_reason is not None:
            socket.abort()
            return
        h2_connection = H2Connection(config=self.h2_config)
        h2_connection.initiate_connection()
        h2_connection.update_settings(
            {
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
                SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            }
        )
        h2_connection.increment_flow_control_window(CONNECTION_WINDOW_BYTES - h2_connection.inbound_flow_control_window)
        socket.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        self.connection = Connection(h2_connection, socket, self._options, self._counters)
        self.processor = EventsProcessor(self.handler, self.connection)
        self.connection.flush()
        self._last_read = trio.current_time()
        self._loop.start_reading(socket, self)
        self._on_made(self)

    def eof_received(self) -> bool:
        # Only with TLS, where asyncio reads. It would close, which waits until the rest is written.
        self.reading_ended(None)
        return False

    # --- Called by the task that reads, or with TLS by asyncio ---

    def has_ended(self) -> bool:
        """Say whether nothing more is to be read."""
        return self.end_reason is not None

    def check_alive(self) -> float:
        """Ping a peer that is silent, and abort if it stays so; return when to look again (Trio's clock)."""
        now, options = trio.current_time(), self._options
        if self._pinged_at > self._last_read:
            if now >= self._pinged_at + options.keepalive_timeout_s:
                self._counters.silences += 1
                self.abort(f"keepalive: nothing was read for {now - self._last_read:.3f} s")
            return self._look_at(self._pinged_at + options.keepalive_timeout_s)
        # As good as due is due: the answer to the last ping was read a little after that was sent.
        if now >= self._last_read + self._keepalive_time_s * (1 - 0.5 / _LOOKS):
            self.connection.h2.ping(b"clustrkp")
            self.connection.flush()
            self._counters.pings += 1
            self._pinged_at = now
            return self._look_at(now + options.keepalive_timeout_s)
        return self._look_at(self._last_read + self._keepalive_time_s)

    def _look_at(self, due: float) -> float:
        """Return when to look next: a moment at which all other connections look too, so that a node wakes but once."""
        step_s = self._keepalive_time_s / _LOOKS
        # Not a whole step more for the last digit of a number.
        return math.ceil(due / step_s - 1e-3) * step_s

    def data_received(self, data: bytes) -> None:
        if self.end_reason is not None:
            return
        self._last_read = trio.current_time()
        self._counters.bytes_received += len(data)
        try:
            self._process(data)
        except (H2Error, UnicodeDecodeError) as exc:
            self.abort(f"the peer does not speak HTTP/2 as it should: {exc!r}")
        except Exception as exc:
            # A fault of ours or of a library, met by this peer's bytes: it must not take down the loop and the node.
            log.exception("connection aborted: unexpected error on received data")
            self.abort(f"unexpected error on received data: {exc!r}")

    def _process(self, data: bytes) -> None:
        data = self._take_past_h2(data)
        if not data:
            return
        known = self.processor.processors
        data, goaways = self._frames.feed(data)
        for event in self.connection.feed(data):
            # grpclib raises for events it does not know, such as frames of an HTTP/2 extension.
            if self.end_reason is None and type(event) in known:
                self.processor.process(event)
                if type(event) is RemoteSettingsChanged:
                    self._ready.set()
                    self._wake_waiters(len(self._stream_waiters))
        for goaway in goaways:
            self._go_away(goaway)
        if self.end_reason is None:
            self.connection.flush()
            if self.connection.socket.get_write_buffer_size() > WRITE_LIMIT_BYTES:
                self.abort("the peer makes us answer and does not read the answers")

    def _take_past_h2(self, data: bytes) -> bytes:
        """Hand the links what is plainly theirs at the beginning of what came; return the rest."""
        position = 0
        while self._frames.is_at_frame and (frame := plain_data_at(data, position)) is not None:
            stream_id, payload = frame
            stream = self.processor.streams.get(stream_id)
            if not isinstance(stream, MessageStream) or not stream.takes_data_past_h2:
                break
            if not self.connection.has_room_for(stream, len(payload)):
                # For h2 to judge.
                break
            self.connection.unseen_bytes += len(payload)
            stream.buffer.add_unseen(payload)
            position += HEADER_BYTES + len(payload)
        return data[position:]

    def _go_away(self, goaway: Goaway) -> None:
        """Open no stream any more; end those that the peer will not answer, and then, with the last one, all of it."""
        if self.end_reason is not None:
            return
        self._counters.goaways += self.going_away is None
        reason = f"the peer sent GOAWAY, code {goaway.error_code}" + (f": {goaway.debug}" if goaway.debug else "")
        if goaway.error_code != ErrorCodes.NO_ERROR:
            if goaway.error_code == ErrorCodes.ENHANCE_YOUR_CALM and goaway.debug == "too_many_pings":
                self._on_too_many_pings()
            self.abort(reason)
            return
        self.going_away = reason
        self._wake_waiters(len(self._stream_waiters))
        for stream_id, stream in list(self.processor.streams.items()):
            if stream_id > goaway.last_stream_id and isinstance(stream, MessageStream):
                stream.is_unprocessed = True
                stream.close(reason)
        self._abort_if_gone()

    def _abort_if_gone(self) -> None:
        if self.going_away is not None and not self.processor.streams:
            self.abort(self.going_away)

    def reading_ended(self, error: OSError | None) -> None:
        """Abort. What is still to be written waits for nothing: a peer that ended its side reads no more."""
        self.abort("closed by the peer" if error is None else f"connection lost: {error}")

    # --- Called by Trio tasks ---

    async def wait_ready(self) -> None:
        """Wait until the peer has sent its HTTP/2 settings.

        Raises: StreamBroken if the connection ended before.
        """
        await self._ready.wait()
        if self.end_reason is not None:
            raise StreamBroken(self.end_reason)

    def abort(self, reason: str) -> None:
        """End the connection at once, with every stream on it. Idempotent; never blocks."""
        if self.end_reason is not None:
            return
        self.end_reason = reason
        if hasattr(self, "processor"):
            self._loop.stop_reading(self.connection.socket)
            self.processor.close(reason)
        self._ready.set()
        self._wake_waiters(len(self._stream_waiters))
        self._on_end(self)

    async def open_stream(self, headers: list[tuple[str, str]], request: bytes | None = None) -> MessageStream:
        """Send a request's headers, waiting while the peer allows no further stream. The caller closes the stream.

        With ``request`` that message follows, and the end of the client's side.

        Cancellation: nothing was sent.
        Raises: StreamBroken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        # Whoever comes is behind those who wait.
        has_turn = self.has_room
        while self.end_reason is None and self.going_away is None:
            if has_turn and self._has_place():
                stream = self.connection.create_stream()
                try:
                    # What is large is written as the socket takes it.
                    is_small = request is not None and len(request) <= MAX_FRAME_BYTES
                    with self.connection.in_one_write() if is_small else nullcontext():
                        stream.start(self.processor, headers)
                        if request is not None:
                            stream.send_nowait(request)
                            stream.end_sending()
                except H2Error as exc:
                    # The numbers of streams are used up, after 2**30 of them.
                    self.abort(f"no further stream on this connection: {exc}")
                    break
                return stream
            await self._stream_waiters.park()
            self._woken -= 1
            has_turn = True
        raise StreamBroken(self.end_reason or self.going_away)

    @property
    def has_room(self) -> bool:
        """Whether another stream would be opened at once."""
        return self._has_place(self._woken) and not self._stream_waiters

    @property
    def waiting_count(self) -> int:
        """How many wait for a place."""
        return len(self._stream_waiters)

    def _has_place(self, besides: int = 0) -> bool:
        h2_connection = self.connection.h2
        taken = h2_connection.open_outbound_streams + besides
        return taken < h2_connection.remote_settings.max_concurrent_streams

    def _wake_waiters(self, count: int) -> None:
        self._woken += len(self._stream_waiters.unpark(count=count)) if count else 0

    def close_stream(self, stream: MessageStream, reason: str) -> None:
        """Close a stream of ``open_stream`` and let the next one have its place."""
        stream.close(reason)
        self._wake_waiters(1)
        self._abort_if_gone()

    @property
    def stream_count(self) -> int:
        """How many streams are in use."""
        return len(self.processor.streams)
