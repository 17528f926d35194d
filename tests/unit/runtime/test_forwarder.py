"""What becomes of proposals that are passed on: certainly not done goes back to the queue, anything else is unknown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore.interfaces import (
    Applied,
    ForwardFailure,
    ForwardProposals,
    NodeStopped,
    OutcomeUnknown,
    ProposalRefused,
    ProposalsApplied,
    ProposalsFailed,
    ResultLost,
)
from clustercore.raft.types import LogIndex, NodeId, Term
from clustercore.runtime.forwarder import MAX_OPEN_REQUESTS, MAX_REQUEST_BYTES, Forwarder
from clustercore.runtime.outbox import Outbox
from clustercore.runtime.proposals import Group, GroupResult, Proposals
from tests.unit.runtime.fakes import FakeLink

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
TIMEOUT_S, FAREWELL_S = 10.0, 0.2


@attrs.define
class Bench:
    """A forwarder of node "a", between proposals and links to "b" and "c"."""

    leader_id: NodeId | None = B
    answers: dict[bytes, GroupResult] = attrs.field(factory=dict)
    proposals: Proposals = attrs.field(factory=lambda: Proposals(node_id=A, max_commands=10_000, max_bytes=10**9))
    outboxes: dict[NodeId, Outbox] = attrs.field(factory=lambda: {B: Outbox(), C: Outbox()})
    links: dict[NodeId, FakeLink] = attrs.field(factory=lambda: {B: FakeLink(), C: FakeLink()})
    # Who led each time the engine was woken.
    engine_wakes: list[NodeId | None] = attrs.field(factory=list)
    forwarder: Forwarder = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.forwarder = Forwarder(
            A,
            self.proposals,
            leader_id=lambda: self.leader_id,
            outbox_to=self.outboxes.get,
            wake_engine=lambda: self.engine_wakes.append(self.leader_id),
            timeout_s=TIMEOUT_S,
            farewell_s=FAREWELL_S,
        )

    async def propose(self, *commands: bytes) -> None:
        """Add a group for each command and let everything run that can."""
        for command in commands:
            self.proposals.add(Group((command,), on_done=partial(self._note, command), may_forward=True))
        self.forwarder.wake()
        await wait_all_tasks_blocked()

    def _note(self, command: bytes, result: GroupResult) -> None:
        self.answers[command] = result

    async def lead(self, leader_id: NodeId | None) -> None:
        """Let the cluster have another leader, as the engine tells it."""
        if self.leader_id is not None:
            self.forwarder.leader_left(self.leader_id)
        self.leader_id = leader_id
        self.forwarder.wake()
        await wait_all_tasks_blocked()

    async def answer(self, leader_id: NodeId, answer: ProposalsApplied | ProposalsFailed) -> None:
        """Let an answer arrive."""
        self.forwarder.receive(leader_id, answer)
        await wait_all_tasks_blocked()

    def sent_to(self, leader_id: NodeId) -> list[tuple[bytes, ...]]:
        """The commands of each request that a leader's link got."""
        return [message.commands for message in self.links[leader_id].sent if isinstance(message, ForwardProposals)]

    def kinds(self) -> dict[bytes, type]:
        """The answers by type."""
        return {command: type(result) for command, result in self.answers.items()}


@asynccontextmanager
async def running(*, with_links: bool = True) -> AsyncIterator[Bench]:
    """Run a forwarder, and unless told otherwise the senders of its links."""
    bench = Bench()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.forwarder.run)
        if with_links:
            for name, outbox in bench.outboxes.items():
                nursery.start_soon(outbox.send_all, bench.links[name])
        yield bench
        nursery.cancel_scope.cancel()


def applied(request_id: int, first_index: int, *results: bytes) -> ProposalsApplied:
    """A leader's answer."""
    return ProposalsApplied(request_id, Term(3), LogIndex(first_index), results)


def failed(request_id: int, failure: ForwardFailure) -> ProposalsFailed:
    """A leader's refusal."""
    return ProposalsFailed(request_id, failure, None, "because")


# --- Results ---


async def test_results_reach_each_proposer_in_order() -> None:
    """One request carries what is queued, and its answer is shared out by position."""
    async with running() as bench:
        await bench.propose(b"x", b"y")
        assert bench.sent_to(B) == [(b"x", b"y")]

        await bench.answer(B, applied(1, 7, b"X", b"Y"))

        assert bench.answers == {
            b"x": [Applied(LogIndex(7), Term(3), b"X")],
            b"y": [Applied(LogIndex(8), Term(3), b"Y")],
        }
        assert bench.proposals.pending == 0


async def test_nothing_is_forwarded_without_a_leader_or_to_oneself() -> None:
    """Proposals wait in the queue while no leader is known, and are not sent to the node itself."""
    async with running() as bench:
        bench.leader_id = None
        await bench.propose(b"x")
        await bench.lead(A)
        assert bench.sent_to(B) == []
        assert bench.proposals.has_queued

        await bench.lead(C)
        assert bench.sent_to(C) == [(b"x",)]


async def test_requests_gather_while_the_window_is_full() -> None:
    """At most a few requests are open; what is proposed meanwhile goes together in the next."""
    async with running() as bench:
        for number in range(MAX_OPEN_REQUESTS + 3):
            await bench.propose(b"%d" % number)
        assert len(bench.sent_to(B)) == MAX_OPEN_REQUESTS

        await bench.answer(B, applied(1, 1, b""))

        assert bench.sent_to(B)[-1] == (b"4", b"5", b"6")


async def test_a_request_is_bounded_in_bytes() -> None:
    """Commands that together exceed a request's limit go in several."""
    async with running() as bench:
        half = MAX_REQUEST_BYTES // 2
        await bench.propose(bytes(half), b"\1" * half, b"\2" * half)

        assert [len(commands) for commands in bench.sent_to(B)] == [2, 1]


async def test_results_that_come_in_parts_are_put_together() -> None:
    """In whatever order the parts arrive: the indexes say which commands they are of."""
    async with running() as bench:
        await bench.propose(b"x", b"y", b"z")
        await bench.answer(B, applied(1, 8, b"Y", b"Z"))
        assert bench.answers == {}
        await bench.answer(B, applied(1, 7, b"X"))

        results = {command: result[0].result for command, result in bench.answers.items()}  # type: ignore[index]  # no error
        assert results == {b"x": b"X", b"y": b"Y", b"z": b"Z"}


async def test_results_that_are_missing_are_unknown_and_the_others_are_handed_out(autojump_clock: MockClock) -> None:
    """A leader that says no more about some commands, or only that it cannot tell, has told of the others."""
    async with running() as bench:
        await bench.propose(b"x", b"y", b"z")
        await bench.answer(B, applied(1, 7))
        await bench.answer(B, applied(1, 8, b"Y"))
        await bench.answer(B, failed(1, ForwardFailure.UNKNOWN))
        assert bench.kinds() == {b"x": OutcomeUnknown, b"y": list, b"z": OutcomeUnknown}

        await bench.propose(b"v", b"w")
        await bench.answer(B, applied(2, 9, b"V"))
        await trio.sleep(TIMEOUT_S)
        await wait_all_tasks_blocked()
        assert bench.kinds() | {b"v": list, b"w": OutcomeUnknown} == bench.kinds()


async def test_engine_is_woken_by_what_comes_back() -> None:
    """This node may lead by now, and would append it only with the next heartbeat."""
    async with running() as bench:
        await bench.propose(b"x")
        bench.leader_id = A
        await bench.answer(B, failed(1, ForwardFailure.NOT_LEADER))

        assert bench.proposals.has_queued
        assert bench.engine_wakes == [A]


# --- Certainly not done ---


async def test_unsent_requests_are_queued_again_when_the_link_drops_them(autojump_clock: MockClock) -> None:
    """What never left goes to the next leader, in its old order."""
    async with running(with_links=False) as bench:
        await bench.propose(b"x", b"y")
        bench.leader_id = None
        bench.outboxes[B].drop_all()
        bench.forwarder.give_up_on(B)
        await wait_all_tasks_blocked()
        assert bench.answers == {}

        await bench.lead(C)
        link = FakeLink()
        with trio.move_on_after(1):
            await bench.outboxes[C].send_all(link)

        assert [message.commands for message in link.sent if isinstance(message, ForwardProposals)] == [(b"x", b"y")]


async def test_unsent_requests_leave_the_outbox_before_they_are_queued_again(autojump_clock: MockClock) -> None:
    """A request that waited too long behind a stuck link is not sent when the link moves on: it would be done twice."""
    async with running() as bench:
        bench.links[B].hold()
        await bench.propose(b"first")
        await bench.propose(b"second")
        # "first" is in the stuck link, "second" waits behind it, and b leads on.
        await trio.sleep(TIMEOUT_S + 1)
        assert bench.kinds() == {b"first": OutcomeUnknown}

        bench.links[B].release()
        await trio.sleep(TIMEOUT_S + 1)

        commands = [command for request in bench.sent_to(B) for command in request]
        assert commands.count(b"second") == 1


async def test_unsent_requests_go_to_the_next_leader_at_once(autojump_clock: MockClock) -> None:
    """A request behind the stuck link of a deposed leader does not wait for its timeout, nor is it sent later."""
    async with running() as bench:
        bench.links[B].hold()
        await bench.propose(b"first")
        await bench.propose(b"second")

        await bench.lead(C)
        assert bench.sent_to(C) == [(b"second",)]
        assert bench.kinds() == {}
        await trio.sleep(FAREWELL_S)
        await wait_all_tasks_blocked()
        assert bench.kinds() == {b"first": OutcomeUnknown}

        bench.links[B].release()
        await wait_all_tasks_blocked()
        assert bench.sent_to(B) == [(b"first",)]


async def test_a_leader_that_refuses_its_office_is_asked_again_after_a_pause(autojump_clock: MockClock) -> None:
    """A deposed leader that this node still believes in is not asked over and over as fast as it can answer."""
    async with running() as bench:
        await bench.propose(b"x")
        for request_id in range(1, 4):
            await bench.answer(B, failed(request_id, ForwardFailure.NOT_LEADER))
            # All tasks are blocked: only time brings the next attempt.
            assert len(bench.sent_to(B)) == request_id
            await trio.sleep(1)
            assert len(bench.sent_to(B)) == request_id + 1
        assert bench.answers == {}


async def test_a_new_leader_is_asked_without_a_pause() -> None:
    """The pause after a refusal ends when another leader is known."""
    async with running() as bench:
        await bench.propose(b"x")
        await bench.answer(B, failed(1, ForwardFailure.NOT_LEADER))

        await bench.lead(C)

        assert bench.sent_to(C) == [(b"x",)]


async def test_a_leader_without_a_lane_is_not_asked_in_a_loop(autojump_clock: MockClock) -> None:
    """A leader that this node's configuration does not know costs a look now and then, not a whole processor."""
    async with running() as bench:
        bench.leader_id = NodeId("stranger")

        await bench.propose(b"x")

        # wait_all_tasks_blocked returned: nobody spins.
        assert bench.answers == {}
        await bench.lead(C)
        assert bench.sent_to(C) == [(b"x",)]


async def test_refused_commands_are_told_to_their_proposer() -> None:
    """What a leader refuses for another reason than its office, it would refuse again: the proposer hears of it."""
    async with running() as bench:
        await bench.propose(b"x")
        await bench.answer(B, failed(1, ForwardFailure.REFUSED))

        assert bench.kinds() == {b"x": ProposalRefused}
        assert "because" in str(bench.answers[b"x"])


async def test_kinds_travel_with_their_commands() -> None:
    """One byte for each; none where all are plain, as a node of an earlier version expects."""
    async with running() as bench:
        for kinds in (b"\x04", b"\x02"):
            bench.proposals.add(Group((b"x",), on_done=lambda result: None, may_forward=True, kinds=kinds))
        await bench.propose(b"y")
        bench.proposals.add(Group((b"z",), on_done=lambda result: None, may_forward=True))
        await bench.propose()

        requests = [message for message in bench.links[B].sent if isinstance(message, ForwardProposals)]
        assert [(request.commands, request.kinds) for request in requests] == [
            ((b"x", b"x", b"y"), b"\x04\x02\x02"),
            ((b"z",), b""),
        ]


async def test_result_that_could_not_be_brought_is_told_from_an_unknown_outcome() -> None:
    """The command is applied: repeating it would find the same."""
    async with running() as bench:
        await bench.propose(b"x")
        await bench.answer(B, failed(1, ForwardFailure.NO_RESULT))

        assert bench.kinds() == {b"x": ResultLost}


# --- Unknown ---


@pytest.mark.parametrize("how", ["the leader says so", "the link is lost", "the leader changes", "no answer comes"])
async def test_sent_requests_without_an_answer_are_unknown(how: str, autojump_clock: MockClock) -> None:
    """Once a request may have arrived, everything but its answer leaves its outcome unknown; it is not sent again."""
    async with running() as bench:
        await bench.propose(b"x")
        match how:
            case "the leader says so":
                await bench.answer(B, failed(1, ForwardFailure.UNKNOWN))
            case "the link is lost":
                bench.forwarder.give_up_on(B)
            case "the leader changes":
                await bench.lead(C)
                await trio.sleep(FAREWELL_S)
            case _:
                await trio.sleep(TIMEOUT_S + 1)
        await wait_all_tasks_blocked()

        assert bench.kinds() == {b"x": OutcomeUnknown}
        assert bench.sent_to(B) == [(b"x",)]
        assert bench.sent_to(C) == []
        assert bench.proposals.pending == 0


async def test_leader_that_left_may_still_say_that_it_never_appended(autojump_clock: MockClock) -> None:
    """It holds proposals while it hands over, and refuses them when it has: they go to the new leader, and are done."""
    async with running() as bench:
        for number in range(MAX_OPEN_REQUESTS):
            await bench.propose(b"%d" % number)
        await bench.lead(C)
        assert bench.kinds() == {}
        # What is owed by the old leader takes no place at the new one.
        await bench.propose(b"new")
        assert bench.sent_to(C) == [(b"new",)]

        for number in range(MAX_OPEN_REQUESTS):
            await bench.answer(B, failed(number + 1, ForwardFailure.NOT_LEADER))

        assert bench.sent_to(C) == [(b"new",), (b"0",), (b"1",), (b"2",)]
        await bench.answer(C, applied(MAX_OPEN_REQUESTS + 1, 7, b""))
        assert bench.sent_to(C)[-1] == (b"3",)
        await trio.sleep(2 * FAREWELL_S)
        assert bench.kinds() == {b"new": list}


async def test_give_up_on_another_leader_changes_nothing() -> None:
    """A link that breaks says nothing of requests to another node."""
    async with running() as bench:
        await bench.propose(b"x")
        bench.forwarder.give_up_on(C)
        await wait_all_tasks_blocked()

        assert bench.answers == {}


async def test_late_and_foreign_answers_change_nothing() -> None:
    """An answer to a settled request, to one that never was, or from another node than the one asked is passed over."""
    async with running() as bench:
        await bench.propose(b"x")
        await bench.answer(C, applied(1, 7, b"not c's to answer"))
        await bench.answer(B, applied(99, 7, b"never asked"))
        assert bench.answers == {}

        bench.forwarder.give_up_on(B)
        await bench.answer(B, applied(1, 7, b"late"))
        assert bench.kinds() == {b"x": OutcomeUnknown}

        await bench.answer(B, applied(1, 7, b"later still"))
        assert bench.kinds() == {b"x": OutcomeUnknown}


async def test_an_answer_before_the_loss_counts() -> None:
    """An answer that arrived is the truth, even if the link is lost before the proposer has run."""
    async with running() as bench:
        await bench.propose(b"x")
        bench.forwarder.receive(B, applied(1, 7, b"X"))
        bench.forwarder.give_up_on(B)
        await wait_all_tasks_blocked()

        assert bench.answers == {b"x": [Applied(LogIndex(7), Term(3), b"X")]}


# --- The end ---


async def test_stopping_tells_unsent_from_sent() -> None:
    """When the node stops, what was not sent is not done, and what was sent is unknown."""
    async with running() as bench:
        bench.links[B].hold()
        await bench.propose(b"sent")
        await bench.propose(b"unsent")
        bench.leader_id = None
        await bench.propose(b"queued")
        # As Node does: first the proposals stop, then the tasks are cancelled.
        bench.proposals.stop()

    assert bench.kinds() == {b"sent": OutcomeUnknown, b"unsent": NodeStopped, b"queued": NodeStopped}
    assert bench.sent_to(B) == []
    assert bench.proposals.pending == 0
