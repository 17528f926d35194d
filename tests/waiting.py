"""Waiting for what has no event: another process, a log, what tasks count. Each test's deadline ends it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import trio

from clustercore.interfaces import Discovery, DiscoverySnapshot

__all__ = ["until", "until_answered", "until_known", "wait_until"]


async def until(condition: Callable[[], object], *, step_s: float = 0.01) -> None:
    """Look again and again until a condition holds."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await trio.sleep(step_s)


async def until_answered(ask: Callable[[], Awaitable[object]], *, step_s: float = 0.02) -> None:
    """Ask again and again until the answer is true."""
    while not await ask():  # noqa: ASYNC110 - who is asked is another process
        await trio.sleep(step_s)


async def until_known(discovery: Discovery, holds: Callable[[DiscoverySnapshot], bool]) -> DiscoverySnapshot:
    """Return the first snapshot of a discovery, from now on, of which something holds."""
    snapshot = await discovery.members()
    while not holds(snapshot):
        snapshot = await discovery.changed(snapshot.version)
    return snapshot


def wait_until(condition: Callable[[], object], otherwise: str, *, limit_s: float) -> None:
    """Look again and again, without an event loop; after so many seconds the test fails, for the reason given."""
    give_up_at = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up_at, otherwise
        time.sleep(0.05)
