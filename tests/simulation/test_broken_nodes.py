"""Nodes that are broken on purpose: the faults and checks of the simulation must find each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from clustercore.raft.effects import PersistEntries, PersistHardState
from clustercore.raft.types import LogIndex, NodeId, ReadId, Term, WriteId
from clustercore.runtime import applier, engine, forwarder, proposals, writer
from clustercore.testing.trace import read_trace
from clustercore.testing.trace.events import Violated
from clustercore.testing.trace.failures import FOLDER_VARIABLE
from tests.simulation.chaos import run_chaos

Patch = pytest.MonkeyPatch


def answers_before_it_is_durable(patch: Patch) -> None:
    """Votes and acknowledgements leave at once."""

    def leave_at_once(self: engine.Engine, after: WriteId | None, leave: Callable[[], None]) -> None:
        leave()

    patch.setattr(engine.Engine, "_leave", leave_at_once)


def calls_a_write_durable_before_it_is(patch: Patch) -> None:
    """The core hears that a write is done when it begins."""
    really_write = writer.Writer._write_joined

    async def tell_first(self: writer.Writer, jobs: list[PersistHardState | PersistEntries]) -> None:
        self._on_durable(jobs[-1].write_id)
        await really_write(self, jobs)

    patch.setattr(writer.Writer, "_write_joined", tell_first)


def forwards_again_what_may_have_arrived(patch: Patch) -> None:
    """A forwarded proposal whose answer is lost is forwarded once more."""

    def send_again(self: forwarder.Forwarder, leader_id: NodeId) -> None:
        for request in self._open.values():
            if request.leader_id == leader_id and not request.settled.is_set():
                self._settle(request, forwarder._Fate.UNSENT)

    patch.setattr(forwarder.Forwarder, "give_up_on", send_again)


def proposes_again_what_was_in_its_log(patch: Patch) -> None:
    """A leader that loses its office hands its unanswered proposals to the next."""

    def queue_again(self: proposals.Proposals, term: Term) -> None:
        self.put_back(self._take_appended())

    patch.setattr(proposals.Proposals, "leadership_lost", queue_again)


def forgets_to_restore(patch: Patch) -> None:
    """A leader's snapshot moves the index and not the state."""

    async def only_count(self: applier.Applier, index: LogIndex) -> None:
        await trio.lowlevel.checkpoint()
        self._last_applied = index

    patch.setattr(applier.Applier, "_restore", only_count)


def reads_without_asking(patch: Patch) -> None:
    """A leader takes its own word for it that it still leads."""

    def answer_at_once(self: engine.Engine, read_id: ReadId) -> None:
        self._on_read_index((read_id,), self.commit_index if self.is_leader else None)

    patch.setattr(engine.Engine, "read", answer_at_once)


def reads_before_it_has_applied(patch: Patch) -> None:
    """A node knows up to where it must have applied, and does not wait for it."""

    async def wait_for_nothing(self: applier.Applier, index: LogIndex) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(applier.Applier, "wait_applied", wait_for_nothing)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("break_it", "first_seed"),
    # The seeds only save time: others find it too, after a while.
    [
        (answers_before_it_is_durable, 1),
        (calls_a_write_durable_before_it_is, 0),
        (forwards_again_what_may_have_arrived, 17),
        (proposes_again_what_was_in_its_log, 2),
        (forgets_to_restore, 0),
        (reads_without_asking, 10),
        (reads_before_it_has_applied, 0),
    ],
)
def test_broken_node_is_found(
    break_it: Callable[[Patch], None], first_seed: int, monkeypatch: Patch, tmp_path: Path
) -> None:
    """One of a few dozen seeds shows what is wrong, and leaves a trace that ends where it showed."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    break_it(monkeypatch)

    with pytest.RaisesGroup(AssertionError, flatten_subgroups=True):
        for seed in range(first_seed, first_seed + 40):
            run_chaos(seed)

    (path,) = tmp_path.iterdir()
    trace = read_trace(path)
    assert isinstance(trace.events[-1], Violated)
    assert {"sent", "delivered", "write_durable", "committed", "crashed"} <= {event.kind for event in trace.events}
