"""grpcio, Google's implementation, against ours: its client at our server, our client at its, in the clear and TLS."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from clustercore.interfaces import (
    Link,
    LinkClosed,
    LogIndex,
    NodeId,
    NodeStatus,
    PeerTimeout,
    Role,
    Service,
    ServiceError,
    StatusResponse,
    Term,
)
from clustercore_grpc import GrpcTransport
from clustercore_grpc.health import Health
from clustercore_kv._proto.descriptor import FILE_DESCRIPTOR
from tests.certificates import Authority, Files

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LIMIT_S = 60
LARGE = 8_000_000

# What both sides of each test do; the first argument is the address, the others are the files of TLS if there are any.
CLIENT = """
import sys
import grpc

options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
address, *files = sys.argv[1:]
if files:
    certificate, key, authority = (open(path, "rb").read() for path in files)
    channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, key, certificate), options)
else:
    channel = grpc.insecure_channel(address, options)
print(channel.unary_unary("/test.App/Shout")(b"unary", timeout=30))
print(list(channel.unary_stream("/test.App/Count")(b"3", timeout=30)))
large = channel.unary_unary("/test.App/Shout")(b"a" * 8_000_000, timeout=30)
print(len(large), large[:1])
for method in ("Wait", "Refuse", "Nothing"):
    try:
        channel.unary_unary("/test.App/" + method)(b"", timeout=0.2 if method == "Wait" else 30)
    except grpc.RpcError as error:
        print(method, error.code().name)
"""

SERVER = """
import sys, time
from concurrent import futures
import grpc

options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()
def wait(request, context):
    assert context.time_remaining() < 1.5, "our client tells its deadline"
    time.sleep(3)
    return b""
def refuse(request, context):
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "never")
server = grpc.server(futures.ThreadPoolExecutor(4), options=options)
handlers = {
    "Shout": grpc.unary_unary_rpc_method_handler(lambda request, context: request.upper()),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Wait": grpc.unary_unary_rpc_method_handler(wait),
    "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
}
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.App", handlers)])
if sys.argv[1:]:
    certificate, key, authority = (open(path, "rb").read() for path in sys.argv[1:])
    credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
else:
    port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"127.0.0.1:{port}", flush=True)
sys.stdin.read()
"""

STOCK = """
import sys
import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1])
health = health_pb2_grpc.HealthStub(channel)
for name in ("", "clustercore.v1.Raft", "clustercore.v1.KeyValue"):
    answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
    print(name, health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
try:
    health.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=30)
except grpc.RpcError as error:
    print(error.code().name)
watch = health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=30)
print("watch", next(watch).status)
watch.cancel()
print("watch", next(health.Watch(health_pb2.HealthCheckRequest(service="nothing"), timeout=30)).status)

database = ProtoReflectionDescriptorDatabase(channel)
print(*sorted(database.get_services()))
pool = DescriptorPool(database)
print(*(method.name for method in pool.FindServiceByName("clustercore.v1.Raft").methods))
print(pool.FindMessageTypeByName("clustercore.v1.PutRequest").fields_by_name["key"].number)
try:
    pool.FindServiceByName("nothing.Here")
except KeyError:
    print("unknown")
"""


@pytest.fixture(params=["clear", "tls"])
def sides(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Files | None, Files | None]:
    """The files of a server and of a client, or none for both."""
    if request.param == "clear":
        return None, None
    authority = Authority(tmp_path)
    return authority.issue("server"), authority.issue("client")


def transport(files: Files | None, timeout: float = 30.0) -> GrpcTransport:
    """Make ours."""
    return GrpcTransport(timeout=timeout, **(files.options if files else {}))  # type: ignore[arg-type]


def paths(files: Files | None) -> list[str]:
    """Name the files on a command line."""
    return [files.tls_certificate, files.tls_key, files.tls_authority] if files else []


async def shout(request: bytes) -> bytes:
    """Answer in capitals."""
    return request.upper()


async def count(request: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Answer with numbers."""
    for number in range(int(request)):
        await send(str(number).encode())


async def wait(request: bytes) -> bytes:
    """Answer never."""
    await trio.sleep_forever()
    raise AssertionError


async def refuse(request: bytes) -> bytes:
    """Refuse."""
    raise ServiceError("never")


async def tell_status(link: Link) -> None:
    """Answer status requests, until the link closes."""
    zero = LogIndex(0)
    status = NodeStatus(NodeId("n1"), Role.FOLLOWER, Term(1), None, zero, zero, LogIndex(1), zero, 0, ())
    try:
        while True:
            await link.receive()
            await link.send(StatusResponse(status))
    except LinkClosed:
        return


@asynccontextmanager
async def serving(server: GrpcTransport, accept: Callable[[Link], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve in the background; yields the address."""
    with trio.fail_after(LIMIT_S):
        async with server, trio.open_nursery() as nursery:
            yield await nursery.start(server.serve, accept)
            nursery.cancel_scope.cancel()


async def output_of(program: str, *arguments: str) -> list[str]:
    """Run a Python program; return the lines it prints."""
    done = await trio.run_process([sys.executable, "-c", program, *arguments], capture_stdout=True)
    return done.stdout.decode().splitlines()


async def test_grpcio_client_at_our_server(sides: tuple[Files | None, Files | None]) -> None:
    """Unary, streaming, large messages, its deadline, a refusal and an unknown method, each with the status for it."""
    server = transport(sides[0])
    server.offer(
        [Service("test.App", unary={"Shout": shout, "Wait": wait, "Refuse": refuse}, streams={"Count": count})]
    )
    async with serving(server, tell_status) as address:
        lines = await output_of(CLIENT, address, *paths(sides[1]))

    assert lines == [
        "b'UNARY'",
        "[b'0', b'1', b'2']",
        f"{LARGE} b'A'",
        "Wait DEADLINE_EXCEEDED",
        "Refuse INVALID_ARGUMENT",
        "Nothing UNIMPLEMENTED",
    ]


async def test_our_client_at_a_grpcio_server(sides: tuple[Files | None, Files | None]) -> None:
    """The same the other way round, each with the error for it."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", SERVER, *paths(sides[0])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        with trio.fail_after(LIMIT_S):
            assert process.stdout is not None
            address = (await process.stdout.receive_some()).decode().strip()
            async with transport(sides[1]) as client:
                assert await client.call(address, "test.App/Shout", b"unary") == b"UNARY"
                async with client.open_stream(address, "test.App/Count", b"3") as responses:
                    assert [response async for response in responses] == [b"0", b"1", b"2"]
                assert await client.call(address, "test.App/Shout", b"a" * LARGE) == b"A" * LARGE
                with pytest.raises(ServiceError, match="never"):
                    await client.call(address, "test.App/Refuse", b"")
                with pytest.raises(ServiceError, match="UNIMPLEMENTED"):
                    await client.call(address, "test.App/Nothing", b"")
            async with transport(sides[1], timeout=1.0) as client:
                with pytest.raises(PeerTimeout):
                    await client.call(address, "test.App/Wait", b"")
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await stream.aclose()


async def test_stock_health_and_reflection_clients_work_against_a_node() -> None:
    """Google's health client learns who serves, and its reflection client what the services are."""
    server = transport(None)
    server.offer([Service("clustercore.v1.KeyValue", unary={"Put": shout}, descriptor=FILE_DESCRIPTOR)])
    async with serving(server, tell_status) as address:
        lines = await output_of(STOCK, address)

    assert lines == [
        " SERVING",
        "clustercore.v1.Raft SERVING",
        "clustercore.v1.KeyValue SERVING",
        "NOT_FOUND",
        "watch 1",
        "watch 3",
        "clustercore.v1.KeyValue clustercore.v1.Raft",
        "RequestVote AppendEntries InstallSnapshot Status Exchange",
        "1",
        "unknown",
    ]


async def test_health_of_a_node_that_does_not_answer_is_not_serving() -> None:
    """A listener whose node is stuck is not well, and a watch tells when that changes."""
    answers = [False]
    sent: list[bytes] = []

    async def ask() -> bool:
        await trio.lowlevel.checkpoint()
        return answers[-1]

    async def send(response: bytes) -> None:
        sent.append(response)
        answers.append(not answers[-1])
        await trio.lowlevel.checkpoint()

    health = Health(ask, ["test.App"])
    assert await health.check(b"\x0a\x08test.App") == b"\x08\x02"
    with trio.move_on_after(1.5):
        await health.watch(b"", send)
    assert sent == [b"\x08\x02", b"\x08\x01"]
    with pytest.raises(ServiceError):
        await health.check(b"\x0a\x09")
