"""A server that closes its connections in order, as grpcio does at a certain age: nobody notices."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio

from clustercore_grpc import GrpcTransport

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LIMIT_S = 60

SERVER = """
import sys, time
from concurrent import futures
import grpc

def shout(request, context):
    time.sleep(0.01)
    return request.upper()
def count(request, context):
    for number in range(int(request)):
        time.sleep(0.05)
        yield str(number).encode()
options = [("grpc.max_connection_age_ms", 200), ("grpc.max_connection_age_grace_ms", 30000)]
server = grpc.server(futures.ThreadPoolExecutor(32), options=options)
handlers = {
    "Shout": grpc.unary_unary_rpc_method_handler(shout),
    "Count": grpc.unary_stream_rpc_method_handler(count),
}
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.App", handlers)])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"127.0.0.1:{port}", flush=True)
sys.stdin.read()
"""


async def test_graceful_goaway_fails_no_call() -> None:
    """Under a connection age of 0.2 s every call of three seconds is answered, and a stream lives through all of it."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    answered = 0

    async def call_repeatedly(client: GrpcTransport, address: str) -> None:
        nonlocal answered
        end = trio.current_time() + 3
        while trio.current_time() < end:
            assert await client.call(address, "test.App/Shout", b"on") == b"ON"
            answered += 1

    try:
        with trio.fail_after(LIMIT_S):
            assert process.stdout is not None
            address = (await process.stdout.receive_some()).decode().strip()
            async with GrpcTransport(timeout=20.0) as client:
                async with trio.open_nursery() as nursery:
                    for _ in range(4):
                        nursery.start_soon(call_repeatedly, client, address)
                    async with client.open_stream(address, "test.App/Count", b"40") as responses:
                        assert [response async for response in responses] == [str(n).encode() for n in range(40)]
                told = client.statistics()[address]
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await stream.aclose()

    assert told.streams == 1
    assert told.ok == answered + told.streams > 20
    assert told.failed == {}
    # It did go away, several times.
    assert told.connects >= 4
    assert told.connects - 1 <= told.goaways <= told.connects
