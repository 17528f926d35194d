"""What the two ends of a link do in the rules of transports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import pytest
import trio

from clustercore.interfaces import Link, LinkClosed, Message
from clustercore.testing.conformance.messages import filled, numbered

__all__ = [
    "LARGE_BYTES",
    "ask",
    "cancel_after_turns",
    "drain",
    "echo",
    "encodings",
    "expect_closed",
    "fill",
    "flood",
    "read_nothing",
    "send_until_closed",
]

# A message so large that no transport buffers a thousand of them.
LARGE_BYTES = 256_000


async def ask(link: Link, request: Message) -> Message:
    """Send a request and return its response."""
    await link.send(request)
    return await link.receive()


async def echo(link: Link) -> None:
    """Send every message back, until the link closes."""
    try:
        while True:
            await link.send(await link.receive())
    except LinkClosed:
        return


async def drain(link: Link) -> None:
    """Read everything, until the link closes."""
    try:
        while True:
            await link.receive()
    except LinkClosed:
        return


async def read_nothing(link: Link) -> None:
    """Hold the link open and leave alone what comes on it."""
    await trio.sleep_forever()


async def fill(link: Link) -> None:
    """Send large messages, until the link closes."""
    large = filled(1, LARGE_BYTES)
    while True:
        await link.send(large)


async def flood(link: Link) -> None:
    """Receive one message, then send large ones, until the link closes."""
    try:
        await link.receive()
        await fill(link)
    except LinkClosed:
        return


async def send_until_closed(link: Link) -> None:
    """Send until it fails: a send promises nothing, so some may go before the end of the link is known."""
    while True:
        await link.send(numbered())


async def expect_closed(use: Callable[[], Awaitable[object]]) -> None:
    """Make sure that a use of a link ends with LinkClosed."""
    with pytest.raises(LinkClosed):
        await use()


async def cancel_after_turns(scope: trio.CancelScope, turns: int) -> None:
    """Cancel a scope so many turns of the event loop from now."""
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
    scope.cancel()


def encodings(messages: Iterable[Message]) -> list[bytes]:
    """Return the encodings of all entries that messages carry."""
    return [entry.encoded for message in messages for entry in getattr(message, "entries", ())]
