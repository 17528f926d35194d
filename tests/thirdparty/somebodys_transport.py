"""Messages in base 64, one on a line, over TCP."""

from base64 import b64decode, b64encode

import trio

from clustercore import interfaces as cc


class LinesLink(cc.Link):
    def __init__(self, connection: cc.WatchedConnection, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._connection = connection
        self._unread = bytearray()

    async def send(self, message: cc.Message) -> None:
        data = cc.encode_message(message)
        if len(data) > self._max_message_bytes:
            raise cc.TransportError(f"{len(data)} bytes are more than {self._max_message_bytes}")
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._connection.write(b64encode(data) + b"\n")

    async def receive(self) -> cc.Message:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            while (end := self._unread.find(b"\n")) < 0:
                chunk = await self._connection.read()
                if not chunk or len(self._unread) > 2 * self._max_message_bytes:
                    raise ValueError("the connection ended inside a line, or the line does not end")
                self._unread += chunk
            message = cc.decode_message(b64decode(self._unread[:end], validate=True))
        except ValueError as error:
            self._connection.close(str(error))
            raise self._connection.closed() from error
        del self._unread[: end + 1]
        await trio.lowlevel.cancel_shielded_checkpoint()
        return message

    async def aclose(self) -> None:
        self._connection.close()
        await trio.lowlevel.checkpoint()


class LinesTransport(cc.SocketTransport[cc.WatchedConnection]):
    async def answer(self, connection: cc.WatchedConnection, accept: cc.AcceptLink) -> None:
        await accept(LinesLink(connection, self.max_message_bytes))

    async def connect(self, address: str, lane: cc.Lane) -> cc.Link:
        return LinesLink(await self.dial(address), self.max_message_bytes)
