"""Runs of a state machine that can be compared, here and in other processes."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs
import trio

from clustercore.interfaces import LogIndex, SnapshotHandle, StateMachine

if TYPE_CHECKING:
    from clustercore.testing.conformance.state_machine import StateMachineConformance

__all__ = ["Run", "assert_same", "index_of", "restored_from", "run_in_other_process", "snapshot_bytes"]

# What the other process runs: it imports the author's file under the name it has here, and prints its run.
_PROGRAM = "from clustercore.testing.conformance.machine_runs import main; main()"
_LIMIT_S = 60


@attrs.define
class Run:
    """What came of some commands, in order: each with its result and the digest of the state after it."""

    steps: list[tuple[bytes, bytes, bytes]] = attrs.field(factory=list)

    def add(self, command: bytes, result: bytes, digest: bytes) -> None:
        """Add what came of one command."""
        self.steps.append((command, result, digest))

    def followed_by(self, other: Run) -> Self:
        """Return this run and the one that goes on where it ends."""
        return type(self)([*self.steps, *other.steps])


def assert_same(first: Run, second: Run, who: str) -> None:
    """Compare two runs of the same commands; the first command at which they part is named."""
    for number, ((command, result, digest), (_, other_result, other_digest)) in enumerate(
        zip(first.steps, second.steps, strict=True)
    ):
        where = f"command {number}, at log index {index_of(number)}, {command[:80]!r}"
        assert result == other_result, f"{where}: {who} returns {other_result[:200]!r}, not {result[:200]!r}"
        assert digest == other_digest, f"{where}: {who} is then in another state: {_difference(digest, other_digest)}"


def _difference(one: bytes, other: bytes) -> str:
    place = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return f"{other[place : place + 40]!r} at byte {place} of its digest, not {one[place : place + 40]!r}"


def index_of(number: int) -> LogIndex:
    """Return the log index of a command. There are gaps, as a node leaves for entries of its own."""
    return LogIndex(3 * number + 2)


async def snapshot_bytes(source: StateMachine | Any) -> bytes:
    """Take a snapshot, or read one that is taken, to its end."""
    taken = source.snapshot() if isinstance(source, StateMachine) else source
    if isinstance(taken, bytes):
        return taken
    try:
        chunks = taken.chunks() if isinstance(taken, SnapshotHandle) else taken
        if hasattr(chunks, "__aiter__"):
            return b"".join([chunk async for chunk in chunks])
        return b"".join(chunks)
    finally:
        if isinstance(taken, SnapshotHandle):
            taken.close()


async def restored_from(machine: StateMachine, snapshot: bytes, chunk_bytes: int = 1 << 16) -> None:
    """Restore a machine from a snapshot that comes in parts, as a node does."""

    async def chunks() -> AsyncIterator[bytes]:
        for offset in range(0, len(snapshot), chunk_bytes):
            yield snapshot[offset : offset + chunk_bytes]

    await machine.restore_chunks(chunks())


async def run_in_other_process(kit: type[StateMachineConformance], hash_seed: int) -> Run:
    """Run the kit's commands in a new process whose texts hash otherwise."""
    question = json.dumps([inspect.getfile(kit), kit.__module__, kit.__qualname__])
    environment = os.environ | {
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), os.getcwd()]),
    }
    with trio.fail_after(_LIMIT_S):
        done = await trio.run_process([sys.executable, "-c", _PROGRAM, question], env=environment, capture_stdout=True)
    return Run([tuple(map(bytes.fromhex, step)) for step in json.loads(done.stdout)])  # type: ignore[misc]  # of three


def main() -> None:
    """Run the commands of the kit that the argument names, and print what came of them."""
    file_name, module_name, class_name = json.loads(sys.argv[1])
    kit: Any = _import(Path(file_name), module_name)
    for part in class_name.split("."):
        kit = getattr(kit, part)
    self = kit()

    async def run() -> Run:
        ran: Run = await self._run(self.make(), self.commands())
        return ran

    steps = [[part.hex() for part in step] for step in trio.run(run).steps]
    sys.stdout.write(json.dumps(steps))


def _import(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
