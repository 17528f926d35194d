"""Calls on a TCP connection, as its bytes."""

from __future__ import annotations

import trio

from clustercore.interfaces import Link, Service
from clustercore_tcp import TcpTransport
from clustercore_tcp.frames import MAGIC, FrameReader, Kind, encode_frame


async def ignore(link: Link) -> None:
    """Accept links; these tests open none."""
    await trio.sleep_forever()


async def shout(request: bytes) -> bytes:
    """Answer in capitals, after a turn of the event loop."""
    await trio.lowlevel.checkpoint()
    return request.upper()


async def test_next_call_may_come_before_the_last_one_is_seen_to_end() -> None:
    """A client may call again while the server still tidies up after its last call (issue 5)."""
    transport = TcpTransport()
    transport.offer([Service("test.App", unary={"Shout": shout})])
    name = b"test.App/Shout"
    with trio.fail_after(20):
        async with transport, trio.open_nursery() as nursery:
            address: str = await nursery.start(transport.serve, ignore)
            host, port = address.split(":")
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                calls = [
                    encode_frame(Kind.UNARY, len(name).to_bytes(2, "big") + name + word) for word in (b"one", b"two")
                ]
                await stream.send_all(MAGIC + encode_frame(Kind.OPEN, b"s") + b"".join(calls))
                reader = FrameReader(1000)
                frames: list[tuple[Kind, bytes]] = []
                while len(frames) < 3:
                    reader.feed(await stream.receive_some())
                    while (frame := reader.take()) is not None:
                        frames.append(frame)
            nursery.cancel_scope.cancel()

    assert frames == [(Kind.ACCEPTED, b""), (Kind.RESPONSE, b"ONE"), (Kind.RESPONSE, b"TWO")]
