"""Messages in base 64, one on a line, over TCP."""

from base64 import b64decode, b64encode
from types import TracebackType

import trio

from clustercore import interfaces as cc

MAX_MESSAGE_BYTES = 8 * 1024 * 1024


class LinesLink(cc.Link):
    def __init__(self, connection: cc.SocketConnection) -> None:
        self._connection = connection
        self._unread = bytearray()

    async def send(self, message: cc.Message) -> None:
        data = cc.encode_message(message)
        if len(data) > MAX_MESSAGE_BYTES:
            raise cc.TransportError(f"{len(data)} bytes are more than {MAX_MESSAGE_BYTES}")
        try:
            await self._connection.stream.send_all(b64encode(data) + b"\n")
        except cc.LOST as error:
            raise cc.LinkClosed("the connection has ended") from error
        except trio.Cancelled:
            self._connection.close()
            raise

    async def receive(self) -> cc.Message:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            while (end := self._unread.find(b"\n")) < 0:
                chunk = await self._connection.stream.receive_some()
                if not chunk or len(self._unread) > 2 * MAX_MESSAGE_BYTES:
                    raise ValueError("the connection ended inside a line, or the line does not end")
                self._unread += chunk
            message = cc.decode_message(b64decode(self._unread[:end], validate=True))
        except (ValueError, *cc.LOST) as error:
            self._connection.close()
            raise cc.LinkClosed(str(error)) from error
        del self._unread[: end + 1]
        await trio.lowlevel.cancel_shielded_checkpoint()
        return message

    async def aclose(self) -> None:
        self._connection.close()
        await trio.lowlevel.checkpoint()


class LinesTransport(cc.Transport):
    max_message_bytes = MAX_MESSAGE_BYTES

    def __init__(self, listen: str = "127.0.0.1:0") -> None:
        self._host, self._port = cc.split_address(listen)
        self._dialled: list[cc.SocketConnection] = []

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for connection in self._dialled:
            connection.close()

    async def serve(self, accept: cc.AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        async def answer(connection: cc.SocketConnection) -> None:
            await accept(LinesLink(connection))

        await cc.serve_sockets(self._host, self._port, answer, timeout_s=5, task_status=task_status)

    async def connect(self, address: str, lane: cc.Lane) -> cc.Link:
        self._dialled.append(await cc.dial(address, timeout_s=5))
        return LinesLink(self._dialled[-1])
