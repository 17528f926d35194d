"""The sync level of campaigns: seeds run clean, and each broken sync is found out.

The whole of issue 7's "1,000 seeds" is ``clustercore fuzz --level sync --seeds 2000``: every other one has full syncs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clustercore.sync import source
from clustercore.sync.changes import Change
from clustercore.sync.checkpoints import Cursor
from clustercore.sync.messages import ResyncReason
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


@pytest.mark.parametrize("break_it", [forgets_what_it_kept_back, believes_every_checkpoint])
def test_broken_sync_is_found_out(break_it: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a hundred seeds, so that clean ones say something."""
    break_it(monkeypatch)  # type: ignore[operator]  # one of the functions above

    found = run_campaign(SyncLevel(), range(100))

    assert found.violated in ("replicas become equal", "increments miss nothing", "no acknowledged edit is lost")
