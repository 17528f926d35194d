"""The StateMachine contract, rule by rule: a sanitizer of determinism. See ``clustercore.interfaces.state_machine``.

Nodes agree on the commands and their order, and on nothing else: what ``apply`` makes of them has to be the same
everywhere. A machine that is not deterministic works in every test on one node, and lets the replicas drift apart in
silence. So each rule runs the same commands in two ways, and names the first at which they part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from random import Random
from typing import ClassVar

from clustercore.interfaces import InvalidCommand, SnapshotHandle, StateMachine
from clustercore.testing.conformance.base import Conformance
from clustercore.testing.conformance.machine_runs import (
    Run,
    assert_same,
    index_of,
    restored_from,
    run_in_other_process,
    snapshot_bytes,
)
from clustercore.testing.conformance.traps import CLOCK, ENVIRONMENT, IO, RANDOMNESS, watched

__all__ = ["StateMachineConformance"]

NOISE = (b"", b"\0", b"\xff" * 9, b"{", b"noise", bytes(range(256)))
# Where snapshots are cut into parts.
CHUNK_BYTES = (1, 7, 1 << 16)
# Orders in which the commands are tried, beside their own.
SHUFFLES = 5


class StateMachineConformance(Conformance, ABC):
    """Derive from it, and say in ``make`` and ``commands`` how the machine is made and what it is told.

    The test file is imported again by other processes, which differ in how they hash texts: the class has to stand at
    its top level.
    """

    # Questions for ``query``. Left empty, the rules about queries are left out.
    queries: ClassVar[Sequence[bytes]] = ()

    @abstractmethod
    def make(self) -> StateMachine:
        """Make a machine in its first state."""

    @abstractmethod
    def commands(self) -> Sequence[bytes]:
        """Return commands of every kind, some of which cannot be carried out: twenty or more. All pass ``validate``."""

    async def digest(self, machine: StateMachine) -> bytes:
        """Return bytes that are equal for equal states. The default is the snapshot.

        Override it if equal states may have different snapshots, which is allowed: as those of a dict may.
        """
        return await snapshot_bytes(machine)

    def left_out(self) -> dict[str, str]:
        """Return the rules that say nothing of this machine, by the name of the test, each with the reason."""
        reasons = super().left_out()
        if not self.queries:
            reasons |= dict.fromkeys(("test_query_changes_nothing", "test_query_is_repeatable"), "queries is empty")
        if "<locals>" in type(self).__qualname__:
            reasons["test_other_processes_have_the_same_results"] = "the class is not at the top level of its file"
        taken = self.make().snapshot()
        if isinstance(taken, SnapshotHandle):
            taken.close()
        else:
            reasons["test_snapshot_handle_keeps_the_state_it_was_taken_of"] = "snapshot returns no SnapshotHandle"
        return reasons

    # --- Determinism ---

    async def test_same_commands_have_the_same_results(self) -> None:
        """Two machines that are told the same give the same results, and are in the same state after each command."""
        for commands in self._orders():
            first = await self._run(self.make(), commands)
            assert_same(first, await self._run(self.make(), commands), "another machine")

    async def test_other_processes_have_the_same_results(self) -> None:
        """Nothing depends on the order of a set, on ``hash()`` of a text, or on where in memory an object is."""
        here = await self._run(self.make(), self.commands())
        for seed in (1, 2):
            there = await run_in_other_process(type(self), seed)
            assert_same(here, there, f"a process with PYTHONHASHSEED={seed}")

    async def test_reads_no_clock(self) -> None:
        """No method asks for the time, whether or not it makes a difference."""
        await self._assert_never_asks_for(CLOCK)

    async def test_draws_no_random_numbers(self) -> None:
        """No method asks for a random number, but of a generator that is seeded by its own state."""
        await self._assert_never_asks_for(RANDOMNESS)

    async def test_does_no_io(self) -> None:
        """No method opens a file, a socket or a thread, or asks the operating system for anything."""
        await self._assert_never_asks_for(IO)

    async def test_reads_no_environment(self) -> None:
        """No method reads or sets an environment variable: another node's may have other values."""
        await self._assert_never_asks_for(ENVIRONMENT)

    async def _assert_never_asks_for(self, kind: str) -> None:
        machine = self.make()
        for number, command in enumerate(self.commands()):
            with watched() as found:
                machine.validate(command)
                machine.apply_version(index_of(number), command, 1)
            self._assert_not_asked(kind, found, f"command {number} ({command[:40]!r})")
        for query in self.queries:
            with watched() as found:
                machine.query(query)
            self._assert_not_asked(kind, found, f"the query {query[:40]!r}")
        with watched() as found:
            taken = await snapshot_bytes(machine)
        self._assert_not_asked(kind, found, "the snapshot")
        restored = self.make()
        with watched() as found:
            await restored_from(restored, taken)
        self._assert_not_asked(kind, found, "the restoring")

    def _assert_not_asked(self, kind: str, found: list[tuple[str, str]], where: str) -> None:
        asked = [what for each, what in found if each == kind]
        assert not asked, f"{where} asks for {kind}: {asked[0]}"

    # --- Commands ---

    async def test_apply_never_raises(self) -> None:
        """What ``validate`` lets pass is carried out, or refused by a result, in any order; the result is bytes."""
        for commands in self._orders():
            machine = self.make()
            for number, command in enumerate([*commands, *filter(self._is_valid, NOISE)]):
                result = machine.apply_version(index_of(number), command, 1)
                assert type(result) is bytes, f"command {number} ({command[:40]!r}) returns {type(result).__name__}"

    async def test_validate_goes_by_the_command_alone(self) -> None:
        """``validate`` raises InvalidCommand or nothing, says the same in every state, and changes none."""
        fresh, used = self.make(), self.make()
        self._tell(used, self.commands())
        before = await self.digest(used)
        for command in (*self.commands(), *NOISE):
            assert _is_refused(fresh, command) is _is_refused(used, command), f"{command[:40]!r} depends on the state"
        assert await self.digest(used) == before
        assert not any(_is_refused(fresh, command) for command in self.commands())

    async def test_query_changes_nothing(self) -> None:
        """A query leaves the state as it was."""
        for number, machine in self._stages():
            before = await self.digest(machine)
            for query in self.queries:
                machine.query(query)
                assert await self.digest(machine) == before, f"{query[:40]!r} after {number} commands changes the state"

    async def test_query_is_repeatable(self) -> None:
        """A query of the same state has the same answer, from a machine that was restored as well; it is bytes."""
        for number, machine in self._stages():
            other = self.make()
            await restored_from(other, await snapshot_bytes(machine))
            for query in self.queries:
                answer = machine.query(query)
                assert type(answer) is bytes
                for asked in (machine, other):
                    assert asked.query(query) == answer, f"{query[:40]!r} after {number} commands"

    # --- Snapshots ---

    async def test_snapshot_stands_for_all_before_it(self) -> None:
        """Restored from a snapshot taken after any command, a machine goes on as if it had applied them all."""
        commands = self.commands()
        whole = await self._run(self.make(), commands)
        for cut in range(len(commands) + 1):
            taken = self.make()
            before = await self._run(taken, commands[:cut])
            restored = self.make()
            await restored_from(restored, await snapshot_bytes(taken), CHUNK_BYTES[cut % len(CHUNK_BYTES)])
            after = await self._run(restored, commands[cut:], first=cut)
            assert_same(whole, before.followed_by(after), f"one restored after {cut} commands")
            assert await self.digest(taken) == await self.digest(self._after(commands[:cut]))

    async def test_snapshot_changes_nothing(self) -> None:
        """Taking a snapshot after each command makes no difference."""
        commands = self.commands()
        without = self._after(commands)
        taken_from = self.make()
        for number, command in enumerate(commands):
            await snapshot_bytes(taken_from)
            taken_from.apply_version(index_of(number), command, 1)
        assert await self.digest(taken_from) == await self.digest(without)

    async def test_restore_replaces_the_whole_state(self) -> None:
        """Whatever a machine was told before, restored from a snapshot it is in that state and no other."""
        commands = self.commands()
        for cut in (0, len(commands) // 2):
            taken = self._after(commands[:cut])
            other = self._after(commands[::-1])
            await restored_from(other, await snapshot_bytes(taken))
            assert await self.digest(other) == await self.digest(taken), f"restored from one after {cut} commands"
            assert_same(
                await self._run(taken, commands, first=cut), await self._run(other, commands, first=cut), "the restored"
            )

    async def test_snapshot_handle_keeps_the_state_it_was_taken_of(self) -> None:
        """While commands go on being applied, a handle's parts are of the state at the moment it was taken."""
        commands = self.commands()
        for cut in range(len(commands)):
            machine = self._after(commands[:cut])
            handle = machine.snapshot()
            self._tell(machine, commands[cut:], first=cut)
            restored = self.make()
            await restored_from(restored, await snapshot_bytes(handle))
            assert await self.digest(restored) == await self.digest(self._after(commands[:cut])), (
                f"a handle taken after {cut} commands tells of later ones"
            )

    # --- Helpers ---

    def _orders(self) -> Iterable[Sequence[bytes]]:
        """Return the commands in their own order and in some others, the same each time."""
        yield self.commands()
        for seed in range(SHUFFLES):
            shuffled = list(self.commands())
            Random(seed).shuffle(shuffled)
            yield shuffled

    def _stages(self) -> Iterable[tuple[int, StateMachine]]:
        """Return one machine at its beginning and after each command."""
        machine = self.make()
        yield 0, machine
        for number, command in enumerate(self.commands()):
            machine.apply_version(index_of(number), command, 1)
            yield number + 1, machine

    def _is_valid(self, command: bytes) -> bool:
        return not _is_refused(self.make(), command)

    def _after(self, commands: Sequence[bytes]) -> StateMachine:
        """Return a machine that was told some commands, and asked nothing."""
        machine = self.make()
        self._tell(machine, commands)
        return machine

    def _tell(self, machine: StateMachine, commands: Sequence[bytes], *, first: int = 0) -> None:
        for number, command in enumerate(commands, start=first):
            machine.apply_version(index_of(number), command, 1)

    async def _run(self, machine: StateMachine, commands: Sequence[bytes], *, first: int = 0) -> Run:
        """Apply commands, and note the result of each and the state after it."""
        run = Run()
        for number, command in enumerate(commands, start=first):
            result = machine.apply_version(index_of(number), command, 1)
            run.add(command, result, await self.digest(machine))
        return run


def _is_refused(machine: StateMachine, command: bytes) -> bool:
    try:
        machine.validate(command)
    except InvalidCommand:
        return True
    return False
