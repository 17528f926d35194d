"""What a service says about coming back reaches its caller over every transport, and the retry policy goes by it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import pytest

from clustercore.interfaces import (
    ErrorCategory,
    LinkClosed,
    RetryCall,
    Service,
    ServiceError,
    TransportError,
)
from clustercore_retry import CategoryRetryPolicy
from tests.integration.test_transport_hazards import KINDS, Kind, serving

pytestmark = pytest.mark.integration

HINTS: dict[bytes, float | None] = {b"soon": 2.0, b"never": math.inf, b"": None}


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """One transport after the other."""
    chosen: Kind = request.param
    return chosen


async def refuse(request: bytes) -> bytes:
    """Refuse, with a hint."""
    raise ServiceError("not now", retry_after_s=HINTS[request])


async def fail(request: bytes) -> bytes:
    """Fail, with a hint."""
    raise TransportError("not now", retry_after_s=HINTS[request])


async def fail_stream(request: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Fail at once, with a hint."""
    raise TransportError("not now", retry_after_s=HINTS[request])


@pytest.mark.parametrize("hint", HINTS, ids=["soon", "never", "none"])
async def test_hint_of_a_handler_reaches_the_caller_and_the_policy(kind: Kind, hint: bytes) -> None:
    """In seconds, infinite for never, and None where nothing was said."""
    server = kind.make()
    server.offer([Service("test.App", {"Refuse": refuse, "Fail": fail})])
    policy = CategoryRetryPolicy(is_idempotent=True)
    async with serving(server) as (address, _), kind.make() as client:
        with pytest.raises(ServiceError, match="not now") as refused:
            await client.call(address, "test.App/Refuse", hint)
        with pytest.raises(LinkClosed, match="not now") as caught:
            await client.call(address, "test.App/Fail", hint)

    failed = caught.value
    for error in (refused.value, failed):
        assert error.retry_after_s == policy.explain(error).retry_after_s == HINTS[hint]
    assert policy.explain(failed).category is ErrorCategory.NETWORK_ERROR
    assert policy.should_retry(failed, 0, RetryCall(is_idempotent=True)) is (hint != b"never")
    if hint == b"soon":
        assert policy.get_retry_delay(failed, 0) >= 2.0


async def test_hint_ends_the_stream_that_it_is_for(kind: Kind) -> None:
    """Over HTTP a stream has begun by then, and its last line has no place for a hint."""
    server = kind.make()
    server.offer([Service("test.App", {}, {"Fail": fail_stream})])
    async with serving(server) as (address, _), kind.make() as client:
        with pytest.raises(LinkClosed, match="not now") as caught:
            async with client.open_stream(address, "test.App/Fail", b"soon") as responses:
                await responses.receive()

    assert caught.value.retry_after_s == (None if kind.name == "http" else 2.0)
