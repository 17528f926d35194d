"""A link: a connection on which MESSAGE frames go both ways."""

from __future__ import annotations

import trio

from clustercore.interfaces import (
    Link,
    LinkClosed,
    MalformedMessage,
    Message,
    TransportError,
    check_claim,
    decode_message,
    encode_message,
)
from clustercore_tcp.connection import Connection
from clustercore_tcp.frames import Kind

__all__ = ["TcpLink"]


class TcpLink(Link):
    """Messages over one connection of its own."""

    def __init__(self, connection: Connection, max_message_bytes: int) -> None:
        self._connection = connection
        self._max_message_bytes = max_message_bytes

    async def send(self, message: Message) -> None:
        try:
            data = encode_message(message)
        except OverflowError as exc:
            raise TransportError(f"{type(message).__name__} cannot be encoded: {exc}") from exc
        if len(data) > self._max_message_bytes:
            raise TransportError(
                f"{type(message).__name__} takes {len(data)} bytes; max_message_bytes allows {self._max_message_bytes}"
            )
        await self._connection.send(Kind.MESSAGE, data)

    async def receive(self) -> Message:
        kind, payload = await self._connection.receive()
        try:
            if kind is not Kind.MESSAGE:
                raise LinkClosed(f"a frame of kind {kind.name} on a link")
            message = decode_message(payload)
            check_claim(message, self._connection.names)
        except (MalformedMessage, LinkClosed) as exc:
            self._connection.close(f"refused: {exc}")
            raise self._connection.closed() from exc
        return message

    async def aclose(self) -> None:
        self._connection.close()
        await trio.lowlevel.checkpoint()
