"""Errors astray in the socket loop: they are logged. By itself, trio-asyncio ends its loop with them."""

from __future__ import annotations

import gc

import pytest
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import Lane, LinkClosed
from clustercore_grpc import GrpcTransport
from tests.integration.grpc_peers import GRANTED, VOTE, serving


async def test_stray_asyncio_errors_do_not_end_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """A failing callback and a forgotten task that failed are logged; links go on, and no group escapes."""

    async def fail() -> None:
        raise KeyError("forgotten task")

    def fail_now() -> None:
        raise KeyError("callback")

    transport = GrpcTransport()
    async with (
        serving(transport) as (address, _),
        GrpcTransport() as dialler,
        await dialler.connect(address, Lane.CONTROL) as link,
    ):
        for owner in (transport, dialler):
            loop = owner._loop.asyncio_loop
            loop.call_soon(fail_now)
            loop.call_soon(lambda loop=loop: loop.create_task(fail()) and None)  # type: ignore[misc]  # a default as its closure
        await wait_all_tasks_blocked()
        gc.collect()
        await wait_all_tasks_blocked()
        await link.send(VOTE)

        assert await link.receive() == GRANTED
    assert caplog.text.count("stray error in the socket loop") == 4


async def test_error_in_the_protocol_ends_one_connection_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of a library, met by one peer's bytes, aborts that peer's connection and is logged."""

    def explode(data: bytes) -> None:
        raise RuntimeError("a fault inside h2")

    async with (
        serving(GrpcTransport()) as (address, _),
        GrpcTransport() as dialler,
        await dialler.connect(address, Lane.CONTROL) as good,
        await dialler.connect(address, Lane.CONTROL) as bad,
    ):
        monkeypatch.setattr(bad._stream.connection, "feed", explode)  # type: ignore[attr-defined]  # inside
        await bad.send(VOTE)
        with pytest.raises(LinkClosed, match="a fault inside h2"):
            await bad.receive()
        await good.send(VOTE)

        assert await good.receive() == GRANTED
    assert "unexpected error on received data" in caplog.text
