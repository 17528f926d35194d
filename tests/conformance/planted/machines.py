"""One faulty state machine, at least, for each rule of their kit."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar, cast

import trio

from clustercore.interfaces import InvalidCommand, LogIndex, SnapshotHandle, StateMachine
from clustercore.testing.conformance import StateMachineConformance
from tests.conformance.planted.runner import Fault

__all__ = ["FAULTS", "MachineKit", "Tags"]

FAULTS: list[Fault] = []
_CALLS = itertools.count()


class Handle(SnapshotHandle):
    """A copy of the state, so that it stays what it is."""

    def __init__(self, state: bytes) -> None:
        self.state = state

    def chunks(self) -> Iterable[bytes]:
        yield self.state[:5]
        yield self.state[5:]


class Tags(StateMachine):
    """A sound machine: counts tags. ``+a`` adds one, ``-a`` takes one away, ``?`` lists them."""

    def __init__(self) -> None:
        self.tags: dict[str, int] = {}

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        sign, tag = command[:1], command[1:].decode(errors="replace")
        if sign == b"?":
            return " ".join(self.listed()).encode()
        if sign not in (b"+", b"-"):
            return b"refused"
        self.tags[tag] = self.tags.get(tag, 0) + (1 if sign == b"+" else -1)
        return str(self.tags[tag]).encode()

    def listed(self) -> list[str]:
        return sorted(self.tags)

    def state(self) -> bytes:
        return json.dumps(self.tags, sort_keys=True).encode()

    def snapshot(self) -> SnapshotHandle:
        return Handle(self.state())

    def restore(self, snapshot: bytes) -> None:
        self.tags = json.loads(snapshot)

    def query(self, query: bytes) -> bytes:
        return str(self.tags.get(query.decode(), 0)).encode()

    def validate(self, command: bytes) -> None:
        if command[:1] not in (b"+", b"-", b"?"):
            raise InvalidCommand("a command begins with +, - or ?")


class MachineKit(StateMachineConformance):
    """The kit as the author of such a machine derives it."""

    machine: ClassVar[type[Tags]] = Tags
    queries = (b"alpha", b"gamma")

    def make(self) -> StateMachine:
        return self.machine()

    def commands(self) -> Sequence[bytes]:
        tags = ("alpha", "beta", "gamma", "delta")
        return [f"{sign}{tag}".encode() for tag in tags for sign in "++-?"] + [b"-alpha", b"?", b"+alpha", b"?"]


def plant(rule: str, what: str, expects: type[Exception] = AssertionError) -> Callable[[type[Tags]], type[Tags]]:
    """Add a fault to the table. Its kit stands at the top level, where other processes find it."""

    def add(machine: type[Tags]) -> type[Tags]:
        name = f"Test{machine.__name__}"
        kit = type(name, (MachineKit,), {"machine": machine, "__module__": __name__, "__qualname__": name})
        globals()[name] = kit
        FAULTS.append(Fault(rule, what, kit, expects))
        return machine

    return add


# --- Determinism -----------------------------------------------------------------------------------------------------


@plant("test_same_commands_have_the_same_results", "shares a counter between machines")
class CountsAllCalls(Tags):
    def apply(self, index: LogIndex, command: bytes) -> bytes:
        return f"{next(_CALLS)} {super().apply(index, command).decode()}".encode()


@plant("test_same_commands_have_the_same_results", "has a state that depends on chance")
class ForgetsByChance(Tags):
    def apply(self, index: LogIndex, command: bytes) -> bytes:
        result = super().apply(index, command)
        self.tags["chance"] = random.randrange(1000)
        return result


@plant("test_other_processes_have_the_same_results", "lists a set")
class ListsASet(Tags):
    def listed(self) -> list[str]:
        return list(set(self.tags))


@plant("test_other_processes_have_the_same_results", "hashes texts")
class HashesTexts(Tags):
    def apply(self, index: LogIndex, command: bytes) -> bytes:
        return str(hash(command) % 7).encode() + super().apply(index, command)


@plant("test_reads_no_clock", "reads the clock and uses it for nothing")
class ReadsTheClock(Tags):
    def apply(self, index: LogIndex, command: bytes) -> bytes:
        time.monotonic()
        return super().apply(index, command)


@plant("test_reads_no_clock", "dates its snapshots")
class DatesSnapshots(Tags):
    def snapshot(self) -> SnapshotHandle:
        time.strftime("%Y", time.gmtime())
        return super().snapshot()


@plant("test_draws_no_random_numbers", "rolls a die and ignores it")
class RollsADie(Tags):
    def apply(self, index: LogIndex, command: bytes) -> bytes:
        random.randint(1, 6)
        return super().apply(index, command)


@plant("test_draws_no_random_numbers", "makes unique names")
class MakesNames(Tags):
    def query(self, query: bytes) -> bytes:
        uuid.uuid4()
        return super().query(query)


@plant("test_reads_no_environment", "takes a limit from the environment")
class TakesALimitFromTheEnvironment(Tags):
    def apply(self, index: LogIndex, command: bytes) -> bytes:
        if len(self.tags) > int(os.environ.get("MOST_TAGS", "1000")):
            return b"refused"
        return super().apply(index, command)


@plant("test_reads_no_environment", "tells its queries who it runs as")
class TellsWhoItRunsAs(Tags):
    def query(self, query: bytes) -> bytes:
        return b"as root" if os.getenv("USER") == "root" else super().query(query)


@plant("test_does_no_io", "reads a file")
class ReadsAFile(Tags):
    def apply(self, index: LogIndex, command: bytes) -> bytes:
        Path(__file__).read_bytes()
        return super().apply(index, command)


@plant("test_does_no_io", "asks for its process id")
class AsksTheSystem(Tags):
    def validate(self, command: bytes) -> None:
        os.getpid()
        super().validate(command)


class ReadingHandle(Handle):
    """Looks something up while it is read."""

    def chunks(self) -> Iterable[bytes]:
        for chunk in super().chunks():
            os.stat(__file__)
            yield chunk


@plant("test_does_no_io", "reads a file while its snapshot is taken")
class ReadsWhileItIsTaken(Tags):
    def snapshot(self) -> SnapshotHandle:
        return ReadingHandle(self.state())


@plant("test_reads_no_clock", "dates what it restores")
class DatesWhatItRestores(Tags):
    async def restore_chunks(self, chunks: AsyncIterator[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        datetime.datetime.now(tz=datetime.UTC)
        await super().restore_chunks(chunks)


# --- Commands --------------------------------------------------------------------------------------------------------


@plant("test_apply_never_raises", "raises in an order that is not its own", KeyError)
class RaisesWhenEmpty(Tags):
    def apply(self, index: LogIndex, command: bytes) -> bytes:
        if command[:1] == b"-" and command[1:].decode() not in self.tags:
            raise KeyError(command)
        return super().apply(index, command)


@plant("test_apply_never_raises", "returns a text")
class ReturnsAText(Tags):
    def apply(self, index: LogIndex, command: bytes) -> bytes:
        return cast(bytes, super().apply(index, command).decode())


@plant("test_validate_goes_by_the_command_alone", "validates by the state")
class ValidatesByState(Tags):
    def validate(self, command: bytes) -> None:
        super().validate(command)
        if self.tags.get("alpha") == 1 and command == b"?":
            raise InvalidCommand("not now")


@plant("test_validate_goes_by_the_command_alone", "notes what it validates")
class NotesValidations(Tags):
    def validate(self, command: bytes) -> None:
        self.tags["validated"] = self.tags.get("validated", 0) + 1
        super().validate(command)


@plant("test_validate_goes_by_the_command_alone", "refuses with an error of its own", ValueError)
class RefusesOtherwise(Tags):
    def validate(self, command: bytes) -> None:
        if command[:1] not in (b"+", b"-", b"?"):
            raise ValueError("a command begins with +, - or ?")


@plant("test_query_changes_nothing", "counts its queries")
class CountsQueries(Tags):
    def query(self, query: bytes) -> bytes:
        self.tags["asked"] = self.tags.get("asked", 0) + 1
        return super().query(query)


@plant("test_query_is_repeatable", "answers from what it has not restored")
class AnswersFromMemory(Tags):
    def __init__(self) -> None:
        super().__init__()
        self.applied = 0

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        self.applied += 1
        return super().apply(index, command)

    def query(self, query: bytes) -> bytes:
        return f"{self.applied} {super().query(query).decode()}".encode()


# --- Snapshots -------------------------------------------------------------------------------------------------------


@plant("test_snapshot_stands_for_all_before_it", "forgets tags that are at zero")
class ForgetsZeros(Tags):
    def state(self) -> bytes:
        return json.dumps({tag: count for tag, count in self.tags.items() if count}, sort_keys=True).encode()


@plant("test_snapshot_stands_for_all_before_it", "keeps its turn out of the snapshot")
class HasAHiddenTurn(Tags):
    def __init__(self) -> None:
        super().__init__()
        self.turn = 0

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        self.turn += 1
        return f"{self.turn} {super().apply(index, command).decode()}".encode()


@plant("test_snapshot_changes_nothing", "tidies up at each snapshot")
class TidiesUp(Tags):
    def snapshot(self) -> SnapshotHandle:
        self.tags = {tag: count for tag, count in self.tags.items() if count != 1}
        return super().snapshot()


@plant("test_restore_replaces_the_whole_state", "adds what it restores")
class AddsWhatItRestores(Tags):
    def restore(self, snapshot: bytes) -> None:
        self.tags.update(json.loads(snapshot))


class LazyHandle(SnapshotHandle):
    """Reads the state when it is asked for the parts."""

    def __init__(self, machine: Tags) -> None:
        self.machine = machine

    def chunks(self) -> Iterable[bytes]:
        yield self.machine.state()


@plant("test_snapshot_handle_keeps_the_state_it_was_taken_of", "hands out the living state")
class HandsOutTheLivingState(Tags):
    def snapshot(self) -> SnapshotHandle:
        return LazyHandle(self)
