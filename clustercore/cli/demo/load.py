"""The demo's concurrent clients, and the ledger of what was acknowledged to them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import trio

from clustercore.cli.demo.errors import DemoFailed
from clustercore.cli.demo.failover import Failover
from clustercore.cli.demo.writes import Write
from clustercore.cli.kv_client import KvClient
from clustercore.interfaces import ConfigError, InvalidCommand, OutcomeUnknown

__all__ = ["Load"]

# A write is tried again for so long, through a failover and more, before the demo gives up.
_WRITE_LIMIT_S = 60.0
# Between an unknown outcome and the next attempt, so that a node which fails fast is not asked without end.
_PAUSE_S = 0.02


class Load:
    """Writes everything once, by concurrent clients, through the kill of the leader.

    The last few writes wait until the leader is dead, so that there is always one to show the failover.

    Args:
        writes: What to write, each key once.
        clients: One for each concurrent writer.
    """

    def __init__(self, writes: Sequence[Write], clients: Sequence[KvClient]) -> None:
        self.writes = writes
        # The writes of which a node said that they are done.
        self.acknowledged: list[Write] = []
        # Attempts whose outcome nobody knows. Each was made again: its key is only ever written with this one value.
        self.unknown = 0
        # Half of the writes are acknowledged.
        self.half_done = trio.Event()
        # The leader is dead.
        self.killed = trio.Event()
        # Set when the leader is killed.
        self.failover: Failover | None = None
        self.started_at = math.nan
        self.ended_at = math.nan
        self._clients = clients
        self._half = len(writes) // 2
        self._held_from = max(self._half, len(writes) - len(clients))
        self._next: Iterator[tuple[int, Write]] = iter(enumerate(writes))

    async def run(self) -> None:
        """Write everything. Raises: DemoFailed, ConfigError for a write that the store refuses."""
        self.started_at = trio.current_time()
        self._count()
        async with trio.open_nursery() as nursery:
            for client in self._clients:
                nursery.start_soon(self._write_next_ones, client)
        self.ended_at = trio.current_time()

    def begin_failover(self, failover: Failover) -> None:
        """The leader was killed just now."""
        self.failover = failover
        self.killed.set()

    @property
    def is_running(self) -> bool:
        """Whether writes are being made now."""
        return not math.isnan(self.started_at) and math.isnan(self.ended_at)

    @property
    def elapsed_s(self) -> float:
        """How long writing has taken so far, or took, in seconds."""
        if math.isnan(self.started_at):
            return 0.0
        return (trio.current_time() if math.isnan(self.ended_at) else self.ended_at) - self.started_at

    async def _write_next_ones(self, client: KvClient) -> None:
        # The clients share one iterator: whoever is free takes the next write.
        for number, write in self._next:
            if number >= self._held_from:
                await self.killed.wait()
            with trio.move_on_after(_WRITE_LIMIT_S) as scope:
                await self._write(client, write)
            if scope.cancelled_caught:
                raise DemoFailed(f"{write.origin} is not acknowledged after {_WRITE_LIMIT_S:g} s")

    async def _write(self, client: KvClient, write: Write) -> None:
        while True:
            try:
                result = await client.put(write.key, write.value)
            except OutcomeUnknown:
                self.unknown += 1
                await trio.sleep(_PAUSE_S)
            except InvalidCommand as error:
                raise ConfigError(f"{write.origin}: {error}") from error
            else:
                self.acknowledged.append(write)
                self._count()
                if self.failover is not None:
                    self.failover.acknowledged(trio.current_time(), result.revision)
                return

    def _count(self) -> None:
        if len(self.acknowledged) >= self._half:
            self.half_done.set()
