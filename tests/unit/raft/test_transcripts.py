"""The runs in tests/data/raft_*.txt happen again exactly as they are written down.

After a change that is meant to change them, this writes them anew; read the difference before you commit it::

    UPDATE_TRANSCRIPTS=1 make test TESTS=tests/unit/raft/test_transcripts.py

``transcript.py`` says how to write one.
"""

import os
from pathlib import Path

import pytest

from tests.unit.raft.transcript import replay

TRANSCRIPTS = sorted((Path(__file__).parents[2] / "data").glob("raft_*.txt"))


def test_transcripts_are_found() -> None:
    """A moved folder would otherwise pass unnoticed."""
    assert len(TRANSCRIPTS) >= 12


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript_happens_again(path: Path) -> None:
    """The same inputs have the same effects, always."""
    written = path.read_text(encoding="utf-8")

    happened = replay(written)

    if os.environ.get("UPDATE_TRANSCRIPTS"):
        path.write_text(happened, encoding="utf-8")
    else:
        assert happened == written
