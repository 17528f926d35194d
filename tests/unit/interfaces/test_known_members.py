"""The rules of a discovery's snapshots, by the class that keeps them for plugins."""

from __future__ import annotations

import logging

import pytest
import trio

from clustercore.interfaces import ConfigError, KnownMembers, Member, MemberMetadata, NodeId

A, B, C = (Member(NodeId(name), f"{name}:1") for name in "abc")


def book(*members: Member) -> KnownMembers:
    """Books whose source has told these, at second 10."""
    known = KnownMembers("test", clock=lambda: 99.0)
    assert known.tell(members, as_of=10.0)
    return known


async def test_nothing_is_known_before_the_first_answer() -> None:
    """Who asks waits for it: also while the source fails, and though somebody has registered."""
    known = KnownMembers("test", clock=lambda: 5.0)
    known.fail("no answer")
    known.register(A)
    assert known.newest is None
    with trio.move_on_after(0) as scope:
        await known.members()
    assert scope.cancelled_caught

    known.tell([B])

    snapshot = await known.members()
    assert (snapshot.version, snapshot.members, snapshot.is_stale, snapshot.as_of) == (1, (A, B), False, 5.0)


async def test_same_answer_is_no_news_and_is_younger() -> None:
    """The version stays, and the time of the answer does not."""
    known = book(A)
    before = await known.members()

    known.tell([A], as_of=20.0)

    after = await known.members()
    assert after == before
    assert (before.as_of, after.as_of) == (10.0, 20.0)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ([], "it names nobody, all of a sudden"),
        ([B, Member(NodeId(""), "x:1")], "a member without id, at 'x:1'"),
        ([B, Member(NodeId("x"), "")], "no address of node 'x'"),
        ([B, Member(B.node_id, "x:1")], "two things of node 'b': 'b:1' and 'x:1'"),
    ],
)
async def test_answer_that_cannot_be_right_is_none(
    answer: list[Member], fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was told before holds, as stale and as old as it is; the log says why, once, and when it is over."""
    known = book(A)
    caplog.set_level(logging.INFO, "clustercore")

    assert not known.tell(answer)
    assert not known.tell(answer)

    stale = await known.members()
    assert (stale.version, stale.members, stale.is_stale, stale.as_of) == (2, (A,), True, 10.0)
    assert caplog.text.count(fault) == 1
    assert "the last 1 members hold" in caplog.text
    assert known.tell([A])
    assert "discovery test answers again" in caplog.text
    assert not (await known.members()).is_stale


async def test_certain_emptiness_is_believed() -> None:
    """As is one that comes first, and the same member twice."""
    known = book(A)
    known.tell([], is_empty_certain=True)
    assert (await known.members()).members == ()

    assert KnownMembers("test").tell([])
    assert KnownMembers("test").tell([A, A])


async def test_registration_holds_until_the_source_has_news() -> None:
    """A source that repeats itself does not undo it, one that changes its mind does."""
    known = book(A)
    moved = Member(A.node_id, "elsewhere:1")
    known.register(moved)
    known.tell([A])
    assert (await known.members()).members == (moved,)

    known.tell([Member(A.node_id, "third:1")])

    assert (await known.members()).address_of(A.node_id) == "third:1"


async def test_answer_to_an_earlier_question_undoes_nothing() -> None:
    """Whoever registers or is forgotten while an answer is under way stays so when it arrives."""
    known = book(A, B)
    asked_at = known.edits
    known.register(Member(A.node_id, "elsewhere:1"))
    known.forget(B.node_id)

    known.tell([Member(A.node_id, "third:1"), B], asked_at=asked_at)
    assert (await known.members()).members == (Member(A.node_id, "elsewhere:1"),)

    known.tell([Member(A.node_id, "third:1"), B])
    assert (await known.members()).members == (Member(A.node_id, "third:1"), B)


async def test_withdrawn_member_is_told_and_marked() -> None:
    """Until it is registered again, or the source has dropped it; what was only registered here is forgotten."""
    known = book(A, B)
    known.register(C)
    for member in (A, B, C):
        known.withdraw(member.node_id)
    snapshot = await known.members()
    assert (snapshot.members, snapshot.in_service) == ((A, B), ())
    assert snapshot.withdrawn == {A.node_id, B.node_id}
    assert snapshot.address_of(A.node_id) == A.address

    known.register(A)
    known.tell([A])
    known.tell([A, B])

    snapshot = await known.members()
    assert (snapshot.in_service, snapshot.withdrawn) == ((A, B), frozenset())


async def test_member_withdrawn_before_the_first_answer_stays_so() -> None:
    """Who is not told then is no matter any more."""
    known = KnownMembers("test")
    known.withdraw(A.node_id)
    known.withdraw(C.node_id)

    known.tell([A, B])

    assert (await known.members()).in_service == (B,)
    assert (await known.members()).withdrawn == {A.node_id}


def test_metadata_is_made_into_pairs_and_back() -> None:
    """What is known is a text by its name; nothing is lost, and what is no version is not known."""
    metadata = MemberMetadata("c1", "voter", 4, 2, {"zone": "north", "a": ""})

    pairs = metadata.to_mapping()

    assert pairs == {
        "cluster_id": "c1", "role": "voter", "protocol_version": "4", "oldest_protocol_version": "2",
        "zone": "north", "a": "",
    }  # fmt: skip
    assert MemberMetadata.from_mapping(pairs) == metadata
    assert metadata.tags == (("a", ""), ("zone", "north"))
    assert MemberMetadata().to_mapping() == {}
    nonsense = {"protocol_version": "²", "oldest_protocol_version": "-1", "": "x"}
    assert MemberMetadata.from_mapping(nonsense) == MemberMetadata()


@pytest.mark.parametrize("tags", [{"role": "voter"}, {"": "x"}, {"x": 5}, {5: "x"}])
def test_metadata_refuses_what_is_no_tag(tags: object) -> None:
    """A name that is taken, an empty one, and what is no text."""
    with pytest.raises(ConfigError, match="tags"):
        MemberMetadata(tags=tags)  # type: ignore[arg-type]  # What a configuration may hold.


async def test_those_whom_the_source_calls_unwell_are_withdrawn_until_it_says_otherwise() -> None:
    """They are told, for their addresses are what they were; a registration here says that one is well."""
    known = book(A, B)
    versions = []
    for unwell in ([B.node_id], [B.node_id], [], [A.node_id, C.node_id]):
        known.tell([A, B], unwell=unwell)
        snapshot = await known.members()
        assert snapshot.members == (A, B)
        assert snapshot.withdrawn == {A.node_id, B.node_id} & set(unwell)
        versions.append(snapshot.version)
    assert versions == [2, 2, 3, 4]

    known.fail("no answer")
    assert (await known.members()).in_service == (B,)
    known.register(A)
    assert (await known.members()).in_service == (A, B)
    assert known.complaint == "no answer"
