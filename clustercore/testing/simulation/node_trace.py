"""The trace of a simulated cluster of whole nodes, kept when its run fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import attrs
import trio

from clustercore.runtime import assembly
from clustercore.testing.trace import Recorder, TraceHeader, Wiretap, keep_failure, trace_hash

__all__ = ["NodeTrace"]


@attrs.frozen
class NodeTrace:
    """What is recorded of one run.

    Args:
        name: The file's, without its ending, should the run fail.
        replay: The command that makes this run again.
    """

    name: str
    replay: str = ""
    recorder: Recorder = attrs.field(factory=lambda: Recorder(trio.current_time))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Let every node that starts meanwhile run on an observed core. Nodes make their cores themselves."""
        real = vars(assembly)["RaftCore"]
        vars(assembly)["RaftCore"] = Wiretap(self.recorder).make_core
        try:
            yield
        finally:
            vars(assembly)["RaftCore"] = real

    def header(self, names: Sequence[str], seed: int, options: Mapping[str, object]) -> TraceHeader:
        """Return the header for a cluster."""
        return TraceHeader("node", tuple(names), self.name, seed, options, self.replay)

    def hash(self, names: Sequence[str], seed: int) -> str:
        """Return the hash of what was recorded so far."""
        return trace_hash(self.header(names, seed, {}), self.recorder.events)

    def keep(self, header: TraceHeader, error: BaseException) -> None:
        """Leave the trace of a run that failed, and tell with the error where."""
        keep_failure(self.name, header, self.recorder.events, error)
