"""The laws of ``join``, on states of one group as writers make them, and on states that no honest writer makes.

What truly happened is known here: for each write, the set of all writes that its maker had heard of. So besides the
laws it is checked that what the states say is the truth: heads are the writes that nobody overruled, and conflicts are
the pairs that did not know each other, whatever their versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from random import Random

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from clustercore.interfaces import ConflictDecision, ConflictResolver, Edit
from clustercore.sync import GroupState, Stamp, Write, decode_group_state
from clustercore.sync.merge import Relation, join, join_heads, pick, precedence

WRITERS = ("a#1", "b#1", "b#2", "\u00e4#1")
VALUES = (b"1", b"2", b"10", None)


def cases(factor: int = 1) -> settings:
    """As many as the profile says; where it looks hard, seven times as many, for laws that are what all is about."""
    return settings(max_examples=factor * settings().max_examples if settings().max_examples > 1000 else 200)


@attrs.frozen
class Made:
    """A write, and the writes that its maker had heard of, itself among them."""

    write: Write
    heard: frozenset[tuple[str, int]]

    @property
    def dot(self) -> tuple[str, int]:
        return self.write.stamp.writer, self.write.stamp.time


@attrs.define
class Replica:
    """What a writer holds, and what it has truly heard of."""

    writer: str
    state: GroupState | None = None
    heard: frozenset[tuple[str, int]] = frozenset()
    time: int = 0

    def hear(self, other: Replica) -> None:
        if other.state is not None:
            self.state = join(self.state, other.state).state
            self.heard |= other.heard

    def write(self, time: int, value: bytes | None, storm: int) -> Made:
        """Make a write; its version is above all that was seen, by more if it ends a storm of edits."""
        # Only this writer's own times must go up; others' may be anywhere.
        self.time = max(self.time + 1, time)
        heads = () if self.state is None else self.state.heads
        seen = {} if self.state is None else self.state.seen
        base = pick(heads)[0] if heads else None
        version = storm + max((head.stamp.version for head in heads), default=0)
        past = tuple(sorted((writer, last) for writer, last in seen.items() if writer != self.writer))
        write = Write(Stamp(version, self.time, self.writer), base, past, value)
        self.heard |= {(self.writer, self.time)}
        self.state = GroupState((write,), {**seen, self.writer: self.time})
        return Made(write, self.heard)


STEP = st.tuples(
    st.integers(0, len(WRITERS) - 1),
    st.one_of(
        st.tuples(st.integers(1, 3), st.sampled_from(VALUES), st.sampled_from([1, 1, 1, 5])),
        st.integers(0, len(WRITERS) - 1),
    ),
)
HISTORIES = st.lists(STEP, min_size=1, max_size=12)


def carry_out(history: Sequence[tuple[int, object]]) -> list[Made]:
    """Let writers write and hear of each other; return all writes."""
    replicas = [Replica(writer) for writer in WRITERS]
    made = []
    for index, step in history:
        if isinstance(step, tuple):
            made.append(replicas[index].write(*step))
        else:
            assert isinstance(step, int)
            replicas[index].hear(replicas[step])
    return made


def merge(states: Sequence[GroupState]) -> GroupState:
    """Join states from left to right."""
    return reduce(lambda held, state: join(held, state).state, states[1:], states[0])


def deliver(states: Sequence[GroupState], random: Random) -> GroupState:
    """Join states in some order and grouping, some of them more than once."""
    pool = [*states, *random.choices(states, k=random.randrange(3))]
    while len(pool) > 1:
        one, other = (pool.pop(random.randrange(len(pool))) for _ in range(2))
        pool.append(join(one, other).state)
    return pool[0]


@cases(7)
@given(HISTORIES, st.randoms(use_true_random=False))
def test_any_delivery_of_the_same_writes_makes_the_same_bytes(
    history: list[tuple[int, object]], random: Random
) -> None:
    """Order, grouping and repetition make no difference: not to the state, and not to what readers see."""
    states = [GroupState.of(made.write) for made in carry_out(history)]
    if not states:
        return
    expected = merge(states)
    for _ in range(3):
        delivered = deliver(states, random)
        assert delivered.encoded == expected.encoded
        assert pick(delivered.heads) == pick(expected.heads)
        assert decode_group_state(delivered.encoded) == delivered


def check_short_ways(here: GroupState, came: GroupState) -> None:
    """Fail if a short way of ``join`` says anything else than the way for all states."""
    short, general = join(here, came), join_heads(here, came)
    assert short == general
    assert short.state.encoded == general.state.encoded


@cases()
@given(HISTORIES, st.randoms(use_true_random=False))
def test_short_ways_of_the_join_lead_where_the_long_one_does(history: list[tuple[int, object]], random: Random) -> None:
    """What is told by two look-ups is what a comparison of all heads tells: state, bytes, relation and conflicts."""
    states = [GroupState.of(made.write) for made in carry_out(history)]
    if not states:
        return
    # Of one write each, and of several.
    parts = [*states, *(deliver(random.choices(states, k=random.randint(1, 3)), random) for _ in range(4))]
    for _ in range(6):
        check_short_ways(random.choice(parts), random.choice(parts))


@cases()
@given(HISTORIES)
def test_heads_are_what_nobody_overruled(history: list[tuple[int, object]]) -> None:
    """The heads are exactly the writes that no other was made in knowledge of, and the last write is among them."""
    made = carry_out(history)
    if not made:
        return
    state = merge([GroupState.of(one.write) for one in made])

    true_heads = {one.dot for one in made if not any(one.dot in other.heard for other in made if other is not one)}
    assert {(head.stamp.writer, head.stamp.time) for head in state.heads} == true_heads
    # A descendant has a higher version, so the last of all writes is a head: ancestry never contradicts the rules.
    assert pick(state.heads)[0] == max((one.write for one in made), key=precedence).stamp


@cases()
@given(HISTORIES, st.randoms(use_true_random=False))
def test_conflicts_are_the_pairs_that_did_not_know_each_other(
    history: list[tuple[int, object]], random: Random
) -> None:
    """Of writes told one by one, those that meet are conflicts if neither knew the other, also at unequal versions."""
    made = {one.dot: one for one in carry_out(history)}
    order = list(made.values())
    random.shuffle(order)
    held: GroupState | None = None
    for one in order:
        before = () if held is None else held.heads
        joined = join(held, GroupState.of(one.write))
        told = {frozenset((first.stamp, second.stamp)) for first, second in joined.conflicts}
        # It is stale if a write that came before knew of it.
        is_news = not any(one.dot in other.heard for other in order[: order.index(one)])
        expected = {
            frozenset((head.stamp, one.write.stamp))
            for head in before
            if is_news and (head.stamp.writer, head.stamp.time) not in one.heard
        }
        assert told == expected
        assert (joined.relation is Relation.CONCURRENT) == bool(expected)
        held = joined.state


@cases()
@given(HISTORIES)
def test_what_was_seen_has_an_entry_for_each_writer(history: list[tuple[int, object]]) -> None:
    """However many writes there were, a state speaks of each writer once, and of nobody else."""
    made = carry_out(history)
    if not made:
        return
    state = merge([GroupState.of(one.write) for one in made])
    assert set(state.seen) == {one.write.stamp.writer for one in made}


def test_a_forgotten_writer_would_come_back() -> None:
    """Why nothing is dropped from what was seen: one entry less, and an overruled write is a head again."""
    first = GroupState.of(Write(Stamp(1, 1, "a#1"), None, (), b"1"))
    second = GroupState.of(Write(Stamp(2, 2, "b#1"), first.heads[0].stamp, (("a#1", 1),), b"2"))
    third = Write(Stamp(3, 3, "c#1"), second.heads[0].stamp, (("a#1", 1), ("b#1", 2)), b"3")
    forgetful = attrs.evolve(third, past=third.past[1:])

    assert join(first, GroupState.of(third)).state.heads == (third,)
    assert len(join(first, GroupState.of(forgetful)).state.heads) == 2
    # And whoever was told of the second in between has one.
    assert join(join(first, second).state, GroupState.of(forgetful)).state.heads == (forgetful,)


def by_timestamp(one: Edit, other: Edit) -> ConflictDecision:
    """Prefer the later, and the first that came if they are equal: no join."""
    return ConflictDecision(other if other.stamp.time > one.stamp.time else one, "timestamp")


class Naive(ConflictResolver):
    """What the kit of resolvers catches."""

    def resolve(self, one: Edit, other: Edit) -> ConflictDecision:
        return by_timestamp(one, other)


@cases()
@given(HISTORIES, st.randoms(use_true_random=False))
def test_even_a_resolver_that_is_no_join_is_asked_the_same_everywhere(
    history: list[tuple[int, object]], random: Random
) -> None:
    """A resolver has no part in what is replicated, and is handed the heads in one order: replicas agree."""
    states = [GroupState.of(made.write) for made in carry_out(history)]
    if states:
        one, other = deliver(states, random), deliver(states, random)
        assert pick(one.heads, Naive()) == pick(other.heads, Naive())


# Whatever bytes a broken node sends: the same dots with other values, pasts that contradict each other.
STAMPS = st.builds(Stamp, st.integers(1, 3), st.integers(1, 4), st.sampled_from(WRITERS[:3]))


@st.composite
def forged_states(draw: st.DrawFn) -> GroupState:
    """Draw a state that a decoder would take."""
    stamp = draw(STAMPS)
    others = [writer for writer in WRITERS if writer != stamp.writer]
    past = draw(st.dictionaries(st.sampled_from(others), st.integers(1, 4), max_size=2))
    return GroupState.of(Write(stamp, None, tuple(sorted(past.items())), draw(st.sampled_from(VALUES))))


@cases(7)
@given(st.lists(forged_states(), min_size=3, max_size=5), st.randoms(use_true_random=False))
def test_laws_hold_for_what_broken_nodes_say(states: list[GroupState], random: Random) -> None:
    """Commutative, associative and idempotent for any states, also where the same stamp has several values."""
    one, other, third = states[:3]
    assert join(one, other).state.encoded == join(other, one).state.encoded
    assert merge([merge([one, other]), third]).encoded == merge([one, merge([other, third])]).encoded
    assert join(one, one).state == one
    both = join(one, other).state
    assert join(both, one).state == join(other, both).state == both
    delivered = deliver(states, random)
    assert delivered.encoded == deliver(states, random).encoded
    assert decode_group_state(delivered.encoded) == delivered


@cases()
@given(forged_states(), forged_states())
def test_short_ways_hold_for_what_broken_nodes_say(one: GroupState, other: GroupState) -> None:
    """The same for single heads that no honest node makes, as they are here and as they come off the wire."""
    check_short_ways(one, other)
    check_short_ways(decode_group_state(one.encoded), decode_group_state(other.encoded))


@given(STAMPS, STAMPS)
def test_stamps_are_alike_if_resolvers_see_the_same(one: Stamp, other: Stamp) -> None:
    """Two are alike exactly if what resolvers see of them is equal: two stores of one node are one node to them."""
    assert one.is_like(other) == (one.edit_stamp == other.edit_stamp)


@given(forged_states(), forged_states())
def test_two_values_under_one_stamp_are_reported(one: GroupState, other: GroupState) -> None:
    """Two different writes of one writer at one time, or of two stores of one node under one stamp, are told."""
    (first,), (second,) = one.heads, other.heads
    joined = join(one, other)
    if (first.stamp.writer, first.stamp.time) == (second.stamp.writer, second.stamp.time):
        assert bool(joined.corruptions) == (first != second)
    elif len(joined.state.heads) == 2:
        assert bool(joined.corruptions) == (first.stamp.edit_stamp == second.stamp.edit_stamp)
    else:
        assert joined.corruptions == ()
