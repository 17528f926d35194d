"""Links over gRPC: a stream of envelopes, and the one request of a unary RPC made to look like one."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio
from grpclib.const import Status

from clustercore.interfaces import (
    Link,
    LinkClosed,
    MalformedMessage,
    Message,
    TransportError,
    check_claim,
    decode_message,
    encode_body,
    encode_message,
)
from clustercore_grpc.errors import REFUSALS, StreamBroken, outcome_of
from clustercore_grpc.stream import MessageStream

__all__ = ["OneShotLink", "StreamLink"]


class StreamLink(Link):
    """A link over the bidirectional stream ``Raft/Exchange``."""

    def __init__(self, stream: MessageStream, peer: str, close: Callable[[str], None]) -> None:
        self._stream = stream
        stream.is_past_h2 = True
        self._peer = peer
        # Ends the stream, and on the dialling side its connection with it.
        self._close = close

    async def send(self, message: Message) -> None:
        data = _encoded(encode_message, message, self._stream.max_message_bytes)
        try:
            await self._stream.send(data)
        except StreamBroken as exc:
            raise self._closed(str(exc)) from exc

    def send_nowait(self, message: Message) -> bool:
        if not self._stream.has_room:
            return False
        try:
            self._stream.send_nowait(_encoded(encode_message, message, self._stream.max_message_bytes))
        except (StreamBroken, TransportError):
            # Nothing is sent of what cannot be encoded, or on a stream that has ended.
            return False
        return True

    async def receive(self) -> Message:
        try:
            data = await self._stream.receive()
        except StreamBroken as exc:
            raise self._closed(str(exc)) from exc
        if data is None:
            raise self._ended()
        try:
            message = decode_message(data)
            check_claim(message, self._stream.connection.names)
        except LinkClosed as exc:
            self._stream.refuse(Status.PERMISSION_DENIED, str(exc))
            self._close(str(exc))
            raise self._closed(str(exc)) from exc
        except MalformedMessage as exc:
            self._stream.refuse(Status.INVALID_ARGUMENT, f"malformed message: {exc}")
            self._close(f"malformed message: {exc}")
            raise self._closed(f"malformed message: {exc}") from exc
        return message

    async def aclose(self) -> None:
        self._close("closed here")
        await trio.lowlevel.checkpoint()

    def _closed(self, reason: str) -> LinkClosed:
        return LinkClosed(f"link with {self._peer}: {reason}")

    def _ended(self) -> LinkClosed:
        """Return the error that says how the peer ended the stream."""
        if self._stream.trailers is None and self._stream.headers is None:
            return self._closed("ended by the peer")
        outcome = outcome_of(self._stream.headers, self._stream.trailers)
        error = self._closed(
            f"ended by the peer with {outcome.status.name}" + (f": {outcome.message}" if outcome.message else "")
        )
        # Who is not let in because of what it says of itself need not ask again.
        error.retry_after_s = math.inf if outcome.status in REFUSALS else outcome.retry_after_s
        return error


class OneShotLink(Link):
    """The accepting side of a link that carries one request, and ends with its response."""

    def __init__(self, request: Message, response_type: type[Message], stream: MessageStream, peer: str) -> None:
        self._request = request
        self._is_received = False
        self._response_type = response_type
        self._stream = stream
        self._peer = peer
        self._ended = trio.Event()
        self._reason = ""
        self.has_answered = False

    async def send(self, message: Message) -> None:
        """Send the response, which ends the link.

        Raises: LinkClosed; TransportError if the message is not what the RPC's response is.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._ended.is_set():
            raise self._closed()
        if not isinstance(message, self._response_type):
            raise TransportError(
                f"this link answers a {type(self._request).__name__} with a {self._response_type.__name__}, "
                f"not with a {type(message).__name__}"
            )
        data = _encoded(encode_body, message, self._stream.max_message_bytes)
        try:
            self._stream.send_nowait(data)
        except StreamBroken as exc:
            self.end(str(exc))
            raise self._closed() from exc
        self.has_answered = True
        self.end("the request is answered")
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def receive(self) -> Message:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._is_received and not self._ended.is_set():
            self._is_received = True
            await trio.lowlevel.cancel_shielded_checkpoint()
            return self._request
        await self._ended.wait()
        raise self._closed()

    async def aclose(self) -> None:
        self.end("closed here")
        await trio.lowlevel.checkpoint()

    def end(self, reason: str) -> None:
        """Make every call raise LinkClosed from now on. Idempotent; never blocks."""
        if not self._ended.is_set():
            self._reason = reason
            self._ended.set()

    def _closed(self) -> LinkClosed:
        return LinkClosed(f"link with {self._peer}: {self._reason}")


def _encoded(encode: Callable[[Message], bytes], message: Message, max_message_bytes: int) -> bytes:
    try:
        data = encode(message)
    except (OverflowError, ValueError, TypeError) as exc:
        raise TransportError(f"{type(message).__name__} cannot be encoded: {exc}") from exc
    if len(data) > max_message_bytes:
        raise TransportError(
            f"{type(message).__name__} takes {len(data)} bytes; max_message_bytes allows {max_message_bytes}"
        )
    return data
