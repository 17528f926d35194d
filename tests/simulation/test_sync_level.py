"""The sync level of campaigns: seeds run clean, and each broken sync is found out.

The whole of issue 7's "1,000 seeds" is ``clustercore fuzz --level sync --seeds 2000``: every other one has full syncs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from clustercore.interfaces import NodeId
from clustercore.sync import EntityStore, source
from clustercore.sync.changes import ApplyReport, Change
from clustercore.sync.checkpoints import Cursor
from clustercore.sync.messages import ResyncReason
from clustercore.sync.replica import Replica
from clustercore.testing.campaign import level_of, run_campaign
from clustercore.testing.replicas import SyncLevel
from clustercore.testing.trace import read_trace

pytestmark = pytest.mark.slow

SEEDS = 120 if os.environ.get("HYPOTHESIS_PROFILE") == "ci" else 16


def test_seeds_run_clean_and_repeat() -> None:
    """All replicas become equal, byte for byte, and the same seed gives the same run."""
    level = level_of("sync")
    assert isinstance(level, SyncLevel)

    found = run_campaign(level, range(SEEDS))
    first, again = run_campaign(level, [7]), run_campaign(level, [7])

    assert found.violated is None, found.failures
    assert found.coverage["acknowledged edits"] > 50 * SEEDS
    assert (first.events, first.coverage) == (again.events, again.coverage)


def test_trace_of_a_seed_can_be_read(tmp_path: Path) -> None:
    """It has the edits and the faults."""
    path = tmp_path / "seed.jsonl"

    result = SyncLevel().trace(9, path)

    assert result.violated is None, result.text
    assert "noted" in {event.kind for event in read_trace(path).events}


def forgets_what_it_kept_back(patch: pytest.MonkeyPatch) -> None:
    """What the window keeps back is not asked for again."""
    patch.setattr(source.Source, "_is_for_later", _always_later)
    patch.setattr(Cursor, "__init__", _cursor_without_kept_back)


def _always_later(self: source.Source, change: Change) -> bool:
    return change.group == "rest"


def _cursor_without_kept_back(self: Cursor, seq: int = 0, kept_back: tuple[int, ...] = ()) -> None:
    object.__setattr__(self, "seq", seq)
    object.__setattr__(self, "kept_back", ())


def believes_every_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """Nobody notices that a store is another one, or has gone back."""
    patch.setattr(source.Source, "_reason_against", lambda self, request, ours: _first_only(request.source_epoch))
    patch.setattr(source.Source, "has_lost", lambda self, epoch, seq, session_id: False)


def _first_only(source_epoch: str) -> ResyncReason:
    return ResyncReason.NONE if source_epoch else ResyncReason.FIRST


def keeps_the_checkpoint_before_its_data(patch: pytest.MonkeyPatch) -> None:
    """Two commits, and the power may go between them."""
    really_apply = EntityStore.apply

    async def apply(
        self: EntityStore,
        changes: Sequence[Change],
        source: NodeId | None = None,
        checkpoints: Mapping[str, bytes | None] | None = None,
    ) -> ApplyReport:
        if changes and checkpoints:
            await really_apply(self, (), source, checkpoints)
            checkpoints = None
        return await really_apply(self, changes, source, checkpoints)

    patch.setattr(EntityStore, "apply", apply)


def answers_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """An answer does not wait for what it tells of."""

    async def answer_at_once(self: source.Source, answer: object) -> object:
        await trio.lowlevel.checkpoint()
        return answer

    patch.setattr(source.Source, "_settled", answer_at_once)


def forgets_what_waits_for_a_clock(patch: pytest.MonkeyPatch) -> None:
    """The checkpoint goes past a write of a time to come, and nobody keeps it."""
    patch.setattr(Replica, "hold", lambda self, key, group, state: None)


def takes_what_was_sent_for_received(patch: pytest.MonkeyPatch) -> None:
    """A source goes on from where its last answer led, wherever the receiver is."""
    really_delta = source.Source._delta
    sent: dict[bytes, Cursor] = {}

    def delta(self: source.Source, session: Any, request: Any) -> Any:
        at = sent.get(session.session_id, request.cursor)
        answer = really_delta(self, session, attrs.evolve(request, cursor=max(at, request.cursor, key=_seq)))
        sent[session.session_id] = answer.reached
        return answer

    patch.setattr(source.Source, "_delta", delta)


def _seq(cursor: Cursor) -> int:
    return cursor.seq


_ENDS = {"replicas become equal", "increments miss nothing", "no acknowledged edit is lost"}
_LEVELS = {"a checkpoint covers what is held", *_ENDS}


@pytest.mark.parametrize(
    ("break_it", "first_seed", "breaks"),
    # The seeds only save time. Where two properties are broken, it depends on the world which shows first.
    [
        (forgets_what_it_kept_back, 0, _LEVELS),
        (believes_every_checkpoint, 0, _LEVELS | {"the deleted stay away"}),
        (keeps_the_checkpoint_before_its_data, 0, {"a checkpoint covers what is held"}),
        (answers_before_it_is_durable, 24, {"what is told is on disk"}),
        (forgets_what_waits_for_a_clock, 0, _LEVELS),
        (takes_what_was_sent_for_received, 0, {"answers leave no gap"}),
    ],
)
def test_broken_sync_is_found_out(
    break_it: Callable[[pytest.MonkeyPatch], None], first_seed: int, breaks: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a hundred seeds, so that clean ones say something."""
    break_it(monkeypatch)

    found = run_campaign(SyncLevel(), range(first_seed, first_seed + 100))

    assert found.violated in breaks, found.failures
