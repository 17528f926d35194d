"""Changing the members by asking: what is asked, how often, and what becomes of each answer."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock

from clustercore.interfaces import (
    ChangeMembers,
    ChangeRefusal,
    ChangeRefused,
    Configuration,
    InvalidChange,
    LogIndex,
    Members,
    MembersFailed,
    MembersRequest,
    MembersResponse,
    NodeId,
    NodeStopped,
    OutcomeUnknown,
    Server,
    Term,
)
from clustercore.runtime.member_changes import MemberChanges

N1 = NodeId("n1")
PRESENT = Configuration.of("abc", cluster_id="test")
Request = MembersRequest | ChangeMembers
Answer = MembersResponse | MembersFailed


def members(
    configuration: Configuration = PRESENT, *, index: int = 5, term: int = 2, committed: bool = True
) -> Members:
    """What a leader tells."""
    return Members(configuration, LogIndex(index), committed, Term(term), N1)


def told(
    configuration: Configuration = PRESENT, *, index: int = 5, term: int = 2, committed: bool = True
) -> MembersResponse:
    """The same as an answer."""
    return MembersResponse(0, members(configuration, index=index, term=term, committed=committed))


def failed(reason: ChangeRefusal, *, may_be_done: bool = False) -> MembersFailed:
    """A refusal, or a question that was lost."""
    return MembersFailed(0, reason, f"because of {reason.value}", None, may_be_done)


def with_learner(*names: str) -> Configuration:
    """The members and these learners."""
    return Configuration.of("abc", learners=names, cluster_id="test")


@attrs.define
class Script:
    """Answers, in order, each time after a second; then it hangs. Keeps what was asked."""

    answers: list[Answer | Exception]
    asked: list[Request] = attrs.field(factory=list)

    async def ask(self, request: Request) -> Answer:
        self.asked.append(request)
        await trio.sleep(1)
        if not self.answers:
            await trio.sleep_forever()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def changes(self) -> list[ChangeMembers]:
        """The changes that were asked for."""
        return [request for request in self.asked if isinstance(request, ChangeMembers)]


async def test_change_is_asked_for_once_with_what_it_was_made_for(autojump_clock: MockClock) -> None:
    """The term and index that the members were told with go along; the answer is the result."""
    script = Script([told(), told(with_learner("d"), index=6)])

    found = await MemberChanges(script.ask).add_learner("d")

    assert found == members(with_learner("d"), index=6)
    assert script.asked == [
        MembersRequest(is_settled=True),
        ChangeMembers(Term(2), LogIndex(5), with_learner("d")),
    ]


async def test_change_that_holds_already_is_not_asked_for(autojump_clock: MockClock) -> None:
    """Whoever repeats one that was done hears so."""
    script = Script([told(with_learner("d"))])

    assert await MemberChanges(script.ask).add_learner("d") == members(with_learner("d"))
    assert script.changes == []


async def test_change_waits_for_the_one_under_way(autojump_clock: MockClock) -> None:
    """Be it joint or not committed, it is finished first."""
    joint = Configuration.of("ab", old_voters="abc", cluster_id="test")
    script = Script([told(joint), told(committed=False), told(), told(with_learner("d"), index=6)])

    await MemberChanges(script.ask).add_learner("d")

    assert [type(request) for request in script.asked] == [MembersRequest] * 3 + [ChangeMembers]


@pytest.mark.parametrize(
    "reason",
    [
        ChangeRefusal.NOT_LEADER,
        ChangeRefusal.TRANSFERRING,
        ChangeRefusal.CHANGE_PENDING,
        ChangeRefusal.TERM_NOT_COMMITTED,
        ChangeRefusal.UNCHANGED,
        ChangeRefusal.CONFLICT,
    ],
)
async def test_passing_refusal_begins_anew(reason: ChangeRefusal, autojump_clock: MockClock) -> None:
    """The members are read again, and the change is worked out from those."""
    script = Script(
        [
            failed(ChangeRefusal.NOT_LEADER),
            told(),
            failed(reason),
            told(with_learner("e"), index=6),
            told(with_learner("d", "e"), index=7),
        ]
    )

    await MemberChanges(script.ask).add_learner("d")

    assert script.changes == [
        ChangeMembers(Term(2), LogIndex(5), with_learner("d")),
        ChangeMembers(Term(2), LogIndex(6), with_learner("d", "e")),
    ]


@pytest.mark.parametrize("reason", [ChangeRefusal.NOT_CAUGHT_UP, ChangeRefusal.NO_QUORUM, ChangeRefusal.UNSUPPORTED])
async def test_lasting_refusal_is_raised(reason: ChangeRefusal, autojump_clock: MockClock) -> None:
    """With the reason, and the leader's words."""
    script = Script([told(), failed(reason)])

    with pytest.raises(ChangeRefused, match=f"because of {reason.value}") as refused:
        await MemberChanges(script.ask).add_learner("d")

    assert refused.value.reason is reason


async def test_refusal_of_what_can_never_be_is_raised_as_that(autojump_clock: MockClock) -> None:
    """The leader may know more than the one who worked the change out."""
    script = Script([told(), failed(ChangeRefusal.INVALID)])

    with pytest.raises(InvalidChange, match="because of invalid"):
        await MemberChanges(script.ask).add_learner("d")


async def test_leader_that_knows_no_such_question_is_not_asked_again(autojump_clock: MockClock) -> None:
    """Time does not make an old version a new one."""
    script = Script([failed(ChangeRefusal.UNSUPPORTED)])

    with pytest.raises(ChangeRefused, match="because of unsupported"):
        await MemberChanges(script.ask).get()


async def test_lost_question_is_asked_again_for_the_same_members(autojump_clock: MockClock) -> None:
    """If the first one arrived late, the second would be refused: it is made at most once."""
    lost = failed(ChangeRefusal.NOT_LEADER, may_be_done=True)
    script = Script([told(), lost, told(), told(with_learner("d"), index=6)])

    await MemberChanges(script.ask).add_learner("d")

    assert script.changes == [ChangeMembers(Term(2), LogIndex(5), with_learner("d"))] * 2


async def test_replacement_waits_until_the_new_node_has_caught_up(autojump_clock: MockClock) -> None:
    """It is added as a learner, and the refusals until it has the log are no errors."""
    replaced = Configuration.of("bcd", cluster_id="test")
    script = Script(
        [
            told(),
            told(with_learner("d"), index=6),
            told(with_learner("d"), index=6),
            failed(ChangeRefusal.NOT_CAUGHT_UP),
            told(with_learner("d"), index=6),
            told(replaced, index=8),
        ]
    )

    found = await MemberChanges(script.ask).replace("a", "d")

    assert found.configuration == replaced
    assert [change.target for change in script.changes] == [with_learner("d"), replaced, replaced]


async def test_replacement_of_nobody_adds_nobody(autojump_clock: MockClock) -> None:
    """A mistyped name is found before anything is changed."""
    script = Script([told()])

    with pytest.raises(InvalidChange, match="node 'x' is no member"):
        await MemberChanges(script.ask).replace("x", "d", "d:1")

    assert script.changes == []


async def test_addition_waits_for_the_vote(autojump_clock: MockClock) -> None:
    """The leader promotes the learner; until then its lag is asked for."""
    promised = Configuration.with_servers(
        [*PRESENT.servers, Server(NodeId("d"), is_voter=False, is_promoted=True)], cluster_id="test"
    )
    voting = Configuration.of("abcd", cluster_id="test")
    script = Script([told(), told(promised, index=6), told(promised, index=6), told(voting, index=9)])

    found = await MemberChanges(script.ask).add("d")

    assert found == members(voting, index=9)
    assert len(script.changes) == 1


async def test_cluster_that_is_not_formed_is_waited_for(autojump_clock: MockClock) -> None:
    """Until there was a leader nobody is a member of anything."""
    script = Script([told(Configuration.of("abc"), index=0), told(), told(with_learner("d"), index=6)])

    await MemberChanges(script.ask).add_learner("d")

    assert len(script.changes) == 1


@pytest.mark.parametrize(
    ("answers", "error", "text"),
    [
        ([], ChangeRefused, "within 30 s: no leader is known"),
        ([failed(ChangeRefusal.NOT_LEADER)], ChangeRefused, "within 30 s: because of not leader"),
        ([told(committed=False)], ChangeRefused, "change at index 5 is not finished; it needs a majority of a, b, c"),
        ([told()], OutcomeUnknown, "may still be made"),
        ([told(), failed(ChangeRefusal.TRANSFERRING)], ChangeRefused, "because of transferring"),
        ([told(), failed(ChangeRefusal.CONFLICT)], OutcomeUnknown, "because of conflict"),
        ([told(), failed(ChangeRefusal.NOT_LEADER, may_be_done=True)], OutcomeUnknown, "because of not leader"),
        # It was lost for good: a leader of a later term names the same members.
        (
            [told(), failed(ChangeRefusal.NOT_LEADER, may_be_done=True), told(term=3, committed=False)],
            OutcomeUnknown,
            "",
        ),
        (
            [
                told(),
                failed(ChangeRefusal.NOT_LEADER, may_be_done=True),
                told(term=3),
                failed(ChangeRefusal.TRANSFERRING),
            ],
            ChangeRefused,
            "because of transferring",
        ),
        # It is in the log, and no majority says so.
        ([told(), told(with_learner("d"), index=6, committed=False)], OutcomeUnknown, "index 6 is not committed"),
    ],
    ids=[
        "no answer",
        "no leader",
        "another change",
        "asked",
        "refused",
        "conflict",
        "lost",
        "lost, and not decided",
        "lost for good",
        "appended",
    ],
)
async def test_giving_up_tells_what_is_known(
    answers: list[Answer | Exception], error: type[Exception], text: str, autojump_clock: MockClock
) -> None:
    """Not done, unless a leader may have it in its log, or may come to."""
    with pytest.raises(error) as raised:
        await MemberChanges(Script(list(answers)).ask).add_learner("d", give_up_s=30)

    assert type(raised.value) is error
    assert text in str(raised.value)
    assert trio.current_time() == 30


@pytest.mark.parametrize("was_asked", [False, True])
async def test_node_that_stops_tells_what_is_known(autojump_clock: MockClock, *, was_asked: bool) -> None:
    """Not done, if the change was never asked for."""
    stopped = NodeStopped("it has stopped")
    script = Script([told(), stopped] if was_asked else [stopped])

    with pytest.raises(OutcomeUnknown if was_asked else NodeStopped, match="it has stopped"):
        await MemberChanges(script.ask).add_learner("d")


@pytest.mark.parametrize(
    "call",
    [
        lambda handle: handle.promote("d", expected_index=4),
        lambda handle: handle.demote("a", expected_index=4),
        lambda handle: handle.remove("a", expected_index=4),
        lambda handle: handle.move("a", "a:1", expected_index=4),
        lambda handle: handle.add("e", expected_index=4),
        lambda handle: handle.add_learner("e", expected_index=4),
        lambda handle: handle.replace("a", "e", expected_index=4),
        lambda handle: handle.apply(Configuration.of("ab"), expected_index=4),
    ],
    ids=["promote", "demote", "remove", "move", "add", "add_learner", "replace", "apply"],
)
async def test_every_change_may_be_bound_to_an_index(
    call: Callable[[MemberChanges], object], autojump_clock: MockClock
) -> None:
    """Nothing is asked for if other members count by now."""
    script = Script([told(with_learner("d"))])

    with pytest.raises(ChangeRefused, match="those of index 5, not 4") as refused:
        await call(MemberChanges(script.ask))  # type: ignore[misc]

    assert refused.value.reason is ChangeRefusal.CONFLICT
    assert script.changes == []
