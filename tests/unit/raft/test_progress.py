"""What a leader knows of one follower."""

from collections import deque

import pytest

from clustercore.raft.progress import Inflight, Progress, ProgressState, SnapshotTransfer
from clustercore.raft.types import LogIndex
from tests.unit.raft.building import snapshot

PROBE, REPLICATE, SNAPSHOT = ProgressState.PROBE, ProgressState.REPLICATE, ProgressState.SNAPSHOT


def make(
    state: ProgressState, match: int, next_: int, *inflight: int, is_paused: bool = False, waiting_since: float = 0.0
) -> Progress:
    """A progress in the given state; each request on its way takes 10 bytes."""
    return Progress(
        next_index=LogIndex(next_),
        match_index=LogIndex(match),
        state=state,
        is_paused=is_paused,
        inflight=deque(Inflight(LogIndex(index), 10) for index in inflight),
        inflight_bytes=10 * len(inflight),
        waiting_since=waiting_since,
    )


@pytest.mark.parametrize(
    ("progress", "has_room"),
    [
        (make(PROBE, 0, 5), True),
        (make(PROBE, 0, 5, is_paused=True), False),
        (make(REPLICATE, 4, 5), True),
        (make(REPLICATE, 4, 6, 5), True),
        (make(REPLICATE, 4, 7, 5, 6), False),
        (make(SNAPSHOT, 4, 5), False),
    ],
)
def test_room_is_one_probe_or_a_window(progress: Progress, has_room: bool) -> None:
    """One request at a time while probing, a window of them while replicating, none during a snapshot."""
    assert progress.has_room(2, 1000) is has_room


@pytest.mark.parametrize(("max_bytes", "has_room"), [(21, True), (20, False), (5, False)])
def test_room_is_a_window_in_bytes_too(max_bytes: int, has_room: bool) -> None:
    """As long as less than the window is on its way another request may go; a full one waits for an answer."""
    progress = make(REPLICATE, 4, 7, 5, 6)

    assert progress.has_room(9, max_bytes) is has_room
    progress.acknowledged(LogIndex(6), 1.0)
    assert progress.has_room(9, max_bytes)


def test_sent_probe_pauses_and_sent_entries_move_next_index() -> None:
    """A probe is repeated from the same place; entries are taken to arrive."""
    probe, replicate = make(PROBE, 0, 5), make(REPLICATE, 4, 5)

    probe.sent(LogIndex(9), 10, 1.0)
    replicate.sent(LogIndex(6), 10, 1.0)
    replicate.sent(LogIndex(8), 10, 2.0)

    assert probe == make(PROBE, 0, 5, is_paused=True)
    assert replicate == make(REPLICATE, 4, 9, 6, 8, waiting_since=1.0)


@pytest.mark.parametrize(
    ("before", "match", "moved", "after"),
    [
        (make(PROBE, 0, 5, is_paused=True), 4, True, make(REPLICATE, 4, 5, waiting_since=3.0)),
        (make(PROBE, 0, 5, is_paused=True), 7, True, make(REPLICATE, 7, 8, waiting_since=3.0)),
        (make(PROBE, 0, 5, is_paused=True), 2, True, make(PROBE, 2, 5, waiting_since=3.0)),
        (make(PROBE, 4, 5, is_paused=True), 4, False, make(REPLICATE, 4, 5)),
        (make(PROBE, 4, 6, is_paused=True), 3, False, make(PROBE, 4, 6)),
        (make(REPLICATE, 4, 9, 6, 8), 6, True, make(REPLICATE, 6, 9, 8, waiting_since=3.0)),
        (make(REPLICATE, 4, 9, 6, 8), 7, True, make(REPLICATE, 7, 9, 8, waiting_since=3.0)),
        (make(REPLICATE, 4, 9, 6, 8), 8, True, make(REPLICATE, 8, 9, waiting_since=3.0)),
        (make(REPLICATE, 4, 9, 6, 8), 3, False, make(REPLICATE, 4, 9, 6, 8)),
        (make(SNAPSHOT, 4, 5), 4, False, make(SNAPSHOT, 4, 5)),
        (make(SNAPSHOT, 4, 9), 6, True, make(SNAPSHOT, 6, 9, waiting_since=3.0)),
        (make(SNAPSHOT, 4, 5), 12, True, make(REPLICATE, 12, 13, waiting_since=3.0)),
    ],
)
def test_acknowledgement_moves_on_and_never_back(before: Progress, match: int, moved: bool, after: Progress) -> None:
    """match_index never falls; replication starts once the logs are known to agree up to next_index - 1."""
    assert before.acknowledged(LogIndex(match), 3.0) is moved
    assert before == after


@pytest.mark.parametrize(
    ("before", "prev", "retry_from", "after"),
    [
        (make(PROBE, 0, 9, is_paused=True), 8, 5, make(PROBE, 0, 5)),
        (make(PROBE, 0, 9, is_paused=True), 8, 9, make(PROBE, 0, 8)),
        (make(PROBE, 3, 9, is_paused=True), 8, 1, make(PROBE, 3, 4)),
        (make(REPLICATE, 3, 9, 6, 8), 6, 5, make(PROBE, 3, 5)),
        (make(PROBE, 0, 5, is_paused=True), 8, 3, make(PROBE, 0, 5, is_paused=True)),
        (make(PROBE, 8, 9, is_paused=True), 8, 3, make(PROBE, 8, 9, is_paused=True)),
        (make(REPLICATE, 6, 9, 8), 6, 3, make(REPLICATE, 6, 9, 8)),
        (make(SNAPSHOT, 3, 9), 8, 4, make(SNAPSHOT, 3, 9)),
    ],
    ids=["back", "at least one back", "not below match", "lost request", "repeated", "matched", "late", "snapshot"],
)
def test_rejection_steps_back_unless_it_is_late(before: Progress, prev: int, retry_from: int, after: Progress) -> None:
    """A true rejection moves next_index down, by one at least and never to what matched; a late one does nothing."""
    before.rejected(LogIndex(prev), LogIndex(retry_from))

    assert before == after


def test_becoming_probe_or_snapshot_forgets_what_is_on_its_way() -> None:
    """A probe starts after what is known to match; a snapshot keeps next_index for its answer."""
    probe, waiting = make(REPLICATE, 4, 9, 6, 8), make(REPLICATE, 4, 9, 6, 8)

    probe.become_probe(is_paused=True)
    waiting.become_snapshot(snapshot(3, 1))

    assert probe == make(PROBE, 4, 5, is_paused=True)
    expected = make(SNAPSHOT, 4, 9)
    expected.sending = SnapshotTransfer(snapshot(3, 1))
    assert waiting == expected
