"""The proposals a node holds: room, order, and exactly what is known of each when it ends."""

from __future__ import annotations

import attrs
import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import (
    Applied,
    ClusterError,
    Entry,
    EntryKind,
    NodeStopped,
    NotLeader,
    OutcomeUnknown,
    ProposalRefused,
)
from clustercore.raft.types import LogIndex, NodeId, Term
from clustercore.runtime.proposals import Group, GroupResult, Proposals

UNLIMITED = 1_000_000


def make(max_commands: int = UNLIMITED, max_bytes: int = UNLIMITED) -> Proposals:
    """A node's proposals, with nothing in them."""
    return Proposals(node_id=NodeId("a"), max_commands=max_commands, max_bytes=max_bytes)


@attrs.define
class Outcomes:
    """What groups were answered, in the order of the answers."""

    seen: list[tuple[str, GroupResult]] = attrs.field(factory=list)

    def group(self, *commands: str, may_forward: bool = True) -> Group:
        """A group that notes its answer under its first command."""
        return Group(
            tuple(command.encode() for command in commands),
            on_done=lambda result: self.seen.append((commands[0], result)),
            may_forward=may_forward,
        )

    @property
    def kinds(self) -> list[tuple[str, type]]:
        """The answers by type."""
        return [(name, type(result)) for name, result in self.seen]


def entry(index: int, command: bytes = b"x", term: int = 1) -> Entry:
    """A command in the log."""
    return Entry.create(LogIndex(index), Term(term), EntryKind.COMMAND, command)


def names(groups: list[Group]) -> list[bytes]:
    """The first command of each group."""
    return [group.commands[0] for group in groups]


# --- The queue ---


def test_take_queued_keeps_the_order_and_stops_before_the_limit() -> None:
    """Groups are taken in order of arrival, as many as fit in the bytes given."""
    proposals, outcomes = make(), Outcomes()
    for name in ("aaaa", "bbbb", "cccc"):
        proposals.add(outcomes.group(name))

    assert names(proposals.take_queued(8)) == [b"aaaa", b"bbbb"]
    assert names(proposals.take_queued(8)) == [b"cccc"]
    assert proposals.take_queued(8) == []


def test_take_queued_takes_one_group_that_exceeds_the_limit() -> None:
    """A group larger than the limit is taken alone, or it would wait for ever."""
    proposals, outcomes = make(), Outcomes()
    proposals.add(outcomes.group("a" * 100))
    proposals.add(outcomes.group("b"))

    assert names(proposals.take_queued(8)) == [b"a" * 100]


def test_put_back_groups_go_before_those_that_came_later() -> None:
    """Groups that were certainly not done take their old place in the queue."""
    proposals, outcomes = make(), Outcomes()
    for name in "abc":
        proposals.add(outcomes.group(name))
    taken = proposals.take_queued(2)

    proposals.put_back(taken)

    assert names(proposals.take_queued(UNLIMITED)) == [b"a", b"b", b"c"]
    assert outcomes.seen == []


def test_withdraw_takes_back_only_what_is_queued() -> None:
    """A queued group can be taken back and leaves no count; one on its way cannot."""
    proposals, outcomes = make(), Outcomes()
    queued, on_its_way = outcomes.group("queued"), outcomes.group("on its way")
    proposals.add(on_its_way)
    proposals.take_queued(UNLIMITED)
    proposals.add(queued)

    assert proposals.withdraw(queued)
    assert not proposals.withdraw(queued)
    assert not proposals.withdraw(on_its_way)

    assert proposals.pending == 1
    assert outcomes.seen == []


def test_refuse_unforwardable_answers_just_those_groups() -> None:
    """Off the leader, what may not be passed on is refused, and the rest waits on in its order."""
    proposals, outcomes = make(), Outcomes()
    for name, may_forward in (("a", True), ("b", False), ("c", True), ("d", False)):
        proposals.add(outcomes.group(name, may_forward=may_forward))

    proposals.refuse_unforwardable(lambda: NotLeader(NodeId("a"), NodeId("b")))

    assert outcomes.kinds == [("b", NotLeader), ("d", NotLeader)]
    assert names(proposals.take_queued(UNLIMITED)) == [b"a", b"c"]
    assert proposals.pending == 2


# --- Results ---


def test_applied_answers_each_group_with_its_results_in_order() -> None:
    """A group is answered when its last command is applied; entries before the groups are nobody's."""
    proposals, outcomes = make(), Outcomes()
    for commands in (("a",), ("b1", "b2")):
        proposals.add(outcomes.group(*commands))
    proposals.appended(proposals.take_queued(UNLIMITED), LogIndex(7))

    for index in (5, 6, 7, 8):
        proposals.applied(entry(index), b"result %d" % index)
    assert outcomes.seen == [("a", [Applied(LogIndex(7), Term(1), b"result 7")])]
    proposals.applied(entry(9), b"result 9")

    assert outcomes.seen[1:] == [
        ("b1", [Applied(LogIndex(8), Term(1), b"result 8"), Applied(LogIndex(9), Term(1), b"result 9")])
    ]
    assert proposals.pending == 0


def test_applied_without_appended_groups_changes_nothing() -> None:
    """On a follower entries are applied that no group here waits for."""
    proposals, outcomes = make(), Outcomes()
    proposals.add(outcomes.group("queued"))

    proposals.applied(entry(1), b"")

    assert outcomes.seen == []
    assert proposals.pending == 1


def test_leadership_lost_leaves_only_the_queue() -> None:
    """What is in the log of a deposed leader has an unknown outcome; what is queued can still be done by another."""
    proposals, outcomes = make(), Outcomes()
    proposals.add(outcomes.group("appended 1", "appended 2"))
    proposals.appended(proposals.take_queued(UNLIMITED), LogIndex(1))
    proposals.applied(entry(1), b"")
    proposals.add(outcomes.group("queued"))

    proposals.leadership_lost(Term(3))

    assert outcomes.kinds == [("appended 1", OutcomeUnknown)]
    assert "term 3" in str(outcomes.seen[0][1])
    assert proposals.pending == 1
    # The rest of the group, which another leader may commit, is nobody's now.
    proposals.applied(entry(2), b"")
    assert len(outcomes.seen) == 1


def test_stop_tells_not_done_from_unknown() -> None:
    """A node that stops answers everything: queued is not done, appended may be."""
    proposals, outcomes = make(), Outcomes()
    proposals.add(outcomes.group("appended"))
    proposals.appended(proposals.take_queued(UNLIMITED), LogIndex(1))
    proposals.add(outcomes.group("queued 1"))
    proposals.add(outcomes.group("queued 2"))

    proposals.stop()

    assert outcomes.kinds == [("queued 1", NodeStopped), ("queued 2", NodeStopped), ("appended", OutcomeUnknown)]
    errors = [result for _, result in outcomes.seen]
    assert len({id(error) for error in errors}) == 3, "tasks share an exception, and so a traceback"
    assert proposals.pending == 0


def test_put_back_after_stop_is_not_done() -> None:
    """A forwarder that finds a request unsent when the node has stopped cannot queue it: it is answered."""
    proposals, outcomes = make(), Outcomes()
    proposals.add(outcomes.group("taken"))
    taken = proposals.take_queued(UNLIMITED)
    proposals.stop()
    assert outcomes.seen == []

    proposals.put_back(taken)

    assert outcomes.kinds == [("taken", NodeStopped)]
    assert proposals.pending == 0


# --- Room ---


@pytest.mark.parametrize(("max_commands", "max_bytes"), [(2, UNLIMITED), (UNLIMITED, 2)])
async def test_wait_room_waits_while_full(max_commands: int, max_bytes: int, nursery: trio.Nursery) -> None:
    """Full by number or by bytes, a newcomer waits until a group is done, and is counted meanwhile."""
    proposals, outcomes = make(max_commands, max_bytes), Outcomes()
    for name in "ab":
        await proposals.wait_room()
        proposals.add(outcomes.group(name))

    admitted = _line_up(proposals, outcomes, nursery, "c")
    await wait_all_tasks_blocked()
    assert admitted == []
    assert proposals.pending == 3

    [first, _] = proposals.take_queued(UNLIMITED)
    proposals.finish(first, [])
    await wait_all_tasks_blocked()
    assert admitted == ["c"]
    assert proposals.pending == 2


async def test_wait_room_lets_in_as_many_as_fit_in_order(nursery: trio.Nursery) -> None:
    """One large group that ends makes room for several, and they enter in the order in which they came."""
    proposals, outcomes = make(max_commands=3), Outcomes()
    proposals.add(outcomes.group("1", "2", "3"))
    admitted: list[str] = []
    for name in "abcde":
        admitted = _line_up(proposals, outcomes, nursery, name, admitted)
        await wait_all_tasks_blocked()

    [large] = proposals.take_queued(UNLIMITED)
    proposals.finish(large, [])
    await wait_all_tasks_blocked()

    assert admitted == ["a", "b", "c"]


async def test_wait_room_lets_nobody_pass_one_who_is_about_to_enter(nursery: trio.Nursery) -> None:
    """Room is made and a newcomer asks before the first in line has run: the newcomer goes behind it."""
    proposals, outcomes = make(max_commands=1), Outcomes()
    proposals.add(outcomes.group("held"))
    admitted = _line_up(proposals, outcomes, nursery, "first")
    await wait_all_tasks_blocked()

    [held] = proposals.take_queued(UNLIMITED)
    proposals.finish(held, [])
    # Nothing has run since: "first" has room but has not taken it.
    with trio.CancelScope() as scope:
        scope.cancel()
        await proposals.wait_room()
        pytest.fail("a newcomer took the room of the first in line")
    await wait_all_tasks_blocked()

    assert admitted == ["first"]


async def test_wait_room_keeps_the_place_of_one_who_finds_no_room_yet(nursery: trio.Nursery) -> None:
    """Those in line keep their order even if the first to enter fills what looked like room for two."""
    proposals, outcomes = make(max_bytes=4), Outcomes()
    small = [outcomes.group("s1"), outcomes.group("s2")]
    for group in small:
        proposals.add(group)
    admitted: list[str] = []
    for name in ("large", "b", "c"):
        _line_up(proposals, outcomes, nursery, name, admitted)
        await wait_all_tasks_blocked()
    proposals.take_queued(UNLIMITED)

    for group in small:
        proposals.finish(group, [])
    await wait_all_tasks_blocked()
    assert admitted == ["large"]
    for _ in range(2):
        for group in proposals.take_queued(UNLIMITED):
            proposals.finish(group, [])
        await wait_all_tasks_blocked()

    assert admitted == ["large", "b", "c"]


async def test_wait_room_that_is_cancelled_leaves_its_place_to_the_next(nursery: trio.Nursery) -> None:
    """A proposer that gives up in line is not counted any more and holds nobody up."""
    proposals, outcomes = make(max_commands=1), Outcomes()
    proposals.add(outcomes.group("held"))
    admitted: list[str] = []
    scope = trio.CancelScope()

    async def give_up() -> None:
        with scope:
            await proposals.wait_room()

    nursery.start_soon(give_up)
    await wait_all_tasks_blocked()
    _line_up(proposals, outcomes, nursery, "next", admitted)
    await wait_all_tasks_blocked()
    assert proposals.pending == 3

    scope.cancel()
    await wait_all_tasks_blocked()
    assert proposals.pending == 2
    [held] = proposals.take_queued(UNLIMITED)
    proposals.finish(held, [])
    await wait_all_tasks_blocked()

    assert admitted == ["next"]


async def test_withdraw_makes_room(nursery: trio.Nursery) -> None:
    """A queued group that is taken back lets the first in line enter."""
    proposals, outcomes = make(max_commands=1), Outcomes()
    held = outcomes.group("held")
    proposals.add(held)
    admitted = _line_up(proposals, outcomes, nursery, "next")
    await wait_all_tasks_blocked()

    proposals.withdraw(held)
    await wait_all_tasks_blocked()

    assert admitted == ["next"]


async def test_stop_ends_all_who_wait_for_room() -> None:
    """Those in line when the node stops learn that nothing was done, and so do those who come later."""
    proposals, outcomes = make(max_commands=1), Outcomes()
    proposals.add(outcomes.group("held"))
    ends: list[type] = []

    async def wait() -> None:
        try:
            await proposals.wait_room()
        except ClusterError as error:
            ends.append(type(error))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        proposals.stop()
    await wait()

    assert ends == [NodeStopped] * 4
    assert proposals.pending == 0


@given(st.lists(st.sampled_from(["add", "take", "finish", "put back", "withdraw", "append", "lose"]), max_size=40))
def test_every_group_is_answered_at_most_once_and_counted_until_then(steps: list[str]) -> None:
    """Whatever happens to groups, each is answered at most once, and those not answered are what is pending."""
    proposals, outcomes = make(), Outcomes()
    added: list[Group] = []
    withdrawn = 0
    taken: list[Group] = []
    next_index = 1
    for number, step in enumerate(steps):
        match step:
            case "add":
                added.append(outcomes.group(f"{number}", "more"))
                proposals.add(added[-1])
            case "take":
                taken += proposals.take_queued(3)
            case "finish" if taken:
                proposals.finish(taken.pop(0), [])
            case "put back":
                proposals.put_back(taken)
                taken = []
            case "withdraw" if added:
                withdrawn += proposals.withdraw(added[-1])
            case "append":
                proposals.appended(taken, LogIndex(next_index))
                next_index += 2 * len(taken)
                taken = []
            case "lose":
                proposals.leadership_lost(Term(1))
            case _:
                continue
        answered = [name for name, _ in outcomes.seen]
        assert len(answered) == len(set(answered))
        assert proposals.pending == 2 * (len(added) - withdrawn - len(answered))

    proposals.stop()
    proposals.put_back(taken)

    assert len(outcomes.seen) == len(added) - withdrawn
    assert proposals.pending == 0


def _line_up(
    proposals: Proposals, outcomes: Outcomes, nursery: trio.Nursery, name: str, admitted: list[str] | None = None
) -> list[str]:
    """Start a proposer that waits for room and then adds; returns the list of those who have."""
    entered = admitted if admitted is not None else []

    async def propose() -> None:
        await proposals.wait_room()
        entered.append(name)
        proposals.add(outcomes.group(name))

    nursery.start_soon(propose)
    return entered


async def test_first_in_line_that_is_cancelled_when_called_hands_its_turn_on() -> None:
    """Room that appears in the very turn in which the first in line gives up goes to the second."""
    proposals = Proposals(node_id=NodeId("a"), max_commands=1, max_bytes=1000)
    held = Group((b"x",), on_done=lambda result: None, may_forward=True)
    proposals.add(held)
    in_turn: list[str] = []
    scopes = [trio.CancelScope(), trio.CancelScope()]

    async def wait(name: str, scope: trio.CancelScope) -> None:
        with scope:
            await proposals.wait_room()
            in_turn.append(name)

    async with trio.open_nursery() as nursery:
        for name, scope in zip(("one", "two"), scopes, strict=True):
            nursery.start_soon(wait, name, scope)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        proposals.withdraw(held)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert in_turn == ["two"]


def test_group_given_up_is_refused_rather_than_queued_again() -> None:
    """Nobody waits for it any more: carried out later, it would come after newer commands."""
    proposals = Proposals(node_id=NodeId("a"), max_commands=10, max_bytes=1000)
    answers: list[GroupResult] = []
    given_up = Group((b"x",), on_done=answers.append, may_forward=True)
    waited_for = Group((b"y",), on_done=answers.append, may_forward=True)
    for group in (given_up, waited_for):
        proposals.add(group)
    taken = proposals.take_queued(1000)
    given_up.is_given_up = True

    proposals.put_back(taken)

    assert [type(answer) for answer in answers] == [ProposalRefused]
    assert proposals.take_queued(1000) == [waited_for]
    assert proposals.pending == 1
