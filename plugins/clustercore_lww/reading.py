"""Reading values that may be anything: a resolver raises nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["read_or_none"]

Read = TypeVar("Read")


def read_or_none(read: Callable[[bytes], Read], value: bytes) -> Read | None:
    """Return what a value stands for; None if it is not what it should be."""
    try:
        return read(value)
    except (ValueError, RecursionError):
        # Also UnicodeDecodeError, and JSON that is nested too deeply to be anybody's value.
        return None
