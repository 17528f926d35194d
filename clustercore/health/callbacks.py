"""Telling others what changed: each in a task and a queue of its own, so that nobody waits for anybody."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import trio

__all__ = ["Listener", "Listeners"]

logger = logging.getLogger("clustercore.health")

T = TypeVar("T")

# News that one listener has not heard yet. Far beyond what a cluster's nodes do in an hour; it bounds the memory that a
# listener which hangs costs.
MAX_WAITING = 10_000


class Listener(Generic[T]):
    """One callback, and the news that wait for it."""

    def __init__(self, callback: Callable[[T], Awaitable[None] | None], *, in_thread: bool) -> None:
        self._callback: Callable[[T], Any] = callback
        self._in_thread = in_thread
        self._send, self._receive = trio.open_memory_channel[T](MAX_WAITING)
        # News that it was never told, because too many were waiting.
        self.missed = 0
        # Calls that raised.
        self.failed = 0

    @property
    def waiting(self) -> int:
        """How many news it has not heard yet."""
        return self._send.statistics().current_buffer_used

    def post(self, news: T) -> None:
        """Queue news. Never blocks."""
        try:
            self._send.send_nowait(news)
        except trio.WouldBlock:
            self.missed += 1
            if self.missed == 1:
                logger.error(
                    "a callback has %d news waiting and hears no more until it returns: %r", MAX_WAITING, self._callback
                )

    def close(self) -> None:
        """Hear of nothing new: what waits is still told."""
        self._send.close()

    async def run(self) -> None:
        """Call back for one after the other, until cancelled. What it raises is logged, and changes nothing."""
        async for news in self._receive:
            try:
                if self._in_thread:
                    await trio.to_thread.run_sync(self._callback, news)
                else:
                    answer = self._callback(news)
                    if inspect.isawaitable(answer):
                        await answer
            except Exception:
                self.failed += 1
                logger.exception("a callback raised; it is called again for the next change: %r", self._callback)


class Listeners(Generic[T]):
    """All who want to hear of one kind of news."""

    def __init__(self) -> None:
        self._listeners: list[Listener[T]] = []
        self._nursery: trio.Nursery | None = None

    def add(self, callback: Callable[[T], Awaitable[None] | None], *, in_thread: bool = False) -> Callable[[], None]:
        """Call back for all news from now on. Returns what ends that."""
        listener = Listener(callback, in_thread=in_thread)
        self._listeners.append(listener)
        if self._nursery is not None:
            self._nursery.start_soon(listener.run)

        def remove() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)
                listener.close()

        return remove

    def start(self, nursery: trio.Nursery) -> None:
        """Run the callbacks in a nursery, until it is cancelled."""
        self._nursery = nursery
        for listener in self._listeners:
            nursery.start_soon(listener.run)

    def post(self, news: T) -> None:
        """Tell everybody. Never blocks."""
        for listener in self._listeners:
            listener.post(news)

    def snapshot(self) -> list[dict[str, int]]:
        """Return numbers for each, in the order in which they were added."""
        return [{"waiting": each.waiting, "missed": each.missed, "failed": each.failed} for each in self._listeners]
