"""The sessions of all clients, as every node keeps them: part of the replicated state (thesis §6.3).

Pure and deterministic: it changes only by the entries of the log, in their order, and what an entry does depends on
nothing but the table, the entry and the state machine. So every node has the same table after the same entry, be it
from the log or from a snapshot.

Three rules make a command apply at most once:

* A sequence number gets one outcome, once. A copy of the command that comes later gets the same answer.
* An outcome goes only when the client says that it is done with the number, or with the whole session. What comes after
  that is not applied. Nothing is pushed out for want of room; what finds no room is refused.
* The id of a session is the index of the entry that opened it. It is never used again, so a copy that comes after the
  session has ended finds none, and is not applied.

Time is the log's own. Each entry carries how long its leader has led its term; the table adds up what passed between
entries of one term, and from the beginning of a term to its first entry. So no clock is compared with another node's, a
clock that is set has no effect, and no session ages while nobody leads. LogCabin measures its cluster time likewise.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

import attrs

from clustercore.raft.protobuf import (
    BYTES,
    MalformedBytes,
    bytes_field,
    pack_varints,
    read_fields,
    unpack_varints,
    varint_field,
)
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
    decode_answer,
    encode_answer,
)

__all__ = ["MalformedTable", "SessionTable"]

_NO_SESSION = Answer(Outcome.NO_SESSION)
_SETTLED = Answer(Outcome.SETTLED)
_LIMIT = Answer(Outcome.LIMIT)
# Outcomes of commands: each is kept, and given again. The others say nothing of a command.
_KEPT = frozenset({Outcome.APPLIED, Outcome.NEVER, Outcome.NO_ROOM, Outcome.NOT_ENABLED})


class MalformedTable(ValueError):
    """The bytes are no encoded table."""


@attrs.define
class _Session:
    ttl_ms: int
    # The log's time when its client was last heard of.
    heard_ms: int
    # The client is done with all numbers below this one but those in ``unsettled``.
    settled_below: int = 1
    # Ascending, below settled_below.
    unsettled: tuple[int, ...] = ()
    # By sequence number. Every number in it is unsettled.
    outcomes: dict[int, Answer] = attrs.field(factory=dict)

    def is_settled(self, sequence: int) -> bool:
        return sequence < self.settled_below and sequence not in self.unsettled


class SessionTable:
    """All sessions, their outcomes, and the log's time."""

    def __init__(self) -> None:
        """No session, at time 0."""
        self._sessions: dict[int, _Session] = {}
        # Milliseconds in which the cluster had a leader, as far as the log tells. Never falls.
        self._time_ms = 0
        # The last stamp: the term of its leader, and how long that had led.
        self._stamp_term = 0
        self._stamp_led_ms = 0
        # Derived: the bytes of all results kept, and for each session a moment not after its end, the earliest first.
        self._result_bytes = 0
        self._ends: list[tuple[int, int]] = []

    @property
    def session_ids(self) -> tuple[int, ...]:
        """The sessions that live, ascending."""
        return tuple(sorted(self._sessions))

    @property
    def time_ms(self) -> int:
        """The log's time."""
        return self._time_ms

    @property
    def result_bytes(self) -> int:
        """The bytes of all results kept."""
        return self._result_bytes

    def apply(
        self,
        index: int,
        term: int,
        operation: Operation,
        stamp: Stamp,
        run: Callable[[SessionCommand], bytes | None],
    ) -> Answer:
        """Carry out an entry's operation and return the answer to it.

        Args:
            index, term: Those of the entry, in the order of the log.
            run: Applies a command and returns its result; None if its version is not switched on.
        """
        self._advance(term, stamp.led_ms)
        # Before anything else, so that a new session does not find the table full of dead ones.
        self._expire()
        if isinstance(operation, OpenSession):
            return self._open(index, operation, stamp)
        session = self._sessions.get(operation.session_id)
        if session is None:
            return _NO_SESSION
        if isinstance(operation, ResolveCommand):
            # It may come from another than the client, so it does not let the session live on.
            return self._resolve(session, operation.sequence, stamp)
        if isinstance(operation, CloseSession):
            self._drop(operation.session_id)
            return Answer(Outcome.DONE, operation.session_id)
        session.heard_ms = self._time_ms
        self._settle(session, operation.settled_below, operation.unsettled)
        if isinstance(operation, KeepAlive):
            return Answer(Outcome.DONE, operation.session_id)
        return self._command(session, index, term, operation, stamp, run)

    def _advance(self, term: int, led_ms: int) -> None:
        """Add what has passed since the last stamp of this leader, or since it began to lead."""
        since_ms = self._stamp_led_ms if term == self._stamp_term else 0
        self._time_ms += max(0, led_ms - since_ms)
        self._stamp_term, self._stamp_led_ms = term, max(led_ms, since_ms)

    def _expire(self) -> None:
        while self._ends and self._ends[0][0] < self._time_ms:
            _, session_id = heapq.heappop(self._ends)
            session = self._sessions.get(session_id)
            if session is None:
                continue
            if session.heard_ms + session.ttl_ms < self._time_ms:
                self._drop(session_id)
            else:
                self._note_end(session_id, session)

    def _note_end(self, session_id: int, session: _Session) -> None:
        heapq.heappush(self._ends, (session.heard_ms + session.ttl_ms, session_id))

    def _open(self, index: int, operation: OpenSession, stamp: Stamp) -> Answer:
        if len(self._sessions) >= stamp.max_sessions:
            return _LIMIT
        session = _Session(operation.ttl_ms, self._time_ms)
        self._sessions[index] = session
        self._note_end(index, session)
        return Answer(Outcome.DONE, index)

    def _drop(self, session_id: int) -> None:
        self._forget(self._sessions.pop(session_id).outcomes.values())

    def _forget(self, answers: Iterable[Answer]) -> None:
        self._result_bytes -= sum(len(answer.result) for answer in answers)

    def _settle(self, session: _Session, settled_below: int, unsettled: tuple[int, ...]) -> None:
        """Take in what the client is done with. An entry may be older than the last one: what was settled stays so."""
        if (settled_below, unsettled) == (session.settled_below, session.unsettled):
            return
        if settled_below >= session.settled_below:
            session.unsettled = tuple(number for number in unsettled if not session.is_settled(number))
            session.settled_below = settled_below
        else:
            told = frozenset(unsettled)
            session.unsettled = tuple(
                number for number in session.unsettled if number >= settled_below or number in told
            )
        settled = [number for number in session.outcomes if session.is_settled(number)]
        self._forget([session.outcomes.pop(number) for number in settled])

    def _resolve(self, session: _Session, sequence: int, stamp: Stamp) -> Answer:
        if (answer := _answer_without_it(session, sequence, stamp)) is not None:
            return answer
        return self._keep(session, sequence, Answer(Outcome.NEVER))

    def _command(
        self,
        session: _Session,
        index: int,
        term: int,
        operation: SessionCommand,
        stamp: Stamp,
        run: Callable[[SessionCommand], bytes | None],
    ) -> Answer:
        sequence = operation.sequence
        if (answer := _answer_without_it(session, sequence, stamp)) is not None:
            return answer
        if self._result_bytes >= stamp.max_result_bytes:
            # Kept like any outcome: so the client knows that no other copy of it will be applied.
            return self._keep(session, sequence, Answer(Outcome.NO_ROOM))
        result = run(operation)
        if result is None:
            return self._keep(session, sequence, Answer(Outcome.NOT_ENABLED))
        return self._keep(session, sequence, Answer(Outcome.APPLIED, index, term, result))

    def _keep(self, session: _Session, sequence: int, answer: Answer) -> Answer:
        session.outcomes[sequence] = answer
        self._result_bytes += len(answer.result)
        return answer

    # --- In snapshots ---

    def encode(self) -> bytes:
        """Return the whole table as the protobuf message ``SessionTable``; b"" if no entry has changed it yet.

        Equal tables have equal bytes.
        """
        fields = [
            varint_field(1, self._time_ms),
            varint_field(2, self._stamp_term),
            varint_field(3, self._stamp_led_ms),
        ]
        fields += [bytes_field(4, _encode_session(each, self._sessions[each])) for each in sorted(self._sessions)]
        return b"".join(fields)

    @classmethod
    def decode(cls, encoded: bytes) -> SessionTable:
        """Read a table.

        Raises: MalformedTable if the bytes are none.
        """
        table = cls()
        numbers = {1: 0, 2: 0, 3: 0}
        try:
            for number, _, value in read_fields(encoded):
                if isinstance(value, int):
                    numbers[number] = value
                elif number == 4:
                    session_id, session = _decode_session(value)
                    table._sessions[session_id] = session
        except ValueError as error:
            raise MalformedTable(f"this is no table of sessions: {error}") from error
        table._time_ms, table._stamp_term, table._stamp_led_ms = numbers[1], numbers[2], numbers[3]
        for session_id, session in table._sessions.items():
            table._note_end(session_id, session)
            table._result_bytes += sum(len(answer.result) for answer in session.outcomes.values())
        return table


def _answer_without_it(session: _Session, sequence: int, stamp: Stamp) -> Answer | None:
    """Return what is answered without a new outcome for this number; None if it is to get one."""
    if session.is_settled(sequence):
        return _SETTLED
    if (known := session.outcomes.get(sequence)) is not None:
        return known
    return _LIMIT if len(session.outcomes) >= stamp.max_outstanding else None


def _encode_session(session_id: int, session: _Session) -> bytes:
    fields = [
        varint_field(1, session_id),
        varint_field(2, session.ttl_ms),
        varint_field(3, session.heard_ms),
        varint_field(4, session.settled_below),
    ]
    if session.unsettled:
        fields.append(bytes_field(5, pack_varints(session.unsettled)))
    for sequence in sorted(session.outcomes):
        answer = bytes_field(2, encode_answer(session.outcomes[sequence]))
        fields.append(bytes_field(6, varint_field(1, sequence) + answer))
    return b"".join(fields)


def _decode_session(encoded: bytes) -> tuple[int, _Session]:
    numbers = {1: 0, 2: 0, 3: 0, 4: 0}
    unsettled: list[int] = []
    outcomes: dict[int, Answer] = {}
    for number, _, value in read_fields(encoded):
        if isinstance(value, int):
            numbers[number] = value
        elif number == 5:
            unsettled += unpack_varints(value)
        elif number == 6:
            sequence, answer = _decode_outcome(value)
            outcomes[sequence] = answer
    if not numbers[1] or not numbers[2]:
        raise MalformedTable("a session in it has no id or no ttl_ms")
    return numbers[1], _Session(numbers[2], numbers[3], max(1, numbers[4]), tuple(unsettled), outcomes)


def _decode_outcome(encoded: bytes) -> tuple[int, Answer]:
    sequence, answer = 0, b""
    for number, wire_type, value in read_fields(encoded):
        if number == 1 and isinstance(value, int):
            sequence = value
        elif (number, wire_type) == (2, BYTES) and isinstance(value, bytes):
            answer = value
    decoded = decode_answer(answer)
    if decoded.outcome not in _KEPT:
        raise MalformedBytes(f"outcome {decoded.outcome.name} is not one that is kept")
    return sequence, decoded
