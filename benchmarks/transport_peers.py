"""The two sides that ``compare_transports`` measures: an echo in a process of its own, and what calls it.

Every kind of peer gives the same two ways to ask: ``request``, one call and its answer, and ``stream``, messages and
their answers on one connection, pipelined. Run as a program, this module is the echo.
"""

from __future__ import annotations

import inspect
import json
import queue
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import asynccontextmanager, suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import attrs
import trio

from clustercore.interfaces import (
    AppendEntriesRequest,
    Entry,
    EntryKind,
    Lane,
    Link,
    LinkClosed,
    LogIndex,
    NodeId,
    Service,
    ServiceTransport,
    Term,
    Transport,
)
from clustercore_memory import MemoryNetwork, MemoryTransport

__all__ = ["GRPCIO", "RAW", "ROOT", "Latencies", "Peer", "installed", "open_peer", "takes_tls"]

ROOT = Path(__file__).resolve().parent.parent

# Beside the transports: a bare echo of frames over Trio's sockets, and Google's gRPC.
RAW, GRPCIO = "raw trio", "grpcio"
METHOD = "bench.Echo/Echo"
# As patient as a loaded machine needs.
OPTIONS: dict[str, Any] = {"timeout": 60.0, "keepalive_time_ms": 30_000, "keepalive_timeout_ms": 30_000}


@attrs.frozen
class Latencies:
    """How long each answer took, in seconds, and all of them together."""

    each_s: list[float]
    elapsed_s: float


class Peer(ABC):
    """What calls an echo.

    A measurement keeps ``outstanding`` payloads on their way until ``seconds`` have passed, and makes one of each at
    least, however busy the machine is.
    """

    async def request(self, payload: bytes, outstanding: int, seconds: float) -> Latencies | None:
        """Make calls; None if this kind of peer has none."""
        return None

    @abstractmethod
    async def stream(self, payload: bytes, outstanding: int, seconds: float) -> Latencies:
        """Send on one connection, and receive the answers."""


# --- Transports ------------------------------------------------------------------------------------------------------


def installed() -> dict[str, type[Transport]]:
    """Return the class of every transport that is installed, by name."""
    return {entry.name: entry.load() for entry in sorted(entry_points(group="clustercore.transports"))}


def takes_tls(name: str) -> bool:
    """Say whether a transport can be given certificates."""
    return "tls_certificate" in inspect.signature(installed()[name]).parameters


def make(name: str, tls: dict[str, str]) -> Transport:
    """Make a transport with those of the options that it knows."""
    factory = installed()[name]
    known = inspect.signature(factory).parameters
    return factory(**{option: value for option, value in (OPTIONS | tls).items() if option in known})


async def echo(link: Link) -> None:
    """Send every message back, until the link closes."""
    with suppress(LinkClosed):
        while True:
            await link.send(await link.receive())


async def same(request: bytes) -> bytes:
    """Answer a call."""
    return request


async def serve(transport: Transport, *, task_status: trio.TaskStatus[str]) -> None:
    """Serve the echo."""
    if isinstance(transport, ServiceTransport):
        transport.offer([Service("bench.Echo", unary={"Echo": same})])
    await transport.serve(echo, task_status=task_status)


class TransportPeer(Peer):
    """Calls over a transport."""

    def __init__(self, transport: Transport, address: str) -> None:
        self._transport = transport
        self._address = address

    async def request(self, payload: bytes, outstanding: int, seconds: float) -> Latencies | None:
        transport = self._transport
        if not isinstance(transport, ServiceTransport):
            return None
        each_s: list[float] = []
        started = time.perf_counter()

        async def call_repeatedly() -> None:
            sent = started
            while not each_s or sent < started + seconds:
                sent = time.perf_counter()
                assert len(await transport.call(self._address, METHOD, payload)) == len(payload)
                each_s.append(time.perf_counter() - sent)

        async with trio.open_nursery() as nursery:
            for _ in range(outstanding):
                nursery.start_soon(call_repeatedly)
        return Latencies(each_s, time.perf_counter() - started)

    async def stream(self, payload: bytes, outstanding: int, seconds: float) -> Latencies:
        entry = Entry.create(LogIndex(1), Term(1), EntryKind.COMMAND, payload)
        message = AppendEntriesRequest(Term(1), NodeId("n1"), LogIndex(0), Term(0), LogIndex(0), (entry,))
        async with await self._transport.connect(self._address, Lane.BULK) as link:
            return await _pipeline(lambda: link.send(message), link.receive, outstanding, seconds)


async def _pipeline(send: Any, receive: Any, outstanding: int, seconds: float) -> Latencies:
    """Send as long as fewer than ``outstanding`` are unanswered; receive the answers, in order."""
    each_s: list[float] = []
    sent_at: list[float] = []
    started = time.perf_counter()
    window = trio.Semaphore(outstanding)

    async def send_all() -> None:
        while not sent_at or time.perf_counter() < started + seconds:
            await window.acquire()
            sent_at.append(time.perf_counter())
            await send()

    async def receive_all() -> None:
        while True:
            await receive()
            each_s.append(time.perf_counter() - sent_at[len(each_s)])
            window.release()

    if outstanding == 1:
        # As one task would do it: no hand-over from one to the other.
        now = started
        while not each_s or now < started + seconds:
            now = time.perf_counter()
            await send()
            await receive()
            each_s.append(time.perf_counter() - now)
        return Latencies(each_s, time.perf_counter() - started)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_all)
        await send_all()
        for _ in range(outstanding):
            await window.acquire()
        elapsed_s = time.perf_counter() - started
        nursery.cancel_scope.cancel()
    return Latencies(each_s, elapsed_s)


# --- Baselines -------------------------------------------------------------------------------------------------------


class RawPeer(Peer):
    """Frames over Trio's sockets, and nothing else: what no transport on Trio can beat."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)

    async def stream(self, payload: bytes, outstanding: int, seconds: float) -> Latencies:
        frame = len(payload).to_bytes(4, "big") + payload
        async with await trio.open_tcp_stream(self._host, self._port) as stream:
            unread = bytearray()
            return await _pipeline(
                lambda: stream.send_all(frame), lambda: _take_frame(stream, unread), outstanding, seconds
            )


async def _take_frame(stream: trio.SocketStream, unread: bytearray) -> bytes:
    while len(unread) < 4 or len(unread) < 4 + int.from_bytes(unread[:4], "big"):
        chunk = await stream.receive_some(65536)
        if not chunk:
            raise EOFError
        unread += chunk
    end = 4 + int.from_bytes(unread[:4], "big")
    frame = bytes(unread[:end])
    del unread[:end]
    return frame


async def _serve_raw(*, task_status: trio.TaskStatus[str]) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        unread = bytearray()
        with suppress(EOFError):
            while True:
                await stream.send_all(await _take_frame(stream, unread))

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}")
    await trio.serve_listeners(answer, listeners)


class GrpcioPeer(Peer):
    """Google's implementation, whose core is in C."""

    def __init__(self, address: str) -> None:
        import grpc

        self._channel = grpc.insecure_channel(address, options=_GRPCIO_OPTIONS)

    async def request(self, payload: bytes, outstanding: int, seconds: float) -> Latencies | None:
        return await trio.to_thread.run_sync(self._request, payload, outstanding, seconds)

    def _request(self, payload: bytes, outstanding: int, seconds: float) -> Latencies:
        # The stubs know calls only with a serializer.
        call: Any = self._channel.unary_unary(f"/{METHOD}")
        each_s: list[float] = []
        started = time.perf_counter()

        def call_repeatedly() -> None:
            sent = started
            while not each_s or sent < started + seconds:
                sent = time.perf_counter()
                call(payload)
                each_s.append(time.perf_counter() - sent)

        with futures.ThreadPoolExecutor(outstanding) as pool:
            for done in [pool.submit(call_repeatedly) for _ in range(outstanding)]:
                done.result()
        return Latencies(each_s, time.perf_counter() - started)

    async def stream(self, payload: bytes, outstanding: int, seconds: float) -> Latencies:
        return await trio.to_thread.run_sync(self._stream, payload, outstanding, seconds)

    def _stream(self, payload: bytes, outstanding: int, seconds: float) -> Latencies:
        window: queue.SimpleQueue[None] = queue.SimpleQueue()
        sent_at: list[float] = []
        each_s: list[float] = []
        started = time.perf_counter()

        def requests() -> Iterator[bytes]:
            while not sent_at or time.perf_counter() < started + seconds:
                window.get()
                sent_at.append(time.perf_counter())
                yield payload

        for _ in range(outstanding):
            window.put(None)
        call: Any = self._channel.stream_stream(f"/{METHOD}Stream")
        for _ in call(requests()):
            each_s.append(time.perf_counter() - sent_at[len(each_s)])
            window.put(None)
        return Latencies(each_s, time.perf_counter() - started)


_GRPCIO_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


async def _serve_grpcio(*, task_status: trio.TaskStatus[str]) -> None:
    import grpc

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Echo": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
        "EchoStream": grpc.stream_stream_rpc_method_handler(lambda requests, context: requests),
    }
    server = grpc.server(futures.ThreadPoolExecutor(64), options=_GRPCIO_OPTIONS)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("bench.Echo", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    task_status.started(f"127.0.0.1:{port}")
    try:
        await trio.sleep_forever()
    finally:
        server.stop(0)


# --- Two processes ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_peer(name: str, tls: dict[str, str]) -> AsyncIterator[Peer]:
    """Start an echo of a kind, and yield what calls it."""
    if name == "memory":
        # There is no way to it from another process.
        network = MemoryNetwork()
        server, client = MemoryTransport(network, "server"), MemoryTransport(network, "client")
        async with server, client, trio.open_nursery() as nursery:
            yield TransportPeer(client, await nursery.start(serve, server))
            nursery.cancel_scope.cancel()
        return
    command = [sys.executable, "-m", __spec__.name, name, json.dumps(tls)]
    with subprocess.Popen(  # noqa: ASYNC220  # nothing else happens meanwhile
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        try:
            address = (await trio.to_thread.run_sync(process.stdout.readline)).strip()
            if name == RAW:
                yield RawPeer(address)
            elif name == GRPCIO:
                yield GrpcioPeer(address)
            else:
                transport = make(name, tls)
                async with transport:
                    yield TransportPeer(transport, address)
        finally:
            process.kill()


async def _be_the_echo(name: str, tls: dict[str, str]) -> None:
    async with trio.open_nursery() as nursery:
        if name == RAW:
            print(await nursery.start(_serve_raw), flush=True)
        elif name == GRPCIO:
            print(await nursery.start(_serve_grpcio), flush=True)
        else:
            transport = await nursery.start(_open, make(name, tls))
            print(await nursery.start(serve, transport), flush=True)
        await trio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


async def _open(transport: Transport, *, task_status: trio.TaskStatus[Transport]) -> None:
    async with transport:
        task_status.started(transport)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(_be_the_echo, sys.argv[1], json.loads(sys.argv[2]))
