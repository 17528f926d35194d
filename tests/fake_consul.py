"""A Consul that does as it is told: one agent's HTTP API on loopback, with the answers that a real one gives seldom.

It keeps a catalog, answers blocking queries, and records every request. A test replaces single answers with ``script``.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote

import attrs
import h11
import trio

__all__ = ["FakeConsul", "Heard", "Reply", "dial", "instance"]

HERE = "here"


@attrs.frozen
class Heard:
    """A request, as it came."""

    method: str
    # Decoded.
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    # Which connection it came over, counted from 1.
    connection: int
    # When, on Trio's clock.
    at: float


@attrs.frozen
class Reply:
    """An answer."""

    status: int = 200
    body: Any = None
    # Beside those that Consul always sends; they replace them.
    headers: Mapping[str, str] = attrs.field(factory=dict)
    # How long it takes, in seconds.
    after_s: float = 0.0
    # After so many bytes of the body the connection is cut.
    cut_after: int | None = None
    # Sent as it is, in place of JSON.
    raw: bytes | None = None


@attrs.define
class _Service:
    node: str
    body: dict[str, Any]
    create_index: int
    # By check id.
    statuses: dict[str, str]


def instance(node_id: str, address: str, **more: Any) -> dict[str, Any]:
    """Return the registration of a node, as clustercore makes it, without checks."""
    host, _, port = address.rpartition(":")
    meta = {"clustercore-node-id": node_id, "clustercore-address": address, "clustercore-registrar": node_id}
    return {
        "ID": f"clustercore-{node_id}",
        "Name": "clustercore",
        "Meta": meta,
        "Address": host,
        "Port": int(port),
    } | more


# Who runs now, by host and port.
_RUNNING: dict[tuple[str, int], FakeConsul] = {}


async def dial(host: str, port: int, **_: object) -> trio.SocketStream:
    """Connect to a fake as ``trio.open_tcp_stream`` does, without a network: see ``FakeConsul.connect``."""
    await trio.lowlevel.checkpoint()
    if (host, port) not in _RUNNING:
        raise ConnectionRefusedError(f"nobody is at {host}:{port}")
    return _RUNNING[host, port].connect()


class FakeConsul:
    """One agent, and the catalog behind it."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.tls = tls
        # Its port is taken at once, and answers when it runs.
        self.host = host
        self._socket = socket.create_server((host, port), backlog=64)
        self.port: int = self._socket.getsockname()[1]
        # Every change makes it larger, as Consul's does.
        self.index = 10
        self.services: dict[tuple[str, str], _Service] = {}
        # By name: the address of the machine, and whether its agent is lost.
        self.nodes: dict[str, tuple[str, bool]] = {HERE: ("127.0.0.1", False)}
        # Whose requests are answered; None for everybody's.
        self.tokens: set[str] | None = None
        # Whether the servers have a leader, and how long ago that was heard.
        self.is_led = True
        self.lag_ms = 0
        # What everything is answered with; None for the truth.
        self.fault: Reply | None = None
        # None while requests are answered; else what ends the silence.
        self._thawed: trio.Event | None = None
        self.heard: list[Heard] = []
        self._scripts: list[tuple[Callable[[Heard], bool], Reply]] = []
        self._changed = trio.Event()
        self._nursery: trio.Nursery | None = None
        # Set, and replaced by a new one, with every request.
        self._heard_more = trio.Event()
        self._connections = 0
        # Whether every question about the members moves the index: something changes all the time.
        self.is_restless = False

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Give the port back, where it is not to run."""
        self._socket.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeConsul]:
        """Answer within the block."""
        async with trio.open_nursery() as nursery:
            listener: Any = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))
            if self.tls:
                listener = trio.SSLListener(listener, self.tls, https_compatible=True)
            nursery.start_soon(trio.serve_listeners, self._answer_connection, [listener])
            self._nursery = nursery
            _RUNNING[self.host, self.port] = self
            try:
                yield self
            finally:
                del _RUNNING[self.host, self.port]
                nursery.cancel_scope.cancel()

    def connect(self) -> trio.SocketStream:
        """Return a connection of which everything that is sent is there at once, whatever else the machine does.

        What is sent over loopback may lie in the kernel for a while, so nobody can know that nothing is under way.
        """
        assert self._nursery is not None, "it runs"
        near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
        self._nursery.start_soon(self._answer_connection, far)
        return near

    # --- What a test does ---

    def script(self, reply: Reply, path: str = "", *, method: str = "", query: Mapping[str, str] | None = None) -> None:
        """Answer the next request whose path contains this, and no other, so."""

        def matches(heard: Heard) -> bool:
            wanted = (query or {}).items()
            return path in heard.path and method in ("", heard.method) and wanted <= heard.query.items()

        self._scripts.append((matches, reply))

    @property
    def is_scripted(self) -> bool:
        """Whether an answer that was scripted has not been asked for yet."""
        return bool(self._scripts)

    def put(self, body: dict[str, Any], node: str = HERE, status: str = "") -> None:
        """Register a service, as the agent of a node does."""
        key = node, body["ID"]
        checks = body.get("Checks", ())
        statuses = {check["CheckID"]: check.get("Status", "critical") for check in checks}
        if status:
            statuses["scripted"] = status
        before = self.services.get(key)
        if before is not None and before.body == body and before.statuses == statuses:
            return
        self.change()
        self.services[key] = _Service(node, body, before.create_index if before else self.index, statuses)

    def drop(self, service_id: str, node: str = HERE) -> bool:
        """Deregister a service, and return whether it was there."""
        if self.services.pop((node, service_id), None) is None:
            return False
        self.change()
        return True

    def set_status(self, service_id: str, status: str, node: str = HERE) -> None:
        """Have a check of a service say this."""
        self.services[node, service_id].statuses["scripted"] = status
        self.change()

    def change(self, by: int = 1) -> None:
        """Move the index, and answer those who wait."""
        self.index += by
        self.wake()

    def wake(self) -> None:
        """Answer those who wait, though nothing has changed."""
        self._changed.set()
        self._changed = trio.Event()

    def freeze(self) -> None:
        """Answer nothing, and close nothing, until ``thaw``: as a process that was stopped."""
        self._thawed = trio.Event()

    def thaw(self) -> None:
        """Answer again."""
        if self._thawed is not None:
            self._thawed.set()
            self._thawed = None

    def asked(self, path: str, method: str = "") -> list[Heard]:
        """Return the requests so far whose path contains this."""
        return [heard for heard in self.heard if path in heard.path and method in ("", heard.method)]

    async def wait_asked(self, path: str, count: int = 1, method: str = "") -> Heard:
        """Wait until so many requests have a path that contains this, and return the last of those."""
        while len(self.asked(path, method)) < count:
            await self._heard_more.wait()
        return self.asked(path, method)[count - 1]

    # --- Answering ---

    async def _answer_connection(self, stream: trio.abc.Stream) -> None:
        self._connections += 1
        number = self._connections
        connection = h11.Connection(h11.SERVER)
        async with stream:
            try:
                while True:
                    heard = await self._next_request(stream, connection, number)
                    if heard is None:
                        return
                    await self._answer(stream, connection, heard)
                    if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                        return
                    connection.start_next_cycle()
            except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
                # The client has gone, as clients may.
                return

    async def _next_request(self, stream: trio.abc.Stream, connection: h11.Connection, number: int) -> Heard | None:
        request: h11.Request | None = None
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some()))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                path, _, query = request.target.decode().partition("?")
                heard = Heard(
                    method=request.method.decode(),
                    path=unquote(path),
                    query=dict(parse_qsl(query, keep_blank_values=True)),
                    headers={name.decode(): value.decode() for name, value in request.headers},
                    body=json.loads(body) if body else None,
                    connection=number,
                    at=trio.current_time(),
                )
                self.heard.append(heard)
                self._heard_more.set()
                self._heard_more = trio.Event()
                return heard
            else:
                return None

    async def _answer(self, stream: trio.abc.Stream, connection: h11.Connection, heard: Heard) -> None:
        reply = next((reply for matches, reply in self._scripts if matches(heard)), None)
        if reply is not None:
            self._scripts.remove(next(one for one in self._scripts if one[1] is reply))
        else:
            reply = await self._judge(heard)
        reply = self.fault or reply
        # Together with the answer: what changes before it is sent is not in it.
        index = self.index
        await trio.sleep(reply.after_s)
        while self._thawed is not None:
            await self._thawed.wait()
        content = reply.raw if reply.raw is not None else b"" if reply.body is None else json.dumps(reply.body).encode()
        headers = {
            "Content-Length": str(len(content)),
            "X-Consul-Index": str(index),
            "X-Consul-KnownLeader": "true" if self.is_led else "false",
            "X-Consul-LastContact": str(self.lag_ms),
        } | dict(reply.headers)
        if reply.cut_after is not None:
            content = content[: reply.cut_after]
        sent = connection.send(h11.Response(status_code=reply.status, headers=list(headers.items()))) or b""
        await stream.send_all(sent + (connection.send(h11.Data(content)) or b""))
        if reply.cut_after is None:
            await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
        else:
            connection.send_failed()

    async def _judge(self, heard: Heard) -> Reply:
        if self.tokens is not None and heard.headers.get("x-consul-token") not in self.tokens:
            return Reply(403, raw=b"Permission denied")
        if heard.path.startswith("/v1/health/service/"):
            return await self._tell_health(heard)
        if not self.is_led and "/catalog/" in heard.path:
            return Reply(500, raw=b"No cluster leader")
        answer = {
            "/v1/agent/service/register": self._register,
            "/v1/catalog/deregister": self._deregister_from_catalog,
        }.get(heard.path)
        if answer is None:
            kind, _, name = heard.path.removeprefix("/v1/agent/").partition("/")
            what, _, rest = name.partition("/")
            if (kind, what) == ("service", "deregister"):
                self.drop(rest)
                return Reply()
            if (kind, what) == ("check", "update"):
                return self._update(rest, heard.body["Status"])
            if kind == "service":
                service = self.services.get((HERE, name))
                return Reply(body=service.body) if service else Reply(404, raw=f"unknown service ID: {name}".encode())
            return Reply(404, raw=b"there is no such page")
        return answer(heard)

    def _register(self, heard: Heard) -> Reply:
        self.put(heard.body)
        return Reply()

    def _deregister_from_catalog(self, heard: Heard) -> Reply:
        self.drop(heard.body["ServiceID"], heard.body["Node"])
        return Reply(body=True)

    def _update(self, check_id: str, status: str) -> Reply:
        for service in self.services.values():
            if service.node == HERE and check_id in service.statuses:
                if service.statuses[check_id] != status:
                    service.statuses[check_id] = status
                    self.change()
                return Reply()
        # As Consul 1.8 says it.
        return Reply(500, raw=f'CheckID "{check_id}" does not have associated TTL'.encode())

    async def _tell_health(self, heard: Heard) -> Reply:
        if "consistent" in heard.query and not self.is_led:
            return Reply(500, raw=b"No cluster leader")
        behind = int(heard.query.get("index", 0))
        self.index += self.is_restless
        if behind:
            with trio.move_on_after(int(heard.query["wait"].removesuffix("ms")) / 1000):
                changed = self._changed
                if self.index <= behind:
                    await changed.wait()
        return Reply(body=self.health(heard.path.rpartition("/")[2]))

    def health(self, name: str = "clustercore") -> list[dict[str, Any]]:
        """Return what Consul says of a service's instances."""
        return [self._tell(service) for service in self.services.values() if service.body["Name"] == name]

    def _tell(self, service: _Service) -> dict[str, Any]:
        address, is_lost = self.nodes[service.node]
        body = service.body
        checks = [{"CheckID": "serfHealth", "Status": "critical" if is_lost else "passing"}]
        checks += [{"CheckID": check_id, "Status": status} for check_id, status in service.statuses.items()]
        return {
            "Node": {"Node": service.node, "Address": address},
            "Service": {key: body.get(key) for key in ("ID", "Tags", "Meta", "Address", "Port")}
            | {"Service": body["Name"], "CreateIndex": service.create_index},
            "Checks": checks,
        }
