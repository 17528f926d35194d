"""Digests: equal for equal contents whatever the way there, and different where contents are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clustercore.sync.digests import BUCKETS, LEAVES, SPLIT, DigestTree, leaf_of

KEYS = st.tuples(st.text(max_size=4), st.text(max_size=2))
CONTENTS = st.dictionaries(KEYS, st.binary(max_size=6), max_size=30)


def tree_of(contents: dict[tuple[str, str], bytes]) -> DigestTree:
    """The digests of a replica that holds this."""
    tree = DigestTree()
    for (entity_id, group), state in contents.items():
        tree.set(entity_id, group, state)
    return tree


@given(contents=CONTENTS, before=CONTENTS, rng=st.randoms(use_true_random=False))
def test_digest_depends_on_contents_alone(
    contents: dict[tuple[str, str], bytes], before: dict[tuple[str, str], bytes], rng: object
) -> None:
    """Not on the order, nor on what was there before and was replaced or removed."""
    tree = tree_of(before)
    order = list(contents)
    rng.shuffle(order)  # type: ignore[attr-defined]  # a random.Random, as Hypothesis draws it
    for entity_id, group in order:
        tree.set(entity_id, group, contents[entity_id, group])
    for entity_id, group in before.keys() - contents.keys():
        tree.set(entity_id, group, None)

    assert tree.root == tree_of(contents).root
    assert tree.buckets(b"salt") == tree_of(contents).buckets(b"salt")
    assert len(tree) == len(contents)


@given(contents=CONTENTS, key=KEYS, state=st.binary(max_size=6))
def test_one_difference_shows_in_the_root_and_leads_to_its_leaf(
    contents: dict[tuple[str, str], bytes], key: tuple[str, str], state: bytes
) -> None:
    """The root and one bucket differ, and in it one leaf."""
    other = contents | {key: state}
    if other == contents:
        return
    mine, theirs = tree_of(contents), tree_of(other)

    pairs = zip(mine.buckets(b"s"), theirs.buckets(b"s"), strict=True)
    differing = [bucket for bucket, (one, another) in enumerate(pairs) if one != another]

    assert mine.root != theirs.root
    assert differing == [leaf_of(key[0]) // SPLIT]
    (bucket,) = differing
    assert mine.differing_leaves(bucket, b"s", theirs.leaves(bucket, b"s")) == [leaf_of(key[0])]
    assert set(theirs.stamps(leaf_of(key[0]), b"s")) - set(mine.stamps(leaf_of(key[0]), b"s"))


def test_entities_are_spread_over_all_buckets() -> None:
    """Ten thousand ids that differ in their last digits leave no bucket empty."""
    leaves = {leaf_of(f"mission-{number:05}") for number in range(10_000)}

    assert {leaf // SPLIT for leaf in leaves} == set(range(BUCKETS))
    assert max(leaves) < LEAVES


def test_salt_changes_what_travels() -> None:
    """What one comparison takes for equal by accident, the next one does not."""
    tree = tree_of({("a", "g"): b"1"})

    assert tree.buckets(b"one") != tree.buckets(b"two")
