"""One gRPC stream: whole messages in and out of an HTTP/2 stream, awaited by Trio tasks.

grpclib's own stream is awaited by asyncio tasks, so each message would cross from one scheduler to the other and back.
Here the HTTP/2 events, which arrive in the loop's thread, put messages into a bounded deque and wake the waiting Trio
task directly; a Trio task that sends writes to the socket itself. No asyncio task takes part.

What is bounded: incoming, by the HTTP/2 window (only what a reader took is acknowledged) plus one message under way
of at most ``max_message_bytes``, checked on its length prefix; outgoing, by ``SEND_BUFFER_BYTES`` plus one message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio
from grpclib.const import Status
from grpclib.metadata import encode_grpc_message
from grpclib.protocol import Connection as GrpclibConnection
from grpclib.protocol import EventsProcessor
from grpclib.protocol import Stream as GrpclibStream
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from clustercore_grpc.errors import PUSHBACK, Headers, StreamBroken, show_pushback
from clustercore_grpc.inbox import Inbox

if TYPE_CHECKING:
    from clustercore_grpc.http2 import Connection

__all__ = ["CONTENT_TYPE", "MessageStream"]

CONTENT_TYPE = ("content-type", "application/grpc")

# What waits in a stream for the socket or for the peer's window before ``send`` waits too. Large enough to keep a
# gigabit link busy for 2 ms, small enough that what is sent last is not long on its way.
SEND_BUFFER_BYTES = 256 * 1024

# Messages sent before other tasks get their turn, as long as nothing makes ``send`` wait. A turn of the scheduler costs
# as much as a small message does, and a node that idles sends one at a time.
SENDS_PER_CHECKPOINT = 16

# A frame takes no more, even if the peer would: smaller frames let other streams in between.
MAX_FRAME_BYTES = 256 * 1024


class _Signal(asyncio.Event):
    """What grpclib sets when something happened, as a call. Nobody waits for it the asyncio way."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self._action = action

    def set(self) -> None:
        self._action()


class MessageStream(GrpclibStream):
    """A gRPC stream, client or server side. One task may send and one receive, at the same time.

    ``close`` by the owner and the end of the connection both make every call raise StreamBroken with the reason;
    messages that arrived whole before the peer ended the stream are still received.
    """

    buffer: Inbox
    connection: Connection

    def __init__(self, connection: Connection, *, stream_id: int | None = None) -> None:
        self.max_message_bytes = connection.options.max_message_bytes
        # Why the stream can no longer be used, or None.
        self._broken: str | None = None
        # Called once when it breaks, in whatever task that happens: it must not block.
        self.on_break: Callable[[], None] | None = None
        # The peer has said that it did not look at the request, and will not: it can be made again elsewhere.
        self.is_unprocessed = False
        # DATA of this stream goes past h2, both ways: it is a link's, which carries many small messages for long.
        self.is_past_h2 = False
        # Why nothing more is to be received, by our own will, or None.
        self._not_receiving: str | None = None
        # The peer has ended its side: after what is in the inbox nothing follows.
        self.has_ended = False
        self._outbox: deque[bytes | memoryview] = deque()
        self._outbox_bytes = 0
        # How often ``send`` was called.
        self._sends = 0
        # Ends our side once the outbox is empty: with trailers, or () for a bare end of data.
        self._ending: Headers | None = None
        self._receivers = trio.lowlevel.ParkingLot()
        self._senders = trio.lowlevel.ParkingLot()
        self._release: Callable[[], None] | None = None
        self._is_server = stream_id is not None
        self._sent_headers = False
        self._sent_end = False
        super().__init__(connection, connection.h2, connection.socket, stream_id=stream_id)
        self.window_updated = _Signal(self.pump)
        self.headers_received = _Signal(self.wake_receivers)
        self.trailers_received = _Signal(self.wake_receivers)

    # --- The side that grpclib's event processor sees ---

    def init_stream(self, stream_id: int, connection: GrpclibConnection) -> None:
        self.id = stream_id
        self.buffer = Inbox(self, lambda size: connection.ack(stream_id, size))

    def __ended__(self) -> None:
        self.has_ended = True
        self.wake_receivers()

    def __terminated__(self, reason: str) -> None:
        self._break(reason)

    # --- Life ---

    @property
    def takes_data_past_h2(self) -> bool:
        """Whether a plain DATA frame of this stream may be taken now without h2 looking at it."""
        # A server's headers come before its data.
        is_begun = self._is_server or self.headers is not None
        return self.is_past_h2 and is_begun and not self.has_ended and self._broken is None

    def give_back(self, size: int, *, is_released: bool) -> None:
        """Let the peer send as many bytes again as were taken past h2."""
        self.connection.give_back(self._stream_id, size, is_released=is_released)

    def start(self, processor: EventsProcessor, headers: Headers) -> None:
        """Open the stream to a server.

        Raises: h2.exceptions.TooManyStreamsError, h2.exceptions.NoAvailableStreamIDError; nothing was sent then.
        """
        stream_id = self._h2_connection.get_next_available_stream_id()
        self._h2_connection.send_headers(stream_id, list(headers))
        self.init_stream(stream_id, self.connection)
        self.adopt(processor.register(self))
        self.connection.flush()

    def adopt(self, release: Callable[[], None]) -> None:
        """Take over the duty to tell grpclib when the stream is done with."""
        self._release = release

    @property
    def is_open(self) -> bool:
        """Whether messages can still be sent."""
        return self._broken is None

    def close(self, reason: str, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """End the stream at once, without waiting for anything. Idempotent."""
        self.stop_receiving(reason)
        if self._broken is None:
            self._reset(code)
        self._break(reason)
        if self._release is not None:
            release, self._release = self._release, None
            self.buffer.clear()
            release()

    def stop_receiving(self, reason: str) -> None:
        """Make ``receive`` raise StreamBroken from now on. Sending goes on."""
        if self._not_receiving is None:
            self._not_receiving = reason
        self.wake_receivers()

    def refuse(self, status: Status, reason: str) -> None:
        """Break the stream because of what the peer sent on it, and tell the peer."""
        if self._broken is None:
            if self._is_server:
                self._outbox.clear()
                self.finish(status, reason)
            self._reset(ErrorCodes.NO_ERROR if self._sent_end else ErrorCodes.CANCEL)
        # Also if the peer's own end arrived in the same breath.
        self.stop_receiving(reason)
        self._break(reason)
        self.buffer.clear()

    async def drain(self) -> None:
        """Wait until the end of this side is written, or cannot be any more."""
        while self._broken is None and not self._sent_end:
            await self._senders.park()

    def _reset(self, code: ErrorCodes) -> None:
        if self.closable:
            self._h2_connection.reset_stream(self._stream_id, error_code=code)
            self.connection.flush()

    @property
    def _stream_id(self) -> int:
        assert self.id is not None
        return self.id

    def _break(self, reason: str) -> None:
        if self._broken is not None:
            return
        self._broken = reason
        self._outbox.clear()
        self._outbox_bytes = 0
        self._senders.unpark_all()
        self._receivers.unpark_all()
        if self.on_break is not None:
            self.on_break()

    # --- Receiving ---

    def wake_receivers(self) -> None:
        """Let the receiving task look again."""
        self._receivers.unpark_all()

    async def receive(self) -> bytes | None:
        """Return the next message, or None once the peer has ended the stream.

        Cancellation: no message is lost.
        Raises: StreamBroken when nothing more can come.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        has_parked = False
        while True:
            if self._not_receiving is not None:
                raise StreamBroken(self._not_receiving)
            if self.buffer.messages:
                message = self.buffer.take()
                if not has_parked:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return message
            if self.has_ended:
                return None
            if self._broken is not None:
                raise StreamBroken(self._broken)
            await self._receivers.park()
            has_parked = True

    # --- Sending ---

    @property
    def has_room(self) -> bool:
        """Whether a message can be queued without waiting."""
        return self._broken is None and self._ending is None and self._outbox_bytes < SEND_BUFFER_BYTES

    async def send(self, message: bytes) -> None:
        """Queue a message and write what can be written. Waits while too much is queued.

        It is always a cancellation point; other tasks get their turn when it waits, and after some messages.

        Cancellation: the message is queued whole or not at all.
        Raises: StreamBroken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._broken is None and self._ending is None and self._outbox_bytes >= SEND_BUFFER_BYTES:
            await self._senders.park()
        self.send_nowait(message)
        self._sends += 1
        if self._sends % SENDS_PER_CHECKPOINT == 0:
            await trio.lowlevel.cancel_shielded_checkpoint()

    def send_nowait(self, message: bytes) -> None:
        """Queue a message, however much waits, and write what can be written.

        Raises: StreamBroken.
        """
        if self._broken is not None:
            raise StreamBroken(self._broken)
        if self._ending is not None:
            raise StreamBroken("this side of the stream has ended")
        if self._is_server and not self._sent_headers:
            self.send_headers_nowait()
        frame = b"\x00" + len(message).to_bytes(4, "big") + message
        self._outbox.append(frame)
        self._outbox_bytes += len(frame)
        self.pump()

    def send_headers_nowait(self) -> None:
        """Send a server's initial headers.

        Raises: StreamBroken.
        """
        if self._broken is not None:
            raise StreamBroken(self._broken)
        try:
            self._send_headers([(":status", "200"), CONTENT_TYPE], end_stream=False)
        except ProtocolError as exc:
            self._break(f"the HTTP/2 stream is closed: {exc}")
            raise StreamBroken(self._broken) from exc

    def end_sending(self) -> None:
        """End a client's side, after what is queued."""
        self._ending = ()
        self.pump()

    def finish(self, status: Status, message: str = "", retry_after_s: float | None = None) -> None:
        """End a server's stream with a status, after what is queued. Without effect on a stream that has ended."""
        if self._broken is not None or self._ending is not None:
            return
        trailers = [("grpc-status", str(status.value))]
        if message:
            trailers.append(("grpc-message", encode_grpc_message(message)))
        if retry_after_s is not None:
            trailers.append((PUSHBACK, show_pushback(retry_after_s)))
        self._ending = trailers
        self._senders.unpark_all()
        self.pump()

    def pump(self) -> None:
        """Write as much of the outbox as the socket and the peer's window take now."""
        try:
            self._write_messages()
            if not self._outbox and self._ending is not None and self.connection.write_ready.is_set():
                self._write_end()
        except ProtocolError as exc:
            # The peer has closed what we write to; its own event for that comes next, or came before.
            self._break(f"the HTTP/2 stream is closed: {exc}")
        if self._senders and self._outbox_bytes < SEND_BUFFER_BYTES:
            self._senders.unpark_all()

    def _write_messages(self) -> None:
        while self._outbox and self.connection.write_ready.is_set():
            window = self._h2_connection.local_flow_control_window(self._stream_id)
            if window <= 0:
                return
            size = min(window, self._h2_connection.max_outbound_frame_size, MAX_FRAME_BYTES)
            data = self._take_chunk(size)
            if self.is_past_h2:
                self.connection.send_data(self._stream_id, data)
            else:
                self._h2_connection.send_data(self._stream_id, data)
                self.connection.flush()

    def _take_chunk(self, size: int) -> bytes:
        """Take up to ``size`` bytes from the outbox: as many queued messages as fit, in one piece."""
        parts, left = [], size
        while self._outbox and left:
            head = self._outbox.popleft()
            if len(head) > left:
                view = memoryview(head)
                self._outbox.appendleft(view[left:])
                head = view[:left]
            parts.append(head)
            left -= len(head)
        self._outbox_bytes -= size - left
        return b"".join(parts)

    def _write_end(self) -> None:
        trailers, self._ending = self._ending, ()
        if self._sent_end:
            return
        self._sent_end = True
        if trailers:
            self._send_headers(trailers, end_stream=True)
        else:
            self._h2_connection.end_stream(self._stream_id)
            self.connection.flush()

    def _send_headers(self, headers: Headers, *, end_stream: bool) -> None:
        if end_stream and not self._sent_headers:
            # Nothing was sent before: the trailers are the whole answer ("Trailers-Only").
            headers = [(":status", "200"), CONTENT_TYPE, *headers]
        self._sent_headers = True
        self._h2_connection.send_headers(self._stream_id, list(headers), end_stream=end_stream)
        self.connection.flush()
