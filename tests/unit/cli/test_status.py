"""Asking nodes for their status, over a transport that is made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from rich.console import Console
from trio.testing import MockClock

from clustercore.cli.remote import StatusProbe
from clustercore.cli.status import NodeAnswer, ask_all, status_table, waiting_lines
from clustercore.interfaces import (
    AcceptLink,
    Configuration,
    Lane,
    Link,
    LinkClosed,
    LogIndex,
    Message,
    NodeHealth,
    NodeId,
    NodeStatus,
    PeerStatus,
    PeerTimeout,
    PeerUnreachable,
    Role,
    Server,
    StatusRequest,
    StatusResponse,
    Term,
    Transport,
)

LEADER = NodeStatus(
    node_id=NodeId("n1"),
    role=Role.LEADER,
    term=Term(4),
    leader_id=NodeId("n1"),
    commit_index=LogIndex(16),
    last_applied=LogIndex(15),
    first_log_index=LogIndex(11),
    last_log_index=LogIndex(17),
    pending_proposals=1,
    peers=(PeerStatus(NodeId("n2"), LogIndex(14), LogIndex(18), lag=3), PeerStatus(NodeId("n3"))),
    configuration=Configuration.with_servers(
        [
            Server(NodeId("n1"), address="here:1"),
            Server(NodeId("n2")),
            Server(NodeId("n3"), is_voter=False, is_leaving=True),
            Server(NodeId("n4"), is_voter=False),
            Server(NodeId("n5"), is_voter=False, is_promoted=True),
            Server(NodeId("n6"), is_voter=False),
        ],
        old_voters=frozenset({NodeId("n1"), NodeId("n3"), NodeId("n6")}),
        cluster_id="c",
    ),
    configuration_index=LogIndex(12),
)


class FakeLink(Link):
    """Answers each request by a function; an answer of None never comes."""

    def __init__(self, answer: Callable[[StatusRequest], Message | None]) -> None:
        self._answer = answer
        self._request: StatusRequest | None = None
        self.is_closed = False

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_closed:
            raise LinkClosed("closed")
        assert isinstance(message, StatusRequest)
        self._request = message

    async def receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        if self.is_closed:
            raise LinkClosed("closed")
        assert self._request is not None
        answer = self._answer(self._request)
        if answer is None:
            await trio.sleep_forever()
        assert answer is not None
        return answer

    async def aclose(self) -> None:
        self.is_closed = True


class FakeTransport(Transport):
    """Opens links to nodes by address."""

    def __init__(self, **nodes: Callable[[StatusRequest], Message | None]) -> None:
        self._nodes = nodes
        self.links: list[FakeLink] = []

    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        raise NotImplementedError

    async def connect(self, address: str, lane: Lane) -> Link:
        await trio.lowlevel.checkpoint()
        assert lane is Lane.CONTROL
        if address not in self._nodes:
            raise PeerUnreachable(f"{address} refused the connection")
        self.links.append(FakeLink(self._nodes[address]))
        return self.links[-1]


def answers(request: StatusRequest) -> Message:
    """Answer as a node does."""
    return StatusResponse(LEADER, request.request_id)


async def test_ask_all_tells_every_node_in_the_order_given(autojump_clock: MockClock) -> None:
    """A node that cannot be reached, or says nothing, is an answer that says so; none delays the others."""
    transport = FakeTransport(good=answers, silent=lambda _: None)

    told = await ask_all(transport, ["silent", "good", "gone", "good"], timeout_s=3)

    assert told == [
        NodeAnswer("silent", None, "silent did not answer within 3 s"),
        NodeAnswer("good", LEADER, None),
        NodeAnswer("gone", None, "gone refused the connection"),
    ]
    assert autojump_clock.current_time() == 3
    assert all(link.is_closed for link in transport.links)


async def test_probe_keeps_its_link() -> None:
    """Questions in turn use one link."""
    transport = FakeTransport(n1=answers)
    probe = StatusProbe(transport, "n1", timeout_s=1)

    await probe.ask()
    await probe.ask()
    await probe.aclose()

    assert [link.is_closed for link in transport.links] == [True]


async def test_probe_opens_another_link_when_the_kept_one_is_dead() -> None:
    """That the link died since the last question says nothing of the node now."""
    transport = FakeTransport(n1=answers)
    probe = StatusProbe(transport, "n1", timeout_s=1)
    await probe.ask()
    transport.links[0].is_closed = True

    assert await probe.ask() == LEADER

    assert len(transport.links) == 2


async def test_probe_never_takes_a_late_answer_for_the_next(autojump_clock: MockClock) -> None:
    """A question that was given up takes its link with it."""
    silent = [True]
    transport = FakeTransport(n1=lambda request: None if silent.pop() else answers(request))
    probe = StatusProbe(transport, "n1", timeout_s=1)

    with pytest.raises(PeerTimeout):
        await probe.ask()
    silent.append(False)

    assert await probe.ask() == LEADER
    assert [link.is_closed for link in transport.links] == [True, False]


async def test_probe_refuses_an_answer_to_another_question() -> None:
    """What is no answer to this request closes the link."""
    transport = FakeTransport(n1=lambda request: StatusResponse(LEADER, request.request_id + 1))

    with pytest.raises(LinkClosed, match="answered StatusRequest with StatusResponse"):
        await StatusProbe(transport, "n1", timeout_s=1).ask()

    assert transport.links[0].is_closed


def test_node_that_waits_is_told_of_below_the_table() -> None:
    """For whom or what; the others are not."""
    waits = attrs.evolve(LEADER, node_id=NodeId("n2"), waiting="waits for node nobody to found the cluster")

    assert waiting_lines(
        [NodeAnswer("a", LEADER, None), NodeAnswer("b", waits, None), NodeAnswer("c", None, "gone")]
    ) == ["node n2 waits for node nobody to found the cluster"]


def test_table_tells_role_log_and_lag() -> None:
    """A leader's row has its peers' lag; a node that does not answer has a row that says so."""
    console = Console(width=200)
    with console.capture() as capture:
        console.print(status_table([NodeAnswer("a:1", LEADER, None), NodeAnswer("b:2", None, "refused")]))

    rows = [line.split() for line in capture.get().splitlines()]

    assert ["n1", "a:1", "leader,", "joint", "4", "11..17", "16", "15", "ok", "n2:", "3,", "n3:", "0"] in rows
    assert ["?", "b:2", "no", "answer", "refused"] in rows


@pytest.mark.parametrize(
    ("health", "word"),
    [
        (NodeHealth(), "ok"),
        (NodeHealth(degraded="it has heard no leader yet"), "degraded"),
        (NodeHealth(not_serving="it is about to stop", degraded="slow"), "not serving"),
    ],
)
def test_table_tells_the_health_in_a_word(health: NodeHealth, word: str) -> None:
    """A node's own word on its health has a column."""
    console = Console(width=200)
    with console.capture() as capture:
        console.print(status_table([NodeAnswer("a:1", attrs.evolve(LEADER, health=health), None)]))

    assert f" 15 {word} " in " ".join(capture.get().split())


def test_answer_as_json_is_plain() -> None:
    """Every value is one that JSON has."""
    told = NodeAnswer("a:1", LEADER, None).as_json()

    assert told["status"]["role"] == "leader"
    assert told["status"]["peers"][0] == {
        "node_id": "n2",
        "match_index": 14,
        "next_index": 18,
        "lag": 3,
        "is_heard": False,
    }
    assert told["status"]["members"] == {
        "cluster_id": "c",
        "is_joint": True,
        "servers": [
            {"node_id": "n1", "standing": "voter", "address": "here:1"},
            {"node_id": "n2", "standing": "new voter", "address": ""},
            {"node_id": "n3", "standing": "leaving", "address": ""},
            {"node_id": "n4", "standing": "learner", "address": ""},
            {"node_id": "n5", "standing": "promoted next", "address": ""},
            {"node_id": "n6", "standing": "learner next", "address": ""},
        ],
    }
    assert json.dumps(told)
    assert told["error"] is None


def follower(node_id: str, configuration: Configuration, **more: Any) -> NodeStatus:
    """A node that follows n1 with these members."""
    told = {"node_id": NodeId(node_id), "role": Role.FOLLOWER, "configuration": configuration, **more}
    return attrs.evolve(LEADER, **told)


VOTERS = Configuration.of(["n1", "n2"], learners=["n4"], cluster_id="c")


@pytest.mark.parametrize(
    ("told", "role"),
    [
        (attrs.evolve(LEADER, configuration=VOTERS), "leader"),
        (LEADER, "leader, joint"),
        (follower("n2", VOTERS), "follower of n1"),
        (follower("n4", VOTERS), "learner of n1"),
        (follower("n4", VOTERS, leader_id=None), "learner"),
        (follower("n6", LEADER.configuration), "follower of n1, joint"),
        (follower("n9", VOTERS, is_removed=True, leader_id=None), "removed"),
        (
            follower("n9", Configuration(), configuration_index=LogIndex(0), term=Term(0), leader_id=None),
            "waits to be added",
        ),
        # A node of a version that tells no members.
        (follower("n2", Configuration(), configuration_index=LogIndex(0)), "follower of n1"),
    ],
    ids=[
        "leader",
        "in a joint change",
        "follower",
        "learner",
        "learner alone",
        "leaving",
        "removed",
        "stranger",
        "old",
    ],
)
def test_table_tells_what_a_node_is_to_the_cluster(told: NodeStatus, role: str) -> None:
    """Learners, nodes that were removed or not added yet, and a change that is under way are told apart."""
    table = status_table([NodeAnswer("a:1", told, None)])

    assert list(table.columns[2].cells) == [role]
