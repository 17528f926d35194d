"""Notices when code asks for what another node would be told otherwise: the clock, chance, the world outside.

Python reports each call of a function to a profiler (``sys.setprofile``). All these questions end in one written in C,
but those for environment variables, which Python reads once and keeps in ``os.environ``. What the interpreter does for
itself, importing a module or collecting garbage, and what ``logging`` does, are no questions of the code; nor is what
Trio does between two turns of a task.
"""

from __future__ import annotations

import datetime
import gc
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["CLOCK", "ENVIRONMENT", "IO", "RANDOMNESS", "watched"]

CLOCK = "the clock"
RANDOMNESS = "randomness"
IO = "I/O"
ENVIRONMENT = "the environment"

_CLOCKS = frozenset(
    {
        "clock_gettime",
        "clock_gettime_ns",
        "ctime",
        "gmtime",
        "localtime",
        "monotonic",
        "monotonic_ns",
        "perf_counter",
        "perf_counter_ns",
        "process_time",
        "process_time_ns",
        "sleep",
        "thread_time",
        "time",
        "time_ns",
    }
)
_IO_MODULES = frozenset(
    {"_io", "_posixsubprocess", "_socket", "_sqlite3", "_thread", "fcntl", "io", "nt", "posix", "sqlite3"}
)
# Of these modules, what neither reads nor changes anything outside.
_HARMLESS = frozenset({"BytesIO", "StringIO", "RLock", "allocate_lock", "fspath", "fsencode", "get_ident", "lock"})
# Everything that reads or changes a variable comes by one of these.
_ENVIRONMENT_CODES = frozenset(
    getattr(type(os.environ), name).__code__
    for name in ("__getitem__", "__setitem__", "__delitem__", "__iter__", "__len__", "copy")
)
_EXEMPT = ("importlib.", "logging", "warnings", "linecache", "_frozen_importlib")


@contextmanager
def watched() -> Iterator[list[tuple[str, str]]]:
    """Collect what the body asks for: a kind, and what was called and where, as text."""
    found: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, called: Any) -> None:
        if event == "call" and frame.f_code in _ENVIRONMENT_CODES and not _is_exempt(frame.f_back):
            found.append((ENVIRONMENT, f"os.environ at {_asking(frame)}"))
            return
        if event != "c_call" or (kind := _kind_of(called)) is None or _is_exempt(frame):
            return
        name = getattr(called, "__qualname__", repr(called))
        found.append((kind, f"{name} at {frame.f_code.co_filename}:{frame.f_lineno}"))

    before = sys.getprofile()
    # A collection calls back whoever asked for that, and ends objects that are none of the body's.
    was_collecting = gc.isenabled()
    gc.disable()
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)
        if was_collecting:
            gc.enable()


def _asking(frame: FrameType) -> str:
    """Return the place outside of ``os`` and its mappings from which a variable was asked for."""
    asking = frame.f_back
    while asking is not None and asking.f_globals.get("__name__") in ("os", "_collections_abc"):
        asking = asking.f_back
    return f"{asking.f_code.co_filename}:{asking.f_lineno}" if asking is not None else "an unknown place"


def _kind_of(called: Any) -> str | None:
    name, module, owner = (getattr(called, part, None) for part in ("__name__", "__module__", "__self__"))
    if isinstance(owner, type) and issubclass(owner, datetime.date) and name in ("now", "today", "utcnow"):
        return CLOCK
    if module == "time" and name in _CLOCKS:
        return CLOCK
    if name in ("urandom", "getrandom") or owner is _SHARED_GENERATOR:
        return RANDOMNESS
    if name in ("print", "input", "breakpoint") and module == "builtins":
        return IO
    if module in _IO_MODULES and name not in _HARMLESS:
        return IO
    # A method of a file, a socket or a database, or of a class derived from one.
    classes = getattr(called, "__objclass__", type(owner)).__mro__
    if any(each.__module__ in _IO_MODULES for each in classes) and not any(
        each.__name__ in _HARMLESS for each in classes
    ):
        return IO
    return None


def _is_exempt(frame: FrameType | None) -> bool:
    if frame is not None and str(frame.f_globals.get("__name__", "")).startswith("trio."):
        return True
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(_EXEMPT):
            return True
        frame = frame.f_back
    return False


# The generator behind ``random.random()`` and its like. One that a machine seeds itself is a part of its state.
_SHARED_GENERATOR = random.random.__self__  # type: ignore[attr-defined]  # a bound method, which typeshed does not say
