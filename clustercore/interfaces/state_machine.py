"""StateMachine: what a user writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from clustercore.interfaces.errors import InvalidCommand
from clustercore.interfaces.transport import Service
from clustercore.raft.types import LogIndex

if TYPE_CHECKING:
    from clustercore.interfaces.node import NodeHandle

__all__ = ["SnapshotHandle", "StateMachine"]


class SnapshotHandle(ABC):
    """The state as it was when ``StateMachine.snapshot`` was called, while commands go on being applied.

    Copy on write does it: whoever changes a part that the handle has not read yet keeps the old part for it.
    """

    @abstractmethod
    def chunks(self) -> Iterable[bytes] | AsyncIterable[bytes]:
        """Return the bytes of the snapshot, in parts of any size, in order.

        Called by: the node, once. It takes a part, lets other tasks run, and takes the next: so making one should take
        no more than a millisecond or so. 64 KiB is a good size.

        Raises: any exception is a bug; the node then halts with StateMachineError.
        """

    def close(self) -> None:
        """Let go of the state. Called once, also when not all parts were taken. The default does nothing."""
        return None


class StateMachine(ABC):
    """The replicated state. Every node applies the same commands in the same order (Raft §2).

    Determinism: ``apply`` may depend on nothing but the state and its arguments: no clock, randomness, I/O, or order
    of a set or of ``hash()``. The same commands must give the same results on every node, Python version and day.

    ``clustercore.testing.conformance.StateMachineConformance`` finds out whether it keeps to that.

    Called by: one task of the node, one call at a time, in log order. State lives in memory; after a restart it is
    rebuilt from the newest snapshot and the log after it.
    """

    # The highest version of its commands that the machine understands. When all members of the cluster announce a
    # version, it is switched on, for ever (``Node.command_version``); a node whose machine does not know it then halts.
    version: ClassVar[int] = 1

    @abstractmethod
    def apply(self, index: LogIndex, command: bytes) -> bytes:
        """Carry out one committed command and return its result, which goes to the proposer.

        A command that cannot be carried out returns a result that says so. An exception is a bug: it would meet every
        node alike, so the node halts with StateMachineError rather than go on with a state the others may not share.

        Args:
            index: The command's log index, growing from call to call.
            command: The bytes that were proposed.
        """

    def apply_version(self, index: LogIndex, command: bytes, version: int) -> bytes:
        """Apply a command that was made for a version of the machine's commands: what the node calls.

        Override it, rather than ``apply`` alone, in a machine that has had several; the default ignores the version.

        Args:
            version: What ``propose`` was given, from 1. It was switched on before in the log, so that every member
                understands it. An old command keeps its version, and must give the result it always gave.
        """
        return self.apply(index, command)

    @abstractmethod
    def snapshot(self) -> bytes | Iterable[bytes] | AsyncIterable[bytes] | SnapshotHandle:
        """Return the whole state, as it is after the last ``apply``.

        Choose by the size of the state:

        * bytes: simple, good for a few megabytes. The call holds up the node, so it should take milliseconds.
        * an iterable or async iterable of parts, such as a generator: the state is never in memory twice, and the node
          goes on serving while the parts are taken, but ``apply`` waits until the last one.
        * a ``SnapshotHandle``: ``apply`` goes on too.
        """

    def restore(self, snapshot: bytes) -> None:
        """Replace the whole state by what ``snapshot`` returned, perhaps on another node or in another version.

        A machine whose state is too large for that defines ``restore_chunks`` instead.

        Raises: any exception if the bytes cannot be read; the node then halts with StateMachineError.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither restore nor restore_chunks")

    async def restore_chunks(self, chunks: AsyncIterator[bytes]) -> None:
        """Replace the whole state by a snapshot that comes in parts, cut anywhere. The default joins them.

        Neither ``apply`` nor ``query`` is called before it returns. Services of the machine's own must expect to be.

        Raises: any exception if the bytes cannot be read; the node then halts with StateMachineError.
        """
        self.restore(b"".join([chunk async for chunk in chunks]))

    def query(self, query: bytes) -> bytes:
        """Answer a question about the state, as it is after the last ``apply``, without changing it.

        Called by: the node, between two calls of ``apply``, for ``Node.read``. The default answers none.

        Raises: InvalidCommand for a question that can never be answered; the caller of ``read`` gets it.
        """
        raise InvalidCommand(f"{type(self).__name__} answers no queries")

    def validate(self, command: bytes) -> None:
        """Refuse a command before it is proposed. Called on the node where it is proposed; the default allows all.

        It may depend only on the command, because the state may have changed when it is applied.

        Raises: InvalidCommand, with what is wrong and what is allowed.
        """
        return None

    def services(self, node: NodeHandle) -> Sequence[Service]:
        """Return the services to answer on the node's own listener. The default has none.

        Called by: the node, once, before it serves.
        """
        return ()
