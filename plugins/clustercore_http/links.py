"""Links over HTTP: a pair of bodies that last."""

from __future__ import annotations

import h11
import trio

from clustercore.interfaces import (
    Link,
    LinkClosed,
    MalformedMessage,
    Message,
    TransportError,
    check_claim,
)
from clustercore_http.connection import HttpConnection, Lines, size_of
from clustercore_http.json_codec import decode_line, encode_line

__all__ = ["HttpLink"]


class HttpLink(Link):
    """Messages as lines of JSON: one body for each direction, both at the same time."""

    def __init__(self, connection: HttpConnection, max_message_bytes: int) -> None:
        self._connection = connection
        self._max_message_bytes = max_message_bytes
        self._lines = Lines(connection, max_message_bytes)

    async def send(self, message: Message) -> None:
        line = encode_line(message)
        if size_of(line) > self._max_message_bytes:
            raise TransportError(
                f"{type(message).__name__} takes {size_of(line)} bytes; max_message_bytes allows "
                f"{self._max_message_bytes}"
            )
        await self._connection.send(h11.Data(data=line))

    async def receive(self) -> Message:
        line = await self._lines.next()
        if line is None:
            self._connection.close("ended by the peer")
            raise self._connection.closed()
        try:
            message = decode_line(line)
            check_claim(message, self._connection.names)
        except (MalformedMessage, LinkClosed) as exc:
            self._connection.close(f"refused: {exc}")
            raise self._connection.closed() from exc
        return message

    async def aclose(self) -> None:
        self._connection.close()
        await trio.lowlevel.checkpoint()
