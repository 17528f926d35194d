"""Whether a member answers where it is to be looked for."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock

from clustercore.interfaces import (
    Configuration,
    Hello,
    HelloResponse,
    Lane,
    Link,
    Message,
    NodeId,
    PeerUnreachable,
    Server,
    StatusRequest,
    StatusResponse,
)
from clustercore.runtime.whereabouts import Whereabouts
from tests.unit.runtime.fakes import FakeLink, FakeTransport, introductions_of
from tests.unit.runtime.test_members_desk import LEADS, status_of

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
PLACES = {A: "a:1", B: "b:1", C: "c:1"}
PRESENT = Configuration.with_servers([Server(node_id, address=PLACES[node_id]) for node_id in PLACES])


def moved(node_id: NodeId, address: str) -> Configuration:
    """The members, with one of them elsewhere."""
    return Configuration.with_servers(
        [attrs.evolve(server, address=address) if server.node_id == node_id else server for server in PRESENT.servers]
    )


def looking(dial: Callable[[str, Lane], Link] | None) -> tuple[Whereabouts, FakeTransport]:
    """Node a, which hears b and not c, and has been told of b's storage."""
    transport, introductions = FakeTransport(dial), introductions_of("a")
    introductions.answer(Hello(B, A, incarnation="i"))
    return (
        Whereabouts(
            A,
            transport=transport,
            introductions=introductions,
            address_of=PLACES.get,
            is_heard=lambda node_id: node_id == B,
            timeout_s=2.0,
        ),
        transport,
    )


async def fault_of(answer: Message | None, node_id: NodeId = B) -> str:
    """What is said of a member that is to move to where this answers a Hello, or nothing at all."""
    link = FakeLink(hello_response=answer) if answer else FakeLink()
    if answer is None:
        link.hang_up()
    whereabouts, _ = looking(lambda address, lane: link)
    fault = await whereabouts.missing(PRESENT, moved(node_id, "new:1"))
    assert link.is_closed
    return fault


async def test_member_that_answers_at_its_new_place_is_there() -> None:
    """With the id and the storage that it has."""
    assert await fault_of(HelloResponse(B, incarnation="i")) == ""


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (HelloResponse(C, incarnation="i"), "node 'c' answers"),
        (HelloResponse(B, incarnation="other"), "a node 'b' with another storage answers"),
        (HelloResponse(B, incarnation="i", refusal="another cluster"), "another cluster"),
        (StatusRequest(), "a StatusRequest is answered, which was not asked for"),
    ],
)
async def test_whoever_else_answers_there_is_named(answer: Message, found: str) -> None:
    """The text says where the member is well, and what to do."""
    fault = await fault_of(answer)

    assert f"node 'b' is well at 'b:1', and at 'new:1' it is not found: {found}" in fault
    assert "force" in fault


async def test_nobody_there_is_a_fault() -> None:
    """The transport's own words are told."""

    def dial(address: str, lane: Lane) -> Link:
        raise PeerUnreachable("connection refused")

    whereabouts, _ = looking(dial)

    assert "not found: connection refused" in await whereabouts.missing(PRESENT, moved(B, "new:1"))


async def test_silence_there_is_a_fault_in_bounded_time(autojump_clock: MockClock) -> None:
    """A link on which nothing comes."""

    class Silent(FakeLink):
        async def receive(self) -> Message:
            await trio.sleep_forever()
            raise AssertionError

    link = Silent()
    whereabouts, _ = looking(lambda address, lane: link)

    assert "nobody answers within 2 s" in await whereabouts.missing(PRESENT, moved(B, "new:1"))
    assert trio.current_time() == pytest.approx(2, abs=0.1)
    assert link.is_closed


@pytest.mark.parametrize(("found", "fault"), [(A, ""), (B, "node 'b' answers")])
async def test_node_looks_for_itself_without_a_hello(found: NodeId, fault: str) -> None:
    """It must not take itself for a peer."""
    link = FakeLink()
    link.deliver(StatusResponse(attrs.evolve(status_of(LEADS), node_id=found), 1))
    whereabouts, _ = looking(lambda address, lane: link)

    said = await whereabouts.missing(PRESENT, moved(A, "new:1"))

    assert said.endswith(f"{fault}; correct the address, or force the change") if fault else said == ""
    assert link.hellos == []


@pytest.mark.parametrize(
    "target",
    [
        PRESENT,
        moved(C, "new:1"),
        Configuration.with_servers([*PRESENT.servers, Server(NodeId("d"), address="d:1")]),
        Configuration.with_servers([Server(node_id) for node_id in PLACES]),
    ],
    ids=["nothing moves", "not heard", "new", "left open"],
)
async def test_nobody_is_looked_for_who_may_be_anywhere(target: Configuration) -> None:
    """One that is dead, or only to come; and one that stays."""
    whereabouts, transport = looking(None)

    assert await whereabouts.missing(PRESENT, target) == ""
    assert transport.attempts == []


async def test_place_where_the_member_is_reached_already_is_not_looked_at() -> None:
    """Discovery knew before the members did."""
    whereabouts, transport = looking(None)
    present = Configuration.with_servers([Server(A, address="a:1"), Server(B, address="old:1")])

    assert await whereabouts.missing(present, attrs.evolve(PRESENT)) == ""
    assert transport.attempts == []


def test_new_member_with_a_name_that_is_too_long_is_misnamed() -> None:
    """Whoever asks for it; a member that there is already stays."""
    whereabouts, _ = looking(lambda address, lane: FakeLink())
    long = Configuration.of(["b" * 256], cluster_id="c")

    assert whereabouts.misnamed(PRESENT, long) == "a server's node_id has 256 bytes; at most 255 are allowed"
    assert whereabouts.misnamed(long, long) == ""
