"""The asyncio event loop of one transport: the only module that knows of trio-asyncio.

What the loop is used for is sockets: connecting, listening, writing and closing. It runs in a Trio task of its own, in
a nursery that encloses everything that uses it, and no asyncio task runs in it except while a connection is made.

Reading is Trio's: a task for each connection waits until there is something and hands it to the protocol. trio-asyncio
has such a task as well, but it waits for the loop's own task after every read; a node that idles would spend a fifth of
its time on that.

trio-asyncio turns an error in any callback or forgotten task into the end of the whole loop, as nested exception
groups. Here such an error is logged, and the connection it belongs to, if that is known, is aborted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import trio

from clustercore.interfaces import TlsFiles, TransportError

with warnings.catch_warnings():
    # trio-asyncio derives from asyncio's child watchers and policies, which Python 3.12 deprecates (trio-asyncio #152).
    warnings.simplefilter("ignore", DeprecationWarning)
    try:
        import trio_asyncio
    except AttributeError as exc:
        # Python 3.14 took away names that trio-asyncio 0.16 derives from.
        raise ImportError(f"this trio-asyncio does not run on this Python (trio-asyncio #160): {exc}") from exc

__all__ = ["Reader", "SocketLoop"]

log = logging.getLogger(__name__)

# What is read at once: many messages, and still memory that the allocator keeps at hand.
_READ_BYTES = 64 * 1024

T = TypeVar("T")

ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)


class Reader(Protocol):
    """Whoever takes what a socket brings."""

    def has_ended(self) -> bool:
        """Say whether nothing more is to be read: the socket is closed, or about to be."""

    def check_alive(self) -> float:
        """Give up a peer that has gone silent; return when to look again (Trio's clock)."""

    def data_received(self, data: bytes) -> None:
        """Take some bytes."""

    def reading_ended(self, error: OSError | None) -> None:
        """Take it that nothing more comes: the peer has ended its side, or reading failed."""


class SocketLoop:
    """Runs an asyncio loop, and lends its sockets to Trio tasks."""

    def __init__(self) -> None:
        self._loop: trio_asyncio.TrioEventLoop | None = None
        # Where the tasks that read live.
        self._readers: trio.Nursery | None = None
        # Of the sockets with TLS that are open: set when one ends.
        self._ends: dict[asyncio.Transport, trio.Event] = {}
        self._opened = trio.Event()
        self._stop = trio.Event()

    async def run(self) -> None:
        """Run the loop until ``stop``. Trio-flavoured.

        Cancellation does not reach it: the loop outlives whatever a cancelled scope around the transport still has to
        close, and closing a socket needs the loop.
        """
        try:
            with trio.CancelScope(shield=True):
                async with trio_asyncio.open_loop() as loop, trio.open_nursery() as readers:
                    loop.set_exception_handler(_log_stray_error)
                    self._loop, self._readers = loop, readers
                    self._opened.set()
                    await self._stop.wait()
                    # Those of sockets that were aborted have ended, or are about to.
                    self._readers = None
        finally:
            self._loop = self._readers = None
            self._opened.set()

    async def wait_opened(self) -> None:
        """Wait until the loop runs, or has failed to. Cancellation waits too: opening is brief, and must not be cut."""
        with trio.CancelScope(shield=True):
            await self._opened.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    def stop(self) -> None:
        """Let ``run`` return, after the callbacks that are due. Sockets must have been aborted before."""
        self._stop.set()

    @property
    def asyncio_loop(self) -> asyncio.AbstractEventLoop:
        """The loop itself.

        Raises: TransportError if it does not run.
        """
        if self._loop is None:
            raise TransportError("the transport is not open: use it inside its `async with` block")
        loop: asyncio.AbstractEventLoop = self._loop
        return loop

    async def connect(self, protocol: ProtocolT, host: str, port: int, tls: TlsFiles | None) -> ProtocolT:
        """Connect ``protocol`` to an address. Trio-flavoured.

        Cancellation: the caller aborts the protocol, which may be connected already.
        Raises: OSError; TransportError if the transport is closed meanwhile.
        """
        context = None if tls is None else _for_http2(tls.client_context())
        await self._await(self.asyncio_loop.create_connection(lambda: protocol, host, port, ssl=context))
        return protocol

    async def listen(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int, tls: TlsFiles | None
    ) -> asyncio.Server:
        """Listen on an address. Trio-flavoured.

        Raises: OSError; TransportError if the transport is closed meanwhile.
        """
        context = None if tls is None else _renewing(tls)
        server: asyncio.Server = await self._await(self.asyncio_loop.create_server(factory, host, port, ssl=context))
        return server

    def start_reading(self, socket: asyncio.Transport, reader: Reader) -> None:
        """Read a socket from now on, in place of asyncio. Called by the protocol when its connection is made.

        Whoever closes the socket calls ``stop_reading`` before; the reader has ended by then.
        """
        if socket.get_extra_info("sslcontext") is not None:
            # Of TLS only asyncio knows what is a byte of the message; it calls ``data_received`` itself.
            ended = self._ends[socket] = trio.Event()
            if self._readers is not None:
                self._readers.start_soon(_look_now_and_then, reader, ended)
            return
        # asyncio begins to read after it has told the protocol of the connection, and not if it is paused by then.
        socket.pause_reading()
        fd: int = socket.get_extra_info("socket").fileno()
        if self._readers is not None:
            self._readers.start_soon(_read, fd, reader)

    def stop_reading(self, socket: asyncio.Transport) -> None:
        """Wake the task that reads a socket, because that is about to be closed. Never blocks."""
        ended = self._ends.pop(socket, None)
        if ended is not None:
            ended.set()
            return
        trio.lowlevel.notify_closing(socket.get_extra_info("socket").fileno())

    async def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop; the one place where a Trio task waits for an asyncio one."""
        loop = self._loop
        assert loop is not None
        # asyncio copies the context of whoever starts a task, and trio-asyncio finds the loop there.
        token = trio_asyncio.current_loop.set(loop)
        try:
            result: T = await loop.run_aio_coroutine(coroutine)
        except asyncio.CancelledError as exc:
            # Not from Trio, which would have raised its own: the loop is ending.
            raise TransportError("the transport is closing") from exc
        finally:
            trio_asyncio.current_loop.reset(token)
        return result


async def _look_now_and_then(reader: Reader, ended: trio.Event) -> None:
    """Let a reader whom asyncio hands what comes look whether the peer lives, until it has ended."""
    while not reader.has_ended():
        with trio.move_on_at(reader.check_alive()):
            await ended.wait()


async def _read(fd: int, reader: Reader) -> None:
    """Hand a reader what comes, until it has ended, and let it look now and then whether the peer lives."""
    while not reader.has_ended():
        # The timer is not set anew with each read: it rings now and then, and the reader knows what it read meanwhile.
        with trio.CancelScope(deadline=reader.check_alive()):
            await _read_until_ended(fd, reader)


async def _read_until_ended(fd: int, reader: Reader) -> None:
    while not reader.has_ended():
        try:
            await trio.lowlevel.wait_readable(fd)
        except trio.ClosedResourceError:
            # Said by ``stop_reading``.
            return
        if reader.has_ended():
            # The number may be another file's by now.
            return
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            continue
        except OSError as exc:
            reader.reading_ended(exc)
            return
        if not data:
            reader.reading_ended(None)
            return
        reader.data_received(data)


def _for_http2(context: ssl.SSLContext) -> ssl.SSLContext:
    # What gRPC demands of TLS (RFC 9113 §3.2); a peer that names no protocol is let in all the same.
    context.set_alpn_protocols(["h2"])
    return context


def _renewing(tls: TlsFiles) -> ssl.SSLContext:
    """Return a context for a listener, which keeps it, that takes the newest files for each handshake all the same."""
    # Not the one of ``tls``, which is to be replaced.
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.verify_mode = ssl.CERT_REQUIRED
    listening.minimum_version = ssl.TLSVersion.TLSv1_2

    def take_newest(
        connection: ssl.SSLObject | ssl.SSLSocket, server_name: str | None, context: ssl.SSLContext
    ) -> None:
        connection.context = _for_http2(tls.server_context())

    # Called also when the client names no server.
    listening.sni_callback = take_newest
    return _for_http2(listening)


def _log_stray_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handle an error that no task awaits, in place of trio-asyncio's handler, which ends the loop."""
    error = context.get("exception")
    log.error("stray error in the socket loop: %s", context.get("message"), exc_info=error)
    socket = context.get("transport")
    if isinstance(socket, asyncio.Transport):
        socket.abort()
