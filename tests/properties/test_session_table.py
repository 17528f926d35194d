"""Sessions under any order of entries: each command at most once, and the same table on every node."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from clustercore.runtime.session_entries import (
    Answer,
    CloseSession,
    KeepAlive,
    OpenSession,
    Operation,
    Outcome,
    ResolveCommand,
    SessionCommand,
    Stamp,
    decode_session_entry,
    encode_operation,
    encode_stamp,
)
from clustercore.runtime.session_table import SessionTable

# The entries of a log, by index from 1. The first few open sessions that live long, and most entries after them are of
# one of these and of few numbers, so that numbers come again while they mean something.
SESSION_IDS = st.sampled_from([1, 1, 1, 2, 3, 6])
SEQUENCES = st.sampled_from([1, 1, 2, 3, 6])


@st.composite
def settlements(draw: st.DrawFn) -> tuple[int, tuple[int, ...]]:
    """What a client may say that it is done with."""
    below = draw(st.integers(1, 7))
    return below, tuple(sorted(draw(st.sets(st.integers(1, 6).filter(lambda number: number < below), max_size=3))))


OPENINGS: st.SearchStrategy[Operation] = st.builds(OpenSession, st.sampled_from([1, 60, 1000]))
COMMANDS: st.SearchStrategy[Operation] = st.builds(
    lambda session_id, sequence, settled, version: SessionCommand(
        session_id, sequence, settled[0], settled[1], version, b"%d/%d" % (session_id, sequence)
    ),
    SESSION_IDS,
    SEQUENCES,
    st.one_of(st.just((1, ())), settlements()),
    st.sampled_from([1, 1, 1, 2]),
)
SETTLEMENTS: st.SearchStrategy[Operation] = st.builds(
    lambda session_id, settled: KeepAlive(session_id, settled[0], settled[1]), SESSION_IDS, settlements()
)
OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    # Many commands, and few ends: what comes again after the end of its session says little.
    *[COMMANDS] * 4,
    *[SETTLEMENTS, st.builds(ResolveCommand, SESSION_IDS, SEQUENCES)] * 2,
    OPENINGS,
    st.builds(CloseSession, SESSION_IDS),
)


@attrs.frozen
class Step:
    """One entry of the log, and what one replica does before it."""

    operation: Operation
    # Time under the same leader, or a new one that has led for so long.
    passes_ms: int
    is_new_leader: bool
    # The replica starts again from a snapshot.
    is_restored: bool


def steps_of(operations: st.SearchStrategy[Operation]) -> st.SearchStrategy[Step]:
    """Steps with some of these operations."""
    return st.builds(Step, operations, st.sampled_from([0, 0, 1, 10, 40]), st.booleans(), st.booleans())


STEPS = st.builds(
    lambda openings, others: [*openings, *others],
    st.lists(steps_of(OPENINGS), min_size=1, max_size=3),
    # Hypothesis prefers short lists, in which nothing comes again.
    st.one_of(st.lists(steps_of(OPERATIONS), max_size=60), st.lists(steps_of(OPERATIONS), min_size=30, max_size=60)),
)


class Replica:
    """A table and what its machine applied."""

    def __init__(self) -> None:
        self.table = SessionTable()
        self.applied: list[bytes] = []

    def apply(self, index: int, term: int, encoded: bytes) -> Answer:
        """Apply an entry as it comes from the log."""
        operation, stamp = decode_session_entry(encoded)
        assert stamp is not None
        return self.table.apply(index, term, operation, stamp, self._run)

    def _run(self, command: SessionCommand) -> bytes | None:
        if command.version > 1:
            return None
        self.applied.append(command.command)
        return b"%d" % len(self.applied)


@given(STEPS)
def test_any_log_applies_each_command_once_and_alike_on_all_replicas(steps: list[Step]) -> None:
    """One replica applies all; one starts from snapshots here and there. What a client was told stays true."""
    steady, restored = Replica(), Replica()
    term, led_ms = 1, 0
    answers: dict[tuple[int, int], Answer] = {}
    for index, step in enumerate(steps, start=1):
        term, led_ms = (term + 1, step.passes_ms) if step.is_new_leader else (term, led_ms + step.passes_ms)
        if step.is_restored:
            restored.table = SessionTable.decode(restored.table.encode())
        entry = encode_operation(step.operation) + encode_stamp(Stamp(led_ms, 3, 4, 6))

        answer = steady.apply(index, term, entry)

        assert restored.apply(index, term, entry) == answer
        assert restored.table.encode() == steady.table.encode()
        assert restored.table.result_bytes == steady.table.result_bytes
        _check_answer(step.operation, answer, answers)
    assert restored.applied == steady.applied
    assert len(steady.applied) == len(set(steady.applied))


def _check_answer(operation: Operation, answer: Answer, told: dict[tuple[int, int], Answer]) -> None:
    """Check that whoever asks about one command is told the same each time, until it is not told any more."""
    if not isinstance(operation, SessionCommand | ResolveCommand):
        return
    key = (operation.session_id, operation.sequence)
    final = {Outcome.SETTLED, Outcome.NO_SESSION}
    if answer.outcome is Outcome.LIMIT:
        assert key not in told
    elif key in told and answer.outcome not in final:
        assert answer == told[key]
    elif not (answer.outcome is Outcome.NO_SESSION and key[0] not in [first for first, _ in told]):
        # An id that no entry has yet may still become a session's.
        told[key] = answer
