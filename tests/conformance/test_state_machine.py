"""Every state machine that ships keeps the StateMachine contract; so does the one that faults are planted in."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from clustercore.interfaces import LogIndex, NodeId, StateMachine
from clustercore.sync import Authority, EntityKind, EntityMachine
from clustercore.sync.raft_entities import encode_operation
from clustercore.testing.conformance import StateMachineConformance
from clustercore_kv import Cas, Command, Delete, Get, KeyValueMachine, Put, Scan, encode_command
from tests.conformance.planted.machines import MachineKit


class TestKeyValue(StateMachineConformance):
    queries = (encode_command(Get("a")), encode_command(Get("ü")), encode_command(Scan("", 10, "")))

    def make(self) -> StateMachine:
        return KeyValueMachine()

    def commands(self) -> Sequence[bytes]:
        rounds: list[list[Command]] = [
            [
                Put(key, value),
                Cas(key, value + b"!", value),
                Cas(key, b"lost", 1),
                Get(key),
                Scan("", 2, ""),
                Delete(other),
                Delete("nowhere"),
            ]
            for key, other, value in (("a", "b", b"1"), ("ü", "a", b""), ("b", "ü", b"\0" * 100), ("a", "a", b"2"))
        ]
        return [encode_command(command) for commands in rounds for command in commands]

    @pytest.mark.slow
    async def test_other_processes_have_the_same_results(self) -> None:
        """As the kit says; it starts processes."""
        await super().test_other_processes_have_the_same_results()


class TestEntities(StateMachineConformance):
    queries = (b"",)

    def make(self) -> StateMachine:
        return EntityMachine([THING])

    def commands(self) -> Sequence[bytes]:
        """Return edits of three nodes that hear of each other now and then, conflicts and deletions among them."""
        machines = [EntityMachine([THING]) for _ in range(3)]
        for number, machine in enumerate(machines):
            machine.replica.name(NodeId("abc"[number]), "0" * 16)
        made: list[bytes] = []
        for time in range(1, 30):
            machine = machines[time % 3]
            if time % 7 == 0:
                changes = machine.view.plan_delete(THING, "t1", time)
            else:
                changes = machine.view.plan_put(THING, f"t{time % 2}", Thing("x" * (time % 4), time), time)
            made.append(encode_operation(changes or []))
            machine.apply(LogIndex(1), made[-1])
            if time % 5 == 0:
                for other in machines:
                    for command in made:
                        other.apply(LogIndex(1), command)
        return made

    @pytest.mark.slow
    async def test_other_processes_have_the_same_results(self) -> None:
        """As the kit says; it starts processes."""
        await super().test_other_processes_have_the_same_results()


@attrs.frozen
class Thing:
    name: str
    size: int = 0


THING = EntityKind("thing", Thing, groups={"name": ["name"]}, authority=Authority.RAFT)


class TestTags(MachineKit):
    """The sound machine that the planted ones differ from."""

    @pytest.mark.slow
    async def test_other_processes_have_the_same_results(self) -> None:
        """As the kit says; it starts processes."""
        await super().test_other_processes_have_the_same_results()
