"""What a listener answers: ``clustercore.v1.Raft``, and the services an application offers.

Each HTTP/2 stream is a Trio task in the nursery of ``Server.run``. The end of that method is the end of the service:
the listener and every connection are aborted before anything else runs, so a stopped node answers nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext

import trio
from grpclib.const import Status
from grpclib.metadata import decode_timeout
from grpclib.protocol import AbstractHandler
from grpclib.protocol import Stream as GrpclibStream
from h2.errors import ErrorCodes

from clustercore.interfaces import (
    AcceptLink,
    AppendEntriesRequest,
    AppendEntriesResponse,
    ClusterError,
    Counters,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    MalformedMessage,
    Message,
    RequestVoteRequest,
    RequestVoteResponse,
    Service,
    ServiceError,
    SocketOptions,
    StatusRequest,
    StatusResponse,
    StreamHandler,
    TransportError,
    UnaryHandler,
    ask_status,
    decode_body,
    unwrap_group,
)
from clustercore_grpc._proto.descriptor import FILE_DESCRIPTOR
from clustercore_grpc.client import CLUSTER_HEADER
from clustercore_grpc.errors import CallFailed, Headers, StreamBroken
from clustercore_grpc.health import HEALTH_SERVICE, Health
from clustercore_grpc.http2 import Http2Protocol
from clustercore_grpc.link import OneShotLink, StreamLink
from clustercore_grpc.loop import SocketLoop
from clustercore_grpc.reflection import REFLECTION_SERVICES, Reflection
from clustercore_grpc.stream import MAX_FRAME_BYTES, MessageStream

__all__ = ["RAFT_SERVICE", "RESERVED", "RPCS", "Server"]

log = logging.getLogger(__name__)

RAFT_SERVICE = "clustercore.v1.Raft"

# Names that no application may take.
RESERVED = frozenset({RAFT_SERVICE, HEALTH_SERVICE, *REFLECTION_SERVICES})

# The unary RPCs of that service: what each takes and what answers it.
RPCS: dict[str, tuple[type[Message], type[Message]]] = {
    "RequestVote": (RequestVoteRequest, RequestVoteResponse),
    "AppendEntries": (AppendEntriesRequest, AppendEntriesResponse),
    "InstallSnapshot": (InstallSnapshotRequest, InstallSnapshotResponse),
    "Status": (StatusRequest, StatusResponse),
}

# A client may name any deadline; beyond a year there is none.
MAX_DEADLINE_S = 365 * 86400.0

# A cluster has some peers with two links each, and clients; more at once than this is a fault or an attack.
MAX_CONNECTIONS = 4096

# Answers one stream, whose headers say how long it may take (in seconds, or infinity).
Answer = Callable[[MessageStream, float], Awaitable[None]]


class Server:
    """Listens, and answers until cancelled. Used once."""

    def __init__(
        self,
        loop: SocketLoop,
        options: SocketOptions,
        accept: AcceptLink,
        services: Sequence[Service],
        *,
        cluster_fault: Callable[[str], str],
        on_peer: Callable[[str], None],
    ) -> None:
        """Answer nobody yet.

        Args:
            loop: Where the sockets are.
            options: Those of the transport.
            accept: Serves a link.
            services: Those of the application.
            cluster_fault: Says why one who means a certain cluster is refused; empty if it is not.
            on_peer: Told the host of each peer that connects.
        """
        self._loop = loop
        self._options = options
        self._accept = accept
        self._cluster_fault = cluster_fault
        self._on_peer = on_peer
        self._methods = self._raft_methods()
        health = Health(self._is_answering, [RAFT_SERVICE, *(service.name for service in services)])
        for service in (*services, health.service):
            self._methods |= self._service_methods(service)
        self._reflection = Reflection(
            [FILE_DESCRIPTOR, *(service.descriptor for service in services if service.descriptor)]
        )
        for name in REFLECTION_SERVICES:
            self._methods[f"/{name}/ServerReflectionInfo"] = self._reflect
        self._connections: set[Http2Protocol] = set()
        # Of all that call: a server has no targets.
        self._counters = Counters()
        self._nursery: trio.Nursery | None = None
        self._context = contextvars.copy_context()

    async def run(self, *, task_status: trio.TaskStatus[str]) -> None:
        """Listen and answer.

        Raises: TransportError if the address cannot be listened on; whatever ``accept`` raises.
        """
        error: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    await self._listen_until_cancelled(task_status)
                finally:
                    # No await in between: tasks that are being cancelled too get no chance to answer.
                    self._nursery = None
                    for connection in list(self._connections):
                        connection.abort("the server stopped")
        except BaseExceptionGroup as group:
            error = unwrap_group(group)
        # Raised out here, so that the group is not its context.
        if error is not None:
            raise error

    async def _listen_until_cancelled(self, task_status: trio.TaskStatus[str]) -> None:
        listener = await self._listen()
        try:
            task_status.started(self._address_of(listener))
            await trio.sleep_forever()
        finally:
            # Not wait_closed: on Python 3.12 and later it waits for idle clients, and there is nothing to wait for.
            listener.close()

    async def _listen(self) -> asyncio.Server:
        host, port = self._options.host, self._options.port
        try:
            return await self._loop.listen(self._new_connection, host, port, self._options.tls)
        except OSError as exc:
            raise TransportError(f"cannot listen on {host}:{port}: {exc}") from exc

    def _address_of(self, listener: asyncio.Server) -> str:
        port: int = listener.sockets[0].getsockname()[1]
        host = self._options.host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _new_connection(self) -> Http2Protocol:
        return Http2Protocol(
            _RequestStarter(self),
            self._options,
            self._loop,
            client_side=False,
            on_made=self._take,
            on_end=self._connections.discard,
            counters=self._counters,
        )

    def _take(self, connection: Http2Protocol) -> None:
        """Count a connection that is open, TLS included."""
        self._connections.add(connection)
        if self._nursery is None:
            # Accepted by asyncio just before the listener closed.
            connection.abort("the server stopped")
        elif len(self._connections) > MAX_CONNECTIONS:
            connection.abort("too many connections")
        else:
            peer = connection.connection.socket.get_extra_info("peername")
            if peer:
                self._on_peer(peer[0])

    # --- Requests ---

    def start_request(self, stream: MessageStream, headers: Headers) -> None:
        """Start a task for a request that came in."""
        if self._nursery is None:
            stream.close("the server stopped")
        else:
            # In the context of ``serve``, not of the socket loop whose task brings the request.
            self._context.run(self._nursery.start_soon, self._answer, stream, headers)

    async def _answer(self, stream: MessageStream, headers: Headers) -> None:
        status, message = Status.UNAVAILABLE, "the node is stopping"
        retry_after_s: float | None = None
        try:
            answer, timeout_s = self._find(dict(headers))
            await answer(stream, timeout_s)
            status, message = Status.OK, ""
        except CallFailed as exc:
            status, message, retry_after_s = exc.status, str(exc), exc.retry_after_s
        except StreamBroken as exc:
            # Nobody is left to tell.
            status, message = Status.CANCELLED, str(exc)
        finally:
            try:
                stream.finish(status, message, retry_after_s)
                await stream.drain()
            finally:
                stream.close("the request is done", ErrorCodes.NO_ERROR)

    def _find(self, headers: dict[str, str]) -> tuple[Answer, float]:
        if headers.get(":method") != "POST" or not headers.get("content-type", "").startswith("application/grpc"):
            raise CallFailed(Status.INVALID_ARGUMENT, "this is a gRPC server")
        if self._options.token and not self._options.is_token(_token_of(headers)):
            raise CallFailed(Status.UNAUTHENTICATED, "the token is wrong, or there is none")
        fault = self._cluster_fault(headers.get(CLUSTER_HEADER, ""))
        if fault:
            raise CallFailed(Status.PERMISSION_DENIED, fault)
        path = headers.get(":path", "")
        answer = self._methods.get(path)
        if answer is None:
            raise CallFailed(Status.UNIMPLEMENTED, f"there is no method {path!r}")
        timeout = headers.get("grpc-timeout")
        try:
            return answer, float("inf") if timeout is None else min(decode_timeout(timeout), MAX_DEADLINE_S)
        except ValueError as exc:
            raise CallFailed(Status.INVALID_ARGUMENT, str(exc)) from exc

    # --- Raft ---

    def _raft_methods(self) -> dict[str, Answer]:
        methods: dict[str, Answer] = {f"/{RAFT_SERVICE}/{rpc}": self._one_shot(rpc) for rpc in RPCS}
        methods[f"/{RAFT_SERVICE}/Exchange"] = self._exchange
        return methods

    async def _exchange(self, stream: MessageStream, timeout_s: float) -> None:
        # A client that named a deadline ends the stream itself when it has passed.
        def close(reason: str) -> None:
            stream.finish(Status.OK)
            stream.stop_receiving(reason)

        stream.send_headers_nowait()
        try:
            await self._accept(StreamLink(stream, _peer_of(stream), close))
        finally:
            close("accept returned")

    def _one_shot(self, rpc: str) -> Answer:
        request_type, response_type = RPCS[rpc]

        async def answer(stream: MessageStream, timeout_s: float) -> None:
            limit_s = min(timeout_s, self._options.timeout_s)
            deadline = trio.current_time() + limit_s
            late = f"the node did not answer {rpc} within {limit_s:g} s"
            with trio.move_on_at(deadline) as limit:
                data = await _only_message(stream)
            if limit.cancelled_caught:
                raise CallFailed(Status.DEADLINE_EXCEEDED, f"no request came within {limit_s:g} s")
            try:
                request = decode_body(request_type, data)
            except MalformedMessage as exc:
                raise CallFailed(Status.INVALID_ARGUMENT, str(exc)) from exc
            link = OneShotLink(request, response_type, stream, _peer_of(stream))

            def expire() -> None:
                link.end(late)
                stream.finish(Status.DEADLINE_EXCEEDED, late)

            # The node's task is not cancelled: like any other, this link just ends.
            stream.on_break = lambda: link.end("the client is gone")
            timer = self._loop.asyncio_loop.call_at(deadline, expire)
            try:
                await self._accept(link)
            finally:
                timer.cancel()
                link.end("accept returned")
            if not link.has_answered:
                raise CallFailed(Status.UNAVAILABLE, f"the node did not answer {rpc}")

        return answer

    # --- What every gRPC server answers ---

    async def _is_answering(self) -> bool:
        """Say whether the node answers when it is asked for its status, and says that it serves."""
        status = await ask_status(self._accept, "a health check", timeout_s=self._options.timeout_s)
        return status is not None and not status.health.not_serving

    async def _reflect(self, stream: MessageStream, timeout_s: float) -> None:
        # As with Exchange, a client that named a deadline ends the stream itself.
        stream.send_headers_nowait()
        while (request := await stream.receive()) is not None:
            try:
                response = self._reflection.answer(request)
            except MalformedMessage as exc:
                raise CallFailed(Status.INVALID_ARGUMENT, f"this is no ServerReflectionRequest: {exc}") from exc
            await stream.send(response)

    # --- Services ---

    def _service_methods(self, service: Service) -> dict[str, Answer]:
        methods: dict[str, Answer] = {}
        for name, unary in service.unary.items():
            methods[f"/{service.name}/{name}"] = self._unary(f"{service.name}/{name}", unary)
        for name, handler in service.streams.items():
            methods[f"/{service.name}/{name}"] = self._stream(f"{service.name}/{name}", handler)
        return methods

    def _unary(self, name: str, handler: UnaryHandler) -> Answer:
        async def respond(stream: MessageStream) -> None:
            response = _checked(name, await handler(await _only_message(stream)), stream)
            with stream.connection.in_one_write() if len(response) <= MAX_FRAME_BYTES else nullcontext():
                stream.send_nowait(response)
                stream.finish(Status.OK)

        return _guarded(name, respond)

    def _stream(self, name: str, handler: StreamHandler) -> Answer:
        async def respond(stream: MessageStream) -> None:
            request = await _only_message(stream)
            stream.send_headers_nowait()

            async def send(response: bytes) -> None:
                await stream.send(_checked(name, response, stream))

            await handler(request, send)

        return _guarded(name, respond)


class _RequestStarter(AbstractHandler):
    """What grpclib calls when a stream begins. Of its end, the stream itself is told."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def accept(self, stream: GrpclibStream, headers: Headers, release_stream: Callable[[], None]) -> None:
        assert isinstance(stream, MessageStream)
        stream.adopt(release_stream)
        self._server.start_request(stream, headers)

    def cancel(self, stream: GrpclibStream) -> None:
        pass

    def close(self) -> None:
        pass


def _guarded(name: str, respond: Callable[[MessageStream], Awaitable[None]]) -> Answer:
    """Run an application's handler until it is done, its deadline, or the client's leaving; translate its errors."""

    async def answer(stream: MessageStream, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s) as limit:
            stream.on_break = limit.cancel
            if not stream.is_open:
                # It broke before there was anything to cancel.
                limit.cancel()
            try:
                await respond(stream)
            except ServiceError as exc:
                raise CallFailed(Status.INVALID_ARGUMENT, str(exc), exc.retry_after_s) from exc
            except ClusterError as exc:
                hint = exc.retry_after_s if isinstance(exc, TransportError) else None
                raise CallFailed(Status.UNAVAILABLE, str(exc), hint) from exc
            except (CallFailed, StreamBroken):
                raise
            except Exception as exc:
                # A bug in one request of one application; the node goes on, the client and the log are told.
                log.exception("the handler of %s failed", name)
                raise CallFailed(Status.INTERNAL, f"the handler of {name} failed") from exc
        if limit.cancelled_caught and stream.is_open:
            raise CallFailed(Status.DEADLINE_EXCEEDED, f"{name} took longer than the client allowed")

    return answer


def _token_of(headers: dict[str, str]) -> bytes:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip().encode(errors="surrogatepass") if scheme.lower() == "bearer" else b""


async def _only_message(stream: MessageStream) -> bytes:
    """Receive the one message of a request that has only one."""
    message = await stream.receive()
    if message is None:
        raise CallFailed(Status.INVALID_ARGUMENT, "the request holds no message")
    return message


def _checked(name: str, response: bytes, stream: MessageStream) -> bytes:
    if len(response) > stream.max_message_bytes:
        text = f"the response of {name} takes {len(response)} bytes; at most {stream.max_message_bytes} are allowed"
        raise CallFailed(Status.RESOURCE_EXHAUSTED, text)
    return response


def _peer_of(stream: MessageStream) -> str:
    address = stream.connection.socket.get_extra_info("peername")
    return f"{address[0]}:{address[1]}" if address else "a client"
