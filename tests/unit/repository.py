"""The repository that some tests read: where it is, and whether it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

__all__ = ["ROOT", "reads_repository"]

ROOT = Path(__file__).parents[2]

# The smoke run of .ci/run takes the tests away from the repository, to try them on the wheel.
reads_repository = pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="reads the repository itself")
