"""KeyValueMachine: the state machine that a node runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import trio

from clustercore.interfaces import InvalidCommand, LogIndex, MalformedMessage, NodeHandle, Service, StateMachine
from clustercore_kv.codec import decode_command, encode_result
from clustercore_kv.limits import check_command
from clustercore_kv.service import KeyValueService
from clustercore_kv.snapshot import FrozenStore, SnapshotDecoder, StoreSnapshot
from clustercore_kv.store import Store
from clustercore_kv.values import (
    Cas,
    CasResult,
    Command,
    Delete,
    DeleteResult,
    Get,
    GetResult,
    KvEvent,
    Put,
    PutResult,
    Refused,
    Result,
    Scan,
    ScanResult,
)
from clustercore_kv.watch import History, Watcher

__all__ = ["KeyValueMachine"]

# Bytes of a snapshot that are read before other tasks have a turn: a millisecond or two of small entries.
_RESTORED_PER_CHECKPOINT = 64 * 1024


class KeyValueMachine(StateMachine):
    """A replicated key-value store: put, delete, compare-and-set, get, prefix scan and watch.

    Commands are encoded ``KvCommand`` messages and results ``KvResult`` messages (kv.proto); ``encode_command`` and
    ``decode_result`` make and read them. ``get``, ``scan`` and ``watch`` read what this node has applied, which may be
    behind what the cluster has agreed on.

    Args:
        history_events: Changes that are kept for watchers, at most. 65,536 are a few seconds of the fastest writing.
        history_bytes: Their keys and values, at most, in bytes.
    """

    def __init__(self, history_events: int = 65_536, history_bytes: int = 32 * 1024 * 1024) -> None:
        self._store = Store()
        # The log index of the last command applied; 0 before the first. At least the history's revision.
        self._applied_index = 0
        # For watchers only: it is not part of the state, and differs from node to node.
        self._history = History(history_events, history_bytes)

    # --- StateMachine --------------------------------------------------------------------------------------------

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        self._applied_index = index
        try:
            decoded = decode_command(command)
        except MalformedMessage as error:
            return encode_result(Refused(str(error)))
        return encode_result(self._carry_out(index, decoded))

    def snapshot(self) -> FrozenStore:
        """Freeze the state. Commands go on being applied, and what they overwrite is kept until it is read."""
        return FrozenStore(self._store, self._applied_index, self._history.revision)

    async def restore_chunks(self, chunks: AsyncIterator[bytes]) -> None:
        """Replace the state. Watchers go on if they were told of everything the snapshot holds, else they fell behind.

        Until it returns this machine has its old state, and answers by that.

        Raises: MalformedSnapshot; then nothing has changed.
        """
        decoder = SnapshotDecoder()
        async for chunk in chunks:
            for start in range(0, len(chunk), _RESTORED_PER_CHECKPOINT):
                decoder.feed(chunk[start : start + _RESTORED_PER_CHECKPOINT])
                await trio.lowlevel.checkpoint()
        self._replace(decoder.finish())

    def restore(self, snapshot: bytes) -> None:
        """Replace the state at once by a snapshot that is in memory; as ``restore_chunks``."""
        decoder = SnapshotDecoder()
        decoder.feed(snapshot)
        self._replace(decoder.finish())

    def _replace(self, restored: StoreSnapshot) -> None:
        self._store = restored.store
        self._applied_index = restored.applied_index
        self._history.reset(restored.revision)

    def validate(self, command: bytes) -> None:
        try:
            decoded = decode_command(command)
        except MalformedMessage as error:
            raise InvalidCommand(f"not a KvCommand: {error}") from error
        check_command(decoded)

    def query(self, query: bytes) -> bytes:
        """Answer a KvCommand that changes nothing, a get or a scan, with its KvResult.

        Raises: InvalidCommand if it is any other, or beyond a limit.
        """
        self.validate(query)
        command = decode_command(query)
        match command:
            case Get(key):
                return encode_result(self.get(key))
            case Scan(prefix, limit, start_after):
                return encode_result(self.scan(prefix, limit, start_after))
            case _:
                raise InvalidCommand(f"{type(command).__name__} is no query; only Get and Scan are")

    def services(self, node: NodeHandle) -> Sequence[Service]:
        """Return ``clustercore.v1.KeyValue``, as kv.proto describes it."""
        return (KeyValueService(self, node).service(),)

    # --- What this node has applied ------------------------------------------------------------------------------

    @property
    def applied_index(self) -> int:
        """The log index of the last command applied here; entries without a command do not count."""
        return self._applied_index

    def get(self, key: str) -> GetResult:
        """Read one key of what this node has applied."""
        value, revision = self._store.get(key) or (None, 0)
        return GetResult(value, revision, self._applied_index)

    def scan(self, prefix: str = "", limit: int = 0, start_after: str = "") -> ScanResult:
        """Read one page of what this node has applied; the parameters are those of ``Scan``."""
        pairs, more = self._store.scan(prefix, limit, start_after)
        return ScanResult(pairs, more, self._applied_index)

    def watch(self, prefix: str = "", after_revision: int | None = None) -> Watcher:
        """Follow the changes that this node applies to the keys with ``prefix``.

        Args:
            prefix: Empty for all keys.
            after_revision: Tell every change after it, of those already made too; as in
                ``watch(after_revision=scan(...).applied_index)``. It may be ahead of this node. None: from now on.
        """
        return self._history.watch(prefix, after_revision)

    # --- Commands ------------------------------------------------------------------------------------------------

    def _carry_out(self, index: LogIndex, command: Command) -> Result:
        match command:
            case Put(key, value):
                self._put(index, key, value)
                return PutResult(index)
            case Get(key):
                return self.get(key)
            case Delete(key):
                return self._delete(index, key)
            case Cas():
                return self._cas(index, command)
            case Scan(prefix, limit, start_after):
                return self.scan(prefix, limit, start_after)

    def _put(self, index: LogIndex, key: str, value: bytes) -> None:
        self._store.put(key, value, index)
        self._history.append(KvEvent(key, value, index))

    def _delete(self, index: LogIndex, key: str) -> DeleteResult:
        if not self._store.delete(key):
            return DeleteResult(False, 0)
        self._history.append(KvEvent(key, None, index))
        return DeleteResult(True, index)

    def _cas(self, index: LogIndex, command: Cas) -> CasResult:
        value, revision = self._store.get(command.key) or (None, 0)
        if command.expected != (revision if isinstance(command.expected, int) else value):
            return CasResult(False, revision, value)
        self._put(index, command.key, command.value)
        return CasResult(True, index)
