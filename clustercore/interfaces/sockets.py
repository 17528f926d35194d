"""What every transport over TCP needs: addresses, listening, dialling, and connections kept for the next call.

TCP_NODELAY is Trio's default; TLS is a wrapper around the stream. No function here knows what is said on a connection.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import trio

from clustercore.interfaces.errors import PeerUnreachable, TransportError
from clustercore.interfaces.tls import TlsFiles

__all__ = [
    "LOST",
    "IdleConnections",
    "SocketConnection",
    "dial",
    "format_address",
    "serve_sockets",
    "split_address",
]

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

# What Trio's streams raise when a connection has ended, by either side.
LOST = (trio.BrokenResourceError, trio.ClosedResourceError)

# A cluster has some peers with two links each, and clients; more at once than this is a fault or an attack.
MAX_CONNECTIONS = 4096
# Connections kept open to one address, and addresses to which any are kept: a cluster is small, and what is beyond is
# opened anew.
MAX_IDLE = 64
MAX_IDLE_ADDRESSES = 64


# --- Addresses -------------------------------------------------------------------------------------------------------


def split_address(address: str) -> tuple[str, int]:
    """Split "host:port", or "[host]:port" for IPv6.

    Raises: ValueError, saying what is wrong.
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("expected host:port; an IPv6 host goes in brackets, as in [::1]:7000")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ValueError("expected host:port with a port from 0 to 65535")
    return host, int(port)


def format_address(host: str, port: int) -> str:
    """Join what ``split_address`` splits."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- Connections -----------------------------------------------------------------------------------------------------


class SocketConnection:
    """A connected stream, with TLS or without, that is closed at once and by anyone.

    Trio closes a TLS stream by saying goodbye, which waits for a peer that may never read again; nothing here needs the
    goodbye, for what is said on a connection has ends of its own.
    """

    def __init__(self, stream: Stream, raw: trio.SocketStream, peer: str) -> None:
        self.stream = stream
        # Who is at the other end, for messages: its address.
        self.peer = peer
        self._raw = raw

    @property
    def certificate(self) -> dict[str, object] | None:
        """What the peer's certificate says, as ``ssl.SSLSocket.getpeercert`` gives it; None without TLS."""
        return None if isinstance(self.stream, trio.SocketStream) else self.stream.getpeercert()

    @property
    def is_quiet(self) -> bool:
        """Whether the peer has neither ended the connection nor sent anything that was not read."""
        try:
            with contextlib.closing(
                socket.fromfd(self._raw.socket.fileno(), socket.AF_INET, socket.SOCK_STREAM)
            ) as copy:
                copy.setblocking(False)
                copy.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close the socket now. Who waits on the stream gets one of ``LOST``. Idempotent."""
        self._raw.socket.close()


async def dial(address: str, *, timeout_s: float, tls: TlsFiles | None = None) -> SocketConnection:
    """Connect to an address, with the TLS handshake done.

    Cancellation: no connection is left.
    Raises: PeerUnreachable.
    """
    raw: trio.SocketStream | None = None
    try:
        host, port = split_address(address)
        with trio.fail_after(timeout_s):
            raw = await trio.open_tcp_stream(host, port)
            if tls is None:
                return SocketConnection(raw, raw, address)
            stream = trio.SSLStream(raw, tls.client_context(), server_hostname=host)
            await stream.do_handshake()
            return SocketConnection(stream, raw, address)
    except trio.TooSlowError:
        _drop(raw)
        raise PeerUnreachable(f"no connection to {address} within {timeout_s:g} s") from None
    except (OSError, ValueError, *LOST) as exc:
        _drop(raw)
        raise PeerUnreachable(f"no connection to {address}: {_reason(exc)}") from exc
    except BaseException:
        _drop(raw)
        raise


def _drop(raw: trio.SocketStream | None) -> None:
    if raw is not None:
        raw.socket.close()


def _reason(exc: BaseException) -> str:
    """Return what a failed connect says: Trio puts the words of the operating system or of TLS into the cause."""
    cause = exc.__cause__
    if isinstance(cause, BaseExceptionGroup):
        # One for each address of the host.
        return "; ".join(dict.fromkeys(_reason(attempt) for attempt in cause.exceptions))
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the peer's certificate is refused: {cause.verify_message}"
    return str(cause or exc) or type(exc).__name__


async def serve_sockets(
    host: str,
    port: int,
    handle: Callable[[SocketConnection], Awaitable[None]],
    *,
    timeout_s: float,
    tls: TlsFiles | None = None,
    on_refused: Callable[[str, str], None] = lambda peer, reason: None,
    task_status: trio.TaskStatus[str],
) -> None:
    """Listen, and run ``handle`` in a task of its own for each connection, until cancelled.

    A connection whose TLS handshake fails, or takes longer than ``timeout_s``, is dropped, and ``on_refused`` told the
    peer and the reason. Each connection is closed when its ``handle`` returns, and all of them before this returns.

    Raises: TransportError if it cannot listen; whatever ``handle`` raises.
    """
    open_connections = 0

    async def serve_one(raw: trio.SocketStream) -> None:
        nonlocal open_connections
        peer = _peer_of(raw)
        if open_connections >= MAX_CONNECTIONS:
            on_refused(peer, f"there are {MAX_CONNECTIONS} connections already")
            raw.socket.close()
            return
        open_connections += 1
        try:
            connection = await _accepted(raw, peer)
            if connection is not None:
                await handle(connection)
        finally:
            open_connections -= 1
            raw.socket.close()

    async def _accepted(raw: trio.SocketStream, peer: str) -> SocketConnection | None:
        if tls is None:
            return SocketConnection(raw, raw, peer)
        stream = trio.SSLStream(raw, tls.server_context(), server_side=True)
        try:
            with trio.fail_after(timeout_s):
                await stream.do_handshake()
        except (trio.TooSlowError, *LOST) as exc:
            on_refused(peer, f"no TLS handshake: {_reason(exc)}")
            return None
        return SocketConnection(stream, raw, peer)

    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as exc:
        raise TransportError(f"cannot listen on {format_address(host, port)}: {exc}") from exc
    task_status.started(format_address(host, listeners[0].socket.getsockname()[1]))
    await trio.serve_listeners(serve_one, listeners)


def _peer_of(raw: trio.SocketStream) -> str:
    try:
        host, port = raw.socket.getpeername()[:2]
    except OSError:
        return "a client that is gone"
    return format_address(host, port)


# --- Connections for calls -------------------------------------------------------------------------------------------


class _Kept(Protocol):
    """A connection between two calls."""

    @property
    def is_quiet(self) -> bool: ...

    def close(self) -> None: ...


C = TypeVar("C", bound=_Kept)


class IdleConnections(Generic[C]):
    """Connections that a call has left in order, for the next call to the same address.

    A connection in here that its peer has ended, or on which it said something unasked, is not given out again: so a
    call after a server's restart is made on a fresh connection, or fails with nothing sent.
    """

    def __init__(self) -> None:
        # By address, the one used last at the end.
        self._idle: dict[str, list[C]] = {}
        self._is_closed = False

    def __len__(self) -> int:
        return sum(map(len, self._idle.values()))

    def take(self, address: str) -> C | None:
        """Return one that is in order, or None: then the caller opens another."""
        idle = self._idle.get(address, [])
        while idle:
            connection = idle.pop()
            if connection.is_quiet:
                return connection
            connection.close()
        self._idle.pop(address, None)
        return None

    def put(self, address: str, connection: C) -> None:
        """Keep a connection on which nothing is under way."""
        idle = self._idle.pop(address, [])
        if self._is_closed or len(idle) >= MAX_IDLE:
            connection.close()
        else:
            idle.append(connection)
        self._idle[address] = idle
        if len(self._idle) > MAX_IDLE_ADDRESSES:
            for unused in self._idle.pop(next(iter(self._idle))):
                unused.close()

    def close(self) -> None:
        """Close all, and those that are still to come."""
        self._is_closed = True
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()
