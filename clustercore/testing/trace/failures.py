"""What a failing run leaves: a trace in a folder, and the words that say where it is and how to see it again."""

from __future__ import annotations

import inspect
import linecache
import os
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import attrs

from clustercore.testing.trace.events import Event, Violated
from clustercore.testing.trace.file import TraceHeader, write_trace
from clustercore.testing.violation import PropertyViolated

__all__ = ["FOLDER_VARIABLE", "FailedRun", "keep_failure", "trace_folder", "with_violation"]

# The environment variable that names the folder of traces.
FOLDER_VARIABLE = "CLUSTERCORE_TRACES"
_DEFAULT_FOLDER = ".clustercore-traces"


@attrs.frozen
class FailedRun:
    """Where the trace of a failed run is."""

    path: Path
    hash: str
    replay: str

    def __str__(self) -> str:
        lines = [f"trace:   {self.path}", f"look:    clustercore trace view {self.path}"]
        return "\n".join([*lines, *([f"repeat:  {self.replay}"] if self.replay else [])])


def trace_folder() -> Path:
    """Return the folder for traces: ``$CLUSTERCORE_TRACES``, or ``.clustercore-traces`` where the run was started."""
    return Path(os.environ.get(FOLDER_VARIABLE) or _DEFAULT_FOLDER)


def keep_failure(name: str, header: TraceHeader, events: Sequence[Event], error: BaseException) -> FailedRun:
    """Write the trace of a run that ended in an error, and add a note to the error that says where.

    If the events do not end in a violation, the error is added as one. ``header.replay`` may name the file as
    ``{path}``. A trace of the same name is replaced, so that of a property's many failing examples, each smaller than
    the one before, the last remains.
    """
    folder = trace_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.jsonl"
    header = attrs.evolve(header, replay=header.replay.replace("{path}", str(path)))
    failed = FailedRun(path, write_trace(path, header, with_violation(events, error)), header.replay)
    error.add_note(str(failed))
    return failed


def with_violation(events: Sequence[Event], error: BaseException, node: str | None = None) -> Sequence[Event]:
    """Return the events of a run that ended in an error, with that as a violation at their end, if none is there.

    ``node`` is where it showed, if that is known.
    The property is named by the function that found it broken, and told by that function's first line of documentation.
    """
    if events and isinstance(events[-1], Violated):
        return events
    return [*events, Violated(events[-1].time if events else 0.0, node, *_told(error))]


def _told(error: BaseException) -> tuple[str, str]:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, PropertyViolated):
        return error.name, "\n".join(filter(None, [str(error), error.source]))
    frames = list(traceback.walk_tb(error.__traceback__))
    name = type(error).__name__
    rule = said = None
    if frames:
        frame, line = frames[-1]
        name = frame.f_code.co_name.strip("_").replace("_", " ")
        rule = _documentation(frame)
        # A check that says nothing is told by its line.
        said = linecache.getline(frame.f_code.co_filename, line).strip()
    text = str(error).strip() or said or ""
    if not isinstance(error, AssertionError):
        text = f"{type(error).__name__}: {text}"
    return name, "\n".join(filter(None, [text, rule]))


def _documentation(frame: FrameType) -> str | None:
    """Return the first paragraph that documents the function or method of a frame."""
    name = frame.f_code.co_name
    owner = frame.f_locals.get("self")
    function = frame.f_globals.get(name) if owner is None else getattr(type(owner), name, None)
    documentation = inspect.getdoc(function) if callable(function) else None
    return documentation.partition("\n\n")[0] if documentation else None
