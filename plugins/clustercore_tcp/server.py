"""The accepting side of a connection: what it is for, and the calls on it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import trio

from clustercore.interfaces import (
    AcceptLink,
    CallFailure,
    LinkClosed,
    OfferedServices,
    SocketOptions,
    TransportError,
)
from clustercore_tcp.connection import Connection
from clustercore_tcp.frames import Kind
from clustercore_tcp.link import TcpLink

__all__ = ["CALLS", "LANES", "Server", "failed_payload", "opening_payload", "read_failure"]

log = logging.getLogger("clustercore")

# The first byte of OPEN: what the connection is for.
CALLS = b"s"
LANES = {"control": b"c", "bulk": b"b"}

# A connection for calls that nobody used for so long is closed: its client may have vanished without a word.
IDLE_S = 60.0


class Server:
    """Answers connections, each in the task that accepted it."""

    def __init__(
        self,
        options: SocketOptions,
        accept: AcceptLink,
        services: OfferedServices,
        cluster_fault: Callable[[str], str],
    ) -> None:
        self._options = options
        self._accept = accept
        self._services = services
        self._cluster_fault = cluster_fault

    async def answer(self, connection: Connection) -> None:
        """Find out what a connection is for, and do that until it ends."""
        try:
            purpose = await self._open(connection)
            if purpose is None:
                return
            if purpose == CALLS:
                connection.is_free = True
                while True:
                    await self._answer_call(connection)
            link = TcpLink(connection, self._options.max_message_bytes)
        except LinkClosed as exc:
            log.debug("a connection ended: %s", exc)
            return
        await self._accept(link)

    async def _open(self, connection: Connection) -> bytes | None:
        """Take the first frame; return what the connection is for, or None if it is refused."""
        connection.expect_magic()
        with trio.move_on_after(self._options.timeout_s):
            kind, payload = await connection.receive()
            refusal = self._fault_of(kind, payload)
            if not refusal:
                connection.opened()
                await connection.send(Kind.ACCEPTED)
                return payload[:1]
            log.warning("refused a connection from %s: %s", connection.peer, refusal)
            await connection.send(Kind.REFUSED, refusal.encode())
            # Until it has read that and hung up: closing with its words unread would take ours away from it.
            with trio.move_on_after(self._options.timeout_s):
                await connection.receive()
            return None
        raise LinkClosed(f"{connection.peer} did not say within {self._options.timeout_s:g} s what it wants")

    def _fault_of(self, kind: Kind, payload: bytes) -> str:
        if kind is not Kind.OPEN or payload[:1] not in (CALLS, *LANES.values()):
            return "a connection begins with OPEN, and says what it is for"
        token, _, meant = payload[1:].partition(b"\0")
        if not self._options.is_token(token):
            return "the token is wrong" if self._options.token else "a token, and this node has none"
        return self._cluster_fault(meant.decode(errors="replace"))

    # --- Calls ---

    async def _answer_call(self, connection: Connection) -> None:
        with trio.move_on_after(IDLE_S) as idle:
            kind, payload = await connection.receive()
        if idle.cancelled_caught:
            raise LinkClosed(f"{connection.peer} has not called for {IDLE_S:g} s")
        if kind not in (Kind.UNARY, Kind.STREAM):
            raise LinkClosed(f"{connection.peer} sent {kind.name} where a call is expected")
        method, request = _split_call(payload)
        connection.is_free = False
        async with trio.open_nursery() as nursery:
            # A client that gives up closes its connection; then nobody needs the answer.
            nursery.start_soon(_cancel_at_end, connection, nursery.cancel_scope)
            if kind is Kind.UNARY:
                await self._answer_unary(connection, method, request)
            else:
                await self._answer_stream(connection, method, request)
            nursery.cancel_scope.cancel()
        connection.is_free = True
        if connection.end_reason is not None:
            raise connection.closed()

    async def _answer_unary(self, connection: Connection, method: str, request: bytes) -> None:
        response = await self._services.answer_unary(method, request)
        if isinstance(response, bytes):
            fault = self._too_large(method, response)
            if fault is None:
                await connection.send(Kind.RESPONSE, response)
                return
            response = fault
        await connection.send(Kind.FAILED, failed_payload(response))

    async def _answer_stream(self, connection: Connection, method: str, request: bytes) -> None:
        async def send(response: bytes) -> None:
            fault = self._too_large(method, response)
            if fault is not None:
                await connection.send(Kind.FAILED, failed_payload(fault))
                connection.close(fault.text)
                raise TransportError(fault.text)
            await connection.send(Kind.RESPONSE, response)

        failure = await self._services.answer_stream(method, request, send)
        if failure is None:
            await connection.send(Kind.END)
        else:
            await connection.send(Kind.FAILED, failed_payload(failure))

    def _too_large(self, method: str, response: bytes) -> CallFailure | None:
        allowed = self._options.max_message_bytes
        if len(response) <= allowed:
            return None
        return CallFailure(
            True, f"the response of {method} takes {len(response)} bytes; max_message_bytes allows {allowed}"
        )


async def _cancel_at_end(connection: Connection, scope: trio.CancelScope) -> None:
    try:
        # If it has its answer already, which is sent by the other task, it may make its next call.
        connection.put_back(await connection.receive())
    except LinkClosed:
        scope.cancel()


def _split_call(payload: bytes) -> tuple[str, bytes]:
    end = 2 + int.from_bytes(payload[:2], "big")
    try:
        return payload[2:end].decode(), payload[end:]
    except UnicodeDecodeError as exc:
        raise LinkClosed(f"the name of a method is no UTF-8: {exc}") from exc


def opening_payload(purpose: bytes, options: SocketOptions) -> bytes:
    """Return the payload of OPEN."""
    meant = b"\0" + options.cluster_id.encode() if options.cluster_id else b""
    return purpose + options.token + meant


# The first byte of FAILED, by whether the request is refused and whether a time to come back follows.
_FAILED = {(True, False): b"r", (False, False): b"f", (True, True): b"R", (False, True): b"F"}
_NEVER_MS = (1 << 32) - 1


def failed_payload(failure: CallFailure) -> bytes:
    """Return the payload of FAILED."""
    hint_s = failure.retry_after_s
    kind = _FAILED[failure.is_refusal, hint_s is not None]
    if hint_s is None:
        return kind + failure.text.encode()
    hint_ms = _NEVER_MS if math.isinf(hint_s) else min(math.ceil(hint_s * 1000), _NEVER_MS - 1)
    return kind + hint_ms.to_bytes(4, "big") + failure.text.encode()


def read_failure(payload: bytes) -> CallFailure:
    """Read the payload of FAILED."""
    kind, rest = payload[:1], payload[1:]
    hint_s: float | None = None
    if kind in (b"R", b"F"):
        hint_ms, rest = int.from_bytes(rest[:4], "big"), rest[4:]
        hint_s = math.inf if hint_ms == _NEVER_MS else hint_ms / 1000
    return CallFailure(kind in (b"r", b"R"), rest.decode(errors="replace"), hint_s)
