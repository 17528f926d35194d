"""Every state machine that ships keeps the StateMachine contract; so does the one that faults are planted in."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from clustercore.interfaces import StateMachine
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


class TestTags(MachineKit):
    """The sound machine that the planted ones differ from."""

    @pytest.mark.slow
    async def test_other_processes_have_the_same_results(self) -> None:
        """As the kit says; it starts processes."""
        await super().test_other_processes_have_the_same_results()
