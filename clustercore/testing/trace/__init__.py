"""Traces: what a simulated cluster did, step by step, as a file that is compared, repeated and looked at.

A run is watched by a ``Recorder``, written by ``write_trace``, read by ``read_trace`` and drawn by ``render_page``. The
format is in ``clustercore.testing.trace.events`` and ``clustercore.testing.trace.file``.
"""

from clustercore.testing.trace.codec import TraceError
from clustercore.testing.trace.events import EntryRef, Event
from clustercore.testing.trace.failures import FailedRun, keep_failure, trace_folder
from clustercore.testing.trace.file import Trace, TraceHeader, TraceWriter, read_trace, trace_hash, write_trace
from clustercore.testing.trace.page import render_page
from clustercore.testing.trace.recorder import Recorder
from clustercore.testing.trace.wiretap import ObservedCore, Wiretap

__all__ = [
    "EntryRef",
    "Event",
    "FailedRun",
    "ObservedCore",
    "Recorder",
    "Trace",
    "TraceError",
    "TraceHeader",
    "TraceWriter",
    "Wiretap",
    "keep_failure",
    "read_trace",
    "render_page",
    "trace_folder",
    "trace_hash",
    "write_trace",
]
