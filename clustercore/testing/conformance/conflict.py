"""The ConflictResolver contract, rule by rule: see ``clustercore.interfaces.conflict``.

Each rule is tried on hundreds of generated edits, as many as the Hypothesis profile asks for: a few versions, times,
nodes and values, so that they often meet, and the extremes at which integers stop being floats.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import reduce
from random import Random
from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st

from clustercore.interfaces import ConflictResolver, Edit, EditStamp, HybridTime, NodeId
from clustercore.testing.conformance.base import Conformance

__all__ = ["ConflictResolverConformance", "edits"]

# Beyond 2**53 neighbours are one float.
_VERSIONS = (1, 2, 3, 10, 2**53, 2**53 + 1)
_TIMES = tuple(HybridTime(*parts) for parts in ((0, 0), (0, 1), (9, 0), (10, 0), (10, 2**16 - 1), (2**48 - 1, 0)))
_NODES = tuple(map(NodeId, ("a", "b", "B", "\u00e4", "\U0001f6e9", "\uffee")))
_STAMPS = tuple(itertools.starmap(EditStamp, itertools.product(_VERSIONS, _TIMES, _NODES)))


def edits(values: Iterable[bytes]) -> st.SearchStrategy[Edit]:
    """Return a strategy of edits with these values: many are alike in much, and some are tombstones."""
    return st.sampled_from([Edit(stamp, value) for stamp in _STAMPS for value in (*values, None)])


class ConflictResolverConformance(Conformance, ABC):
    """Derive from it, and say in ``make`` how the resolver is made."""

    # The values of edits. For a resolver that reads them, mostly such as it can read.
    values: ClassVar[Sequence[bytes]] = (b"", b"1", b"2", b"10", b"\xff", b'"a"')

    # How many cases are tried: this share of what the Hypothesis profile says, and a hundred at least.
    share_of_cases: ClassVar[float] = 1.0

    @abstractmethod
    def make(self) -> ConflictResolver:
        """Make another resolver, like the one before."""

    def test_order_of_the_two_makes_no_difference(self) -> None:
        """Commutative: both orders have the same winner, to the last byte, by the same rule."""
        resolve = self.make().resolve

        @self._cases()
        @given(edits(self.values), edits(self.values))
        def law(one: Edit, other: Edit) -> None:
            assert resolve(one, other) == resolve(other, one)

        law()

    def test_grouping_makes_no_difference(self) -> None:
        """Associative: of three edits, it does not matter which two are resolved first."""
        resolve = self.make().resolve

        @self._cases()
        @given(edits(self.values), edits(self.values), edits(self.values))
        def law(one: Edit, other: Edit, third: Edit) -> None:
            left = resolve(resolve(one, other).winner, third).winner
            right = resolve(one, resolve(other, third).winner).winner
            assert left == right

        law()

    def test_edit_and_itself_are_that_edit(self) -> None:
        """Idempotent: an edit that meets itself comes out as it was."""
        resolve = self.make().resolve

        @self._cases()
        @given(edits(self.values))
        def law(one: Edit) -> None:
            assert resolve(one, one).winner == one

        law()

    def test_decision_stands_when_a_loser_comes_back(self) -> None:
        """A repeated edit changes nothing: the winner, meeting either of the two again, wins as it is."""
        resolve = self.make().resolve

        @self._cases()
        @given(edits(self.values), edits(self.values))
        def law(one: Edit, other: Edit) -> None:
            winner = resolve(one, other).winner
            assert resolve(winner, one).winner == winner
            assert resolve(other, winner).winner == winner

        law()

    def test_replicas_agree_whatever_the_delivery(self) -> None:
        """Replicas that saw the same edits, each in its own order and some of them repeatedly, are equal."""
        resolve = self.make().resolve

        made = st.lists(edits(self.values), min_size=2, max_size=5)

        # This is what all the others are for, so a profile that looks hard looks hardest here.
        @self._cases(factor=7 if settings().max_examples > 1000 else 1)
        @given(made, st.randoms(use_true_random=False))
        def law(made: list[Edit], random: Random) -> None:
            first, *others = [
                reduce(lambda held, edit: resolve(held, edit).winner, _deliver(made, random)) for _ in range(3)
            ]
            assert others == [first, first]

        law()

    def test_answer_depends_on_nothing_but_the_edits(self) -> None:
        """Pure: the same question has the same answer again, from it and from another that was made in the same way."""
        used, fresh = self.make(), self.make()

        @self._cases()
        @given(edits(self.values), edits(self.values))
        def law(one: Edit, other: Edit) -> None:
            assert used.resolve(one, other) == used.resolve(one, other) == fresh.resolve(one, other)

        law()

    def test_winner_has_the_higher_version_and_no_higher(self) -> None:
        """The winner's version is the higher of the two, and it names one of the two nodes: a merge is no new edit."""
        resolve = self.make().resolve

        @self._cases()
        @given(edits(self.values), edits(self.values))
        def law(one: Edit, other: Edit) -> None:
            stamp = resolve(one, other).winner.stamp
            assert stamp.version == max(one.stamp.version, other.stamp.version)
            assert stamp in (one.stamp, other.stamp)

        law()

    def test_two_deletions_are_a_deletion(self) -> None:
        """What both sides deleted stays deleted."""
        resolve = self.make().resolve
        tombstones = edits([])

        @self._cases()
        @given(tombstones, tombstones)
        def law(one: Edit, other: Edit) -> None:
            assert resolve(one, other).winner.is_tombstone

        law()

    def test_decision_names_its_rule(self) -> None:
        """Every decision says which rule decided, in a few words."""
        resolve = self.make().resolve

        @self._cases()
        @given(edits(self.values), edits(self.values))
        def law(one: Edit, other: Edit) -> None:
            rule = resolve(one, other).rule
            assert rule.strip() == rule != ""
            assert len(rule) <= 40

        law()

    def test_any_value_is_borne(self) -> None:
        """It raises nothing, whatever the bytes, and the laws hold for what it cannot read as well."""
        resolve = self.make().resolve
        unread = st.binary(max_size=6) | st.just(b"[" * 2000)
        some = edits(self.values) | st.builds(Edit, st.sampled_from(_STAMPS), unread)

        @self._cases()
        @given(some, some, some)
        def law(one: Edit, other: Edit, third: Edit) -> None:
            assert resolve(one, other) == resolve(other, one)
            left = resolve(resolve(one, other).winner, third).winner
            assert left == resolve(one, resolve(other, third).winner).winner

        law()

    def _cases(self, factor: int = 1) -> settings:
        return settings(max_examples=factor * max(100, int(self.share_of_cases * settings().max_examples)))


def _deliver(made: Sequence[Edit], random: Random) -> list[Edit]:
    """Return the edits in some order, some of them more than once."""
    delivered = [*made, *random.choices(made, k=random.randrange(3))]
    random.shuffle(delivered)
    return delivered
