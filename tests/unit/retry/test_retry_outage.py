"""A total outage under a virtual clock: retries stay a small share of the calls, and come back after it."""

from __future__ import annotations

from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock

from clustercore.interfaces import PeerUnreachable
from clustercore_retry import CategoryRetryPolicy

CALLS_PER_S = 10


@attrs.define
class Service:
    """Answers, or refuses every connection."""

    is_down: bool = False
    attempts: int = 0

    async def ask(self) -> None:
        self.attempts += 1
        await trio.lowlevel.checkpoint()
        if self.is_down:
            raise PeerUnreachable("nobody listens")


async def _call_for(policy: CategoryRetryPolicy, service: Service, seconds: int) -> tuple[int, int]:
    """Call at a steady rate, each call in a task of its own; return first attempts and retries."""
    before, calls = service.attempts, seconds * CALLS_PER_S

    async def call() -> None:
        try:
            await policy.call(service.ask)
        except PeerUnreachable:
            assert service.is_down

    async with trio.open_nursery() as nursery:
        for _ in range(calls):
            nursery.start_soon(call)
            await trio.sleep(1 / CALLS_PER_S)
    return calls, service.attempts - before - calls


@pytest.mark.slow
async def test_outage_is_not_fed_and_retries_recover_after_it(autojump_clock: MockClock) -> None:
    """Ten minutes see fewer retries than a tenth of first attempts and 0.1/s; later errors are retried again."""
    policy = CategoryRetryPolicy(is_idempotent=True, rng=Random(1))
    service = Service()
    await _call_for(policy, service, 60)

    service.is_down = True
    calls, retries = await _call_for(policy, service, 600)

    assert 0 < retries < calls / 10 + 0.1 * 600

    service.is_down = False
    assert (await _call_for(policy, service, 120))[1] == 0
    service.is_down = True
    _, retries_again = await _call_for(policy, service, 1)
    assert retries_again > 0


@pytest.mark.slow
async def test_outage_of_a_minute_leaves_nothing_behind_a_minute_later(autojump_clock: MockClock) -> None:
    """At most a tenth is sent on top of it; then the table is in force again, with a budget for a call's retries."""
    policy = CategoryRetryPolicy(is_idempotent=True, rng=Random(1))
    service = Service()
    table = policy.table().limits
    await _call_for(policy, service, 60)

    service.is_down = True
    calls, retries = await _call_for(policy, service, 60)
    assert calls + retries <= 1.1 * calls

    service.is_down = False
    await _call_for(policy, service, 60)
    [told] = policy.get_error_statistics().targets
    assert told.limits == table
    most = max(row.max_retries for row in table)
    assert told.budget_level >= most * 14

    service.is_down = True
    before = service.attempts
    with pytest.raises(PeerUnreachable):
        await policy.call(service.ask)
    assert service.attempts - before == 1 + most
