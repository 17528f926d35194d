"""Watches: the newest changes of the store, kept within bounds, and readers that follow them.

The changes are held once, for all watchers. A watcher is a prefix and a position, the revision up to which it has been
told; it reads on from there at its own pace and owns no memory. One whose position is no longer held fell behind, and
is told so. It is the same whether it was slow, asked for a revision of long ago, or a snapshot replaced the state.

A revision names at most one change, so a position means the same on every node.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from operator import attrgetter

import attrs
import trio

from clustercore_kv.errors import WatchFellBehind
from clustercore_kv.values import KvEvent

__all__ = ["EventBatch", "History", "Watcher"]

# A batch becomes one message of a stream: large enough to be cheap, small enough to be sent at once.
_MAX_BATCH_EVENTS = 256
_MAX_BATCH_BYTES = 1024 * 1024
# Looking for a rare prefix in a long history lets other tasks run after each so many events, about 0.2 ms.
_MAX_EXAMINED_EVENTS = 1024
# What holding an event costs beside its key and value.
_EVENT_OVERHEAD_BYTES = 64

_revision_of = attrgetter("revision")


@attrs.frozen
class EventBatch:
    """What a watcher is told at once."""

    # In order; none when only the revision is told.
    events: tuple[KvEvent, ...]
    # Every change up to and including this one has been told.
    revision: int


class History:
    """The newest changes, at most ``max_events`` and ``max_bytes`` of them, and whoever waits for the next."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: deque[KvEvent] = deque()
        self._bytes = 0
        # Every change after this revision is in _events, and none up to it.
        self.oldest_revision = 0
        # The last change there was. At least oldest_revision.
        self.revision = 0
        # In the order in which they began to wait; a dict, because it keeps that order.
        self._waiting: dict[Watcher, None] = {}

    def append(self, event: KvEvent) -> None:
        """Add the newest change, forgetting the oldest ones, and wake the watchers it concerns."""
        self._events.append(event)
        self._bytes += _size_of(event)
        self.revision = event.revision
        while len(self._events) > self._max_events or self._bytes > self._max_bytes:
            forgotten = self._events.popleft()
            self._bytes -= _size_of(forgotten)
            self.oldest_revision = forgotten.revision
        if self._waiting:
            for watcher in list(self._waiting):
                watcher.notice(event)

    def reset(self, revision: int) -> None:
        """Forget everything: the state is now a snapshot whose last change is ``revision``."""
        self._events.clear()
        self._bytes = 0
        self.oldest_revision = self.revision = revision
        for watcher in list(self._waiting):
            watcher.wake()

    def watch(self, prefix: str, after_revision: int | None) -> Watcher:
        """Return a watcher of the keys with ``prefix``, from after a revision, or from now."""
        return Watcher(self, prefix, self.revision if after_revision is None else after_revision)

    def read(self, prefix: str, after_revision: int) -> EventBatch:
        """Return the next events with ``prefix``; the batch's revision says how far it looked."""
        first = bisect_right(self._events, after_revision, key=_revision_of)
        told, room = after_revision, _MAX_BATCH_BYTES
        found: list[KvEvent] = []
        # By position: slicing a deque walks to it from the start, for each watcher and change.
        for position in range(first, min(first + _MAX_EXAMINED_EVENTS, len(self._events))):
            event = self._events[position]
            if event.key.startswith(prefix):
                room -= _size_of(event)
                if found and (len(found) == _MAX_BATCH_EVENTS or room < 0):
                    break
                found.append(event)
            told = event.revision
        return EventBatch(tuple(found), told)

    def may_forget_soon(self, revision: int) -> bool:
        """Tell whether half of what can be held has passed since ``revision``, or more."""
        return self.revision - revision > self._max_events // 2 or revision < self.oldest_revision

    def add_waiting(self, watcher: Watcher) -> None:
        """Let ``append`` and ``reset`` tell this watcher."""
        self._waiting[watcher] = None

    def remove_waiting(self, watcher: Watcher) -> None:
        """Undo ``add_waiting``, if it was done."""
        self._waiting.pop(watcher, None)


class Watcher:
    """Follows the changes of the keys with one prefix. It needs no closing; one task at a time uses it."""

    def __init__(self, history: History, prefix: str, revision: int) -> None:
        self._history = history
        self._prefix = prefix
        # Every change up to and including this one has been told, or does not concern this watcher.
        self.revision = revision
        # The revision of the last batch: where this watch would go on at another node.
        self._last_told = revision
        self._woken = trio.Event()

    async def receive(self) -> EventBatch:
        """Wait for the next changes.

        Returns: Events, in order. Or none, with only a revision, when so much else has changed that a watch which
            was cut off here could not go on from where it was told last.

        Cancellation: nothing is lost.
        Raises: WatchFellBehind if changes may have been missed; and from then on.
        """
        await trio.lowlevel.checkpoint()
        while True:
            self.check_held()
            batch = self._history.read(self._prefix, self.revision)
            self.revision = batch.revision
            if batch.events or self._history.may_forget_soon(self._last_told):
                self._last_told = batch.revision
                return batch
            if batch.revision >= self._history.revision:
                await self._wait()
            else:
                await trio.lowlevel.checkpoint()

    def check_held(self) -> None:
        """Check that nothing was missed yet. Raises: WatchFellBehind."""
        if self.revision < self._history.oldest_revision:
            raise WatchFellBehind(self.revision, self._history.oldest_revision)

    def notice(self, event: KvEvent) -> None:
        """Take note of a change while waiting: wake up if it concerns this watcher. Called by the history."""
        if event.revision <= self.revision:
            return
        if event.key.startswith(self._prefix):
            self.wake()
            return
        self.revision = event.revision
        if self._history.may_forget_soon(self._last_told):
            self.wake()

    def wake(self) -> None:
        """End the wait. Called by the history."""
        self._history.remove_waiting(self)
        self._woken.set()

    async def _wait(self) -> None:
        """Wait until a change concerns this watcher, or the history was reset."""
        self._woken = trio.Event()
        self._history.add_waiting(self)
        try:
            await self._woken.wait()
        finally:
            self._history.remove_waiting(self)


def _size_of(event: KvEvent) -> int:
    return len(event.key) + len(event.value or b"") + _EVENT_OVERHEAD_BYTES
