"""What people and programs ask a node over HTTP, with tools that are not ours."""

from __future__ import annotations

import http.client
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import attrs
import pytest
import trio

from clustercore.interfaces import (
    Link,
    LinkClosed,
    LogIndex,
    NodeId,
    NodeStatus,
    PeerStatus,
    Role,
    Service,
    ServiceError,
    StatusRequest,
    StatusResponse,
    Term,
)
from clustercore_http import HttpTransport

pytestmark = pytest.mark.integration

LIMIT_S = 30
T = TypeVar("T")
STATUS = NodeStatus(
    NodeId("n1"),
    Role.LEADER,
    Term(2),
    NodeId("n1"),
    LogIndex(5),
    LogIndex(4),
    LogIndex(1),
    LogIndex(5),
    3,
    (PeerStatus(NodeId("n2"), LogIndex(5), LogIndex(6), 0),),
)


async def tell_status(link: Link) -> None:
    """Answer status requests, until the link closes."""
    try:
        while True:
            request = await link.receive()
            assert isinstance(request, StatusRequest)
            await link.send(StatusResponse(STATUS, request.request_id))
    except LinkClosed:
        return


async def shout(request: bytes) -> bytes:
    """Answer in capitals."""
    return request.upper()


async def refuse(request: bytes) -> bytes:
    """Refuse."""
    raise ServiceError("never")


@asynccontextmanager
async def serving(token: str = "") -> AsyncIterator[str]:
    """Serve in the background; yields the address."""
    transport = HttpTransport(token=token, timeout=1.0)
    transport.offer([Service("test.App", unary={"Shout": shout, "Refuse": refuse})])
    with trio.fail_after(LIMIT_S):
        async with transport, trio.open_nursery() as nursery:
            yield await nursery.start(transport.serve, tell_status)
            nursery.cancel_scope.cancel()


async def in_thread(work: Callable[[], T]) -> T:
    """Run what blocks."""
    return await trio.to_thread.run_sync(work)


def ask(
    address: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Ask with the standard library's client; return status and body."""
    connection = http.client.HTTPConnection(address, timeout=LIMIT_S)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


async def test_curl_can_ask_a_node_for_its_status() -> None:
    """``curl http://HOST:PORT/status`` prints the status as JSON."""
    async with serving() as address:
        done = await trio.run_process(["curl", "-sS", "-f", f"http://{address}/status"], capture_stdout=True)

    told = json.loads(done.stdout)
    assert (told["node_id"], told["role"], told["term"], told["commit_index"]) == ("n1", "leader", 2, 5)
    assert told.keys() == {field.name for field in attrs.fields(NodeStatus)}
    assert [(peer["node_id"], peer["match_index"]) for peer in told["peers"]] == [("n2", 5)]


async def test_connection_is_kept_for_the_next_request() -> None:
    """Requests follow one another on one connection, also behind one that failed."""

    def ask_thrice(address: str) -> list[int]:
        connection = http.client.HTTPConnection(address, timeout=LIMIT_S)
        connection.connect()
        socket = connection.sock
        statuses = []
        for path in ("/status", "/nothing", "/status"):
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
            assert connection.sock is socket
        connection.close()
        return statuses

    async with serving() as address:
        assert await in_thread(lambda: ask_thrice(address)) == [200, 404, 200]


async def test_pipelined_requests_are_answered_in_order() -> None:
    """A client may send its next request before it has the answer to the first."""
    async with serving() as address:
        host, port = address.split(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            head = f"POST /calls/test.App/Shout HTTP/1.1\r\nHost: {address}\r\nContent-Length: 2\r\n"
            await stream.send_all(f"{head}\r\none"[:-1].encode() + f"{head}Connection: close\r\n\r\nup".encode())
            answer = b"".join([chunk async for chunk in stream])

    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.index(b"ON") < answer.index(b"UP")


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("POST", "/calls/test.App/Shout", 200, b"ON"),
        ("POST", "/calls/test.App/Refuse", 400, b"never"),
        ("POST", "/calls/test.App/Nothing", 400, b"Shout"),
        ("POST", "/calls/test.Nothing/Shout", 400, b"test.App"),
        ("GET", "/calls/test.App/Shout", 405, b"POST"),
        ("POST", "/status", 405, b"GET"),
        ("GET", "/", 404, b"/status"),
        ("GET", "/links", 404, b"/status"),
        ("GET", "/status/more", 404, b"/status"),
        ("POST", "/links/third", 404, b"bulk"),
    ],
)
async def test_request_gets_the_status_that_says_what_it_was(method: str, path: str, status: int, said: bytes) -> None:
    """What is well, malformed, unknown or of the wrong method has the HTTP status for it, and a sentence."""
    async with serving() as address:
        answered, body = await in_thread(lambda: ask(address, method, path, b"on"))

    assert answered == status
    assert said in body


async def test_token_is_asked_for_on_every_path() -> None:
    """Without the token, or with another, there is no answer but 401; with it there is."""
    async with serving("secret") as address:
        attempts: list[dict[str, str]] = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}]
        for headers in attempts:
            for path in ("/status", "/nothing"):
                status, body = await in_thread(partial(ask, address, "GET", path, b"", headers))
                assert (status, b"secret" in body) == (401, False)
        status, _ = await in_thread(lambda: ask(address, "GET", "/status", b"", {"Authorization": "Bearer secret"}))
        assert status == 200


async def test_large_body_with_expect_100_continue_is_taken() -> None:
    """A client such as curl asks first whether it may send a large body."""
    async with serving() as address:
        command = ["curl", "-sS", "-f", "--data-binary", "@-", "-H", "Expect: 100-continue"]
        done = await trio.run_process(
            [*command, f"http://{address}/calls/test.App/Shout"], stdin=b"a" * 3_000_000, capture_stdout=True
        )

    assert done.stdout == b"A" * 3_000_000
