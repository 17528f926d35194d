"""Asking a node by way of others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from clustercore.health.indirect import IndirectProbe, peer_service
from clustercore.interfaces import CheckOutcome, CheckResult, Link, NodeId, Service
from clustercore_memory import MemoryNetwork, MemoryTransport
from tests.unit.health.fakes import DRAIN, FAIL, OK, UNKNOWN, WARN, FakeProbe

Helper = tuple[NodeId, str]


async def _take(link: Link) -> None:
    await trio.sleep_forever()


@asynccontextmanager
async def helpers(*services: Service) -> AsyncIterator[tuple[MemoryTransport, list[Helper]]]:
    """Serve one service at each helper inside the block; yield a transport, and where they are."""
    network = MemoryNetwork()
    found: list[Helper] = []
    async with MemoryTransport(network, "asks") as asks, trio.open_nursery() as nursery:
        for number, service in enumerate(services):
            transport = MemoryTransport(network, f"h{number}")
            transport.offer([service])
            await nursery.start(transport.serve, _take)
            found.append((NodeId(f"helper{number}"), f"h{number}"))
        yield asks, found
        nursery.cancel_scope.cancel()


def looking(answer: FakeProbe, *, limit_s: float = 1.0) -> Service:
    """Return the service of a helper that finds what the probe says."""

    async def look(node_id: NodeId) -> CheckResult:
        assert node_id == "n"
        return await answer.check()

    return peer_service(look, limit_s=limit_s)


def probe(direct: FakeProbe, transport: MemoryTransport, found: Sequence[Helper]) -> IndirectProbe:
    """Return what is tested."""
    return IndirectProbe(direct, NodeId("n"), transport=transport, helpers=lambda node_id: found, direct_s=1.0)


@pytest.mark.parametrize("direct", [OK, WARN, UNKNOWN, DRAIN])
async def test_others_are_asked_only_if_they_could_help(direct: CheckResult, autojump_clock: MockClock) -> None:
    """An answer of the node itself stands, also that it does not serve."""
    other = FakeProbe(OK)
    async with helpers(looking(other)) as (transport, found):
        assert await probe(FakeProbe(direct), transport, found).check() is direct
    assert other.asked_at == []


@pytest.mark.parametrize(
    ("others", "outcome", "detail"),
    [
        ([], CheckOutcome.FAIL, "broken"),
        ([FAIL, None], CheckOutcome.FAIL, "broken"),
        ([UNKNOWN], CheckOutcome.FAIL, "broken"),
        ([OSError("no route")], CheckOutcome.FAIL, "broken"),
        ([FAIL, OK], CheckOutcome.WARN, "reached by way of helper1 alone; from here: broken"),
        ([None, WARN], CheckOutcome.WARN, "reached by way of helper1 alone; from here: broken"),
    ],
)
async def test_one_that_reaches_it_is_enough(
    others: list[CheckResult | Exception | None], outcome: CheckOutcome, detail: str, autojump_clock: MockClock
) -> None:
    """If another reaches the node it is up, which is a warning; otherwise what was found directly counts."""
    services = [looking(FakeProbe(answer)) for answer in others]
    async with helpers(*services) as (transport, found):
        result = await probe(FakeProbe(FAIL), transport, found).check()

    assert (result.outcome, result.detail) == (outcome, detail)


async def test_direct_answer_has_its_time_and_no_more(autojump_clock: MockClock) -> None:
    """A node that hangs is given up after its share of the time; a helper that is not there does no harm."""
    async with helpers(looking(FakeProbe(OK))) as (transport, found):
        found.append((NodeId("gone"), "nowhere"))
        result = await probe(FakeProbe(None), transport, found).check()

    assert trio.current_time() == pytest.approx(1.0)
    assert result.detail == "reached by way of helper0 alone; from here: no answer within 1 s"


async def test_questions_of_others_are_bounded(autojump_clock: MockClock) -> None:
    """So many looks are taken at a time; further questions are answered that nothing is known, at once."""
    silent = FakeProbe(None)
    service = looking(silent, limit_s=5.0)
    answers: list[bytes] = []

    async def ask() -> None:
        answers.append(await service.unary["Probe"](b"\n\x01n"))

    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(ask)
        await trio.sleep(1)
        assert silent.most_under_way == 16
        assert [answer[:2] for answer in answers] == [b"\x08\x04"] * 24
    assert [answer[:2] for answer in answers[24:]] == [b"\x08\x03"] * 16
    assert trio.current_time() == pytest.approx(5.0)
