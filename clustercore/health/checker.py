"""HealthChecker: asks each node again and again, and says who is well."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from types import TracebackType
from typing import Any, Self

import attrs
import trio

from clustercore.health.callbacks import Listeners
from clustercore.health.config import HealthConfig
from clustercore.health.failures import failure_of
from clustercore.health.history import History
from clustercore.health.monitored import Monitored
from clustercore.health.own_score import OwnScore, Sign
from clustercore.health.probes import make_probe
from clustercore.health.schedule import Schedule
from clustercore.interfaces.groups import background_tasks
from clustercore.interfaces.health import CheckOutcome, CheckResult, HealthStatus, Probe, StatusChange
from clustercore.interfaces.retry_values import ErrorCategory
from clustercore.interfaces.transport import ServiceTransport
from clustercore.raft.types import NodeId

__all__ = ["HealthChecker"]

logger = logging.getLogger("clustercore.health")

OnStatusChange = Callable[[NodeId, HealthStatus, HealthStatus], Awaitable[None] | None]
OnChange = Callable[[StatusChange], Awaitable[None] | None]


class HealthChecker:
    """Checks nodes, and tells who changed.

    Use it as an async context manager, once: all its tasks live in the block and end with it. Everything else is called
    inside, from the block's own event loop, also by its callbacks. A block that is left or cancelled in the middle of a
    check has learned nothing from it.

    A node that stops to answer is unhealthy after ``config.worst_case_detection_s`` at the latest, unless the
    checker is over its own limits (``max_concurrent_checks``, ``max_checks_per_s``) or finds that it is itself not well
    (``own_score``): then timeouts are longer.
    """

    def __init__(
        self,
        config: HealthConfig | None = None,
        *,
        transport: ServiceTransport | None = None,
        rng: Random | None = None,
    ) -> None:
        """Prepare a checker; entering its block starts it.

        Args:
            config: Times and thresholds.
            transport: What gRPC health checks go over, entered by the caller; without one, ``start_monitoring_node``
                knows no such endpoints.
            rng: Where stagger and jitter come from; hand in a seeded one for a run that can be repeated.
        """
        self.config = config if config is not None else HealthConfig()
        # How far the checker trusts itself.
        self.own_score = OwnScore()
        # Called at once for each change, before anybody else hears of it: for what must know first. Must not raise.
        self.first_hooks: list[Callable[[StatusChange], None]] = []
        self._transport = transport
        self._schedule = Schedule(self.config, rng if rng is not None else Random())
        self._nodes: dict[NodeId, Monitored] = {}
        self._listeners: Listeners[StatusChange] = Listeners()
        # Nodes whose check is due and waits for its turn.
        self._queue: deque[Monitored] = deque()
        self._running = 0
        self._tokens = 1.0
        self._tokens_at = -math.inf
        self._woken = trio.Event()
        self._round_ends = math.inf
        self._nursery: trio.Nursery | None = None
        self._lifetime = self._live()
        self._was_entered = False
        # Ticks that were skipped because the check before had not ended, or the checker was held up.
        self._skipped = 0

    # --- Life ---

    async def __aenter__(self) -> Self:
        """Start."""
        if self._was_entered:
            raise RuntimeError("a HealthChecker is entered once; make a new one to start it again")
        self._was_entered = True
        await self._lifetime.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Stop all checks and callbacks; changes that a callback has not heard of yet are not told any more."""
        return await self._lifetime.__aexit__(exc_type, exc, traceback)

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        async with background_tasks() as nursery:
            now = trio.current_time()
            self._tokens_at, self._round_ends = now, now + self.config.check_interval
            self._listeners.start(nursery)
            nursery.start_soon(self._run, nursery)
            self._nursery = nursery
            try:
                yield
            finally:
                self._nursery = None

    # --- Which nodes ---

    def start_monitoring_node(self, node_id: str, address: str, port: int, health_endpoint: str = "tcp") -> None:
        """Check a node from now on, the first time within one interval.

        Args:
            node_id: The node's name.
            address: Its host: a name or an IP address.
            port: Its port.
            health_endpoint: What to ask there: "tcp": does it accept a connection; "/path": HTTP GET, and is the
                answer 2xx (429 is a warning); "grpc", or "grpc:name.of.Service": the grpc.health.v1 protocol, by Watch
                and by Check.

        Raises: ConfigError for another endpoint, or a gRPC one without a transport.
        """
        self.start_monitoring(node_id, make_probe(address, port, health_endpoint, self._transport))

    def start_monitoring(self, node_id: str, probe: Probe) -> None:
        """Check a node with a probe from now on, the first time within one interval.

        A node that is monitored already keeps its status and history, and is asked by the new probe.
        """
        nursery = self._running_nursery()
        node_id = NodeId(node_id)
        before = self._nodes.pop(node_id, None)
        if before is not None:
            before.stop()
            node = before.with_probe(probe)
        else:
            node = Monitored(node_id, probe, self.config, now=trio.current_time())
        self._nodes[node_id] = node
        if not node.is_paused:
            self._begin(node, nursery)

    def stop_monitoring_node(self, node_id: str) -> None:
        """Check a node no more, and forget what is known of it. A check under way is given up at once. Idempotent."""
        node = self._nodes.pop(NodeId(node_id), None)
        if node is not None:
            self._halt(node)

    def pause_node(self, node_id: str) -> None:
        """Check a node no more until ``resume_node``. A check under way is given up at once; the status stays.

        Raises: KeyError if it is not monitored.
        """
        node = self._nodes[NodeId(node_id)]
        if not node.is_paused:
            self._halt(node)
            self._nodes[node.node_id] = node.with_probe(node.probe, is_paused=True)

    def resume_node(self, node_id: str) -> None:
        """Check a paused node again. Raises: KeyError if it is not monitored."""
        node = self._nodes[NodeId(node_id)]
        if node.is_paused:
            node.is_paused = False
            self._begin(node, self._running_nursery())

    def set_maintenance(self, node_id: str, is_on: bool) -> None:
        """Take a node for one in maintenance, whatever its checks say, or no more. They go on, and are kept.

        Raises: KeyError if it is not monitored.
        """
        node = self._nodes[NodeId(node_id)]
        before = node.status
        node.is_in_maintenance = is_on
        self._tell_change(node, before, "an operator said so", None)

    def check_soon(self, node_id: str) -> None:
        """Check a node now, and at its rate from now on. Raises: KeyError if it is not monitored."""
        node = self._nodes[NodeId(node_id)]
        if not node.is_paused:
            self._schedule.hurry(node.node_id, trio.current_time())
            self._wake()

    # --- What is known ---

    @property
    def monitored(self) -> tuple[NodeId, ...]:
        """The nodes that are monitored, sorted."""
        return tuple(sorted(self._nodes))

    def status(self, node_id: str) -> HealthStatus:
        """Return what a node is taken for; UNKNOWN also for one that is not monitored."""
        node = self._nodes.get(NodeId(node_id))
        return HealthStatus.UNKNOWN if node is None else node.status

    def node(self, node_id: str) -> Monitored | None:
        """Return all that is known of a node; None if it is not monitored."""
        return self._nodes.get(NodeId(node_id))

    def history(self, node_id: str) -> History:
        """Return a node's last checks and changes. Raises: KeyError if it is not monitored."""
        return self._nodes[NodeId(node_id)].history

    def is_routable(self, node_id: str) -> bool:
        """Whether a node should get work: it is not unhealthy or in maintenance, nor held back because it flaps.

        Of a node that is unknown, or not monitored, nothing speaks against it.
        """
        node = self._nodes.get(NodeId(node_id))
        return node is None or node.is_routable(trio.current_time())

    def snapshot(self, *, with_history: bool = False) -> dict[str, Any]:
        """Return everything as what JSON can hold: numbers in seconds, times as ages."""
        now = trio.current_time()
        return {
            "config": attrs.asdict(self.config),
            "own_score": self.own_score.score,
            "own_signs": sorted(self.own_score.signs),
            "skipped_checks": self._skipped,
            "callbacks": self._listeners.snapshot(),
            "nodes": {node_id: self._nodes[node_id].snapshot(now, with_history) for node_id in self.monitored},
        }

    # --- Who wants to know ---

    def on_status_change(self, callback: OnStatusChange, *, in_thread: bool = False) -> Callable[[], None]:
        """Call ``callback(node_id, old, new)`` for each change from now on; return what ends that.

        Exactly once for each change, those of a node in their order. Each callback has a queue of 10,000 changes and a
        task of its own: one that is slow, or raises, delays neither checks nor other callbacks; what it raises is
        logged. One that lets its queue run full misses changes: that is logged, and counted in ``snapshot``.

        Args:
            callback: Plain or async. A plain one runs on the event loop, as all of Trio does: it must not block.
            in_thread: Run a plain one in a worker thread instead, where it may. Leaving the block waits for it.
        """
        return self.subscribe(lambda change: callback(change.node_id, change.old, change.new), in_thread=in_thread)

    def subscribe(self, callback: OnChange, *, in_thread: bool = False) -> Callable[[], None]:
        """As ``on_status_change``, with all that is known of a change."""
        return self._listeners.add(callback, in_thread=in_thread)

    # --- The one task that says what is next ---

    async def _run(self, nursery: trio.Nursery) -> None:
        while True:
            now = trio.current_time()
            if now >= self._round_ends:
                self._end_round(now)
            while (due := self._schedule.pop_due(now)) is not None:
                self._enqueue(*due, now)
            next_token = self._start_queued(now, nursery)
            deadline = min(self._schedule.next_due, self._round_ends, next_token)
            with trio.CancelScope(deadline=deadline) as timer:
                await self._woken.wait()
            if timer.cancelled_caught:
                if trio.current_time() - deadline > self.config.timeout / 2:
                    self.own_score.note(Sign.LOOP_LAG)
            else:
                self._woken = trio.Event()

    def _wake(self) -> None:
        self._woken.set()

    def _end_round(self, now: float) -> None:
        interval = self.config.check_interval
        self._round_ends += interval * (1 + math.floor((now - self._round_ends) / interval))
        nodes = list(self._nodes.values())
        if nodes and not any(node.was_checked for node in nodes):
            # Nothing was learned, for or against.
            return
        outcomes = [node.last_outcome for node in nodes if node.last_outcome is not None]
        if len(outcomes) > 1 and all(outcome is CheckOutcome.FAIL for outcome in outcomes):
            self.own_score.note(Sign.ALL_FAIL)
        for node in nodes:
            node.was_checked = False
        before = self.own_score.score
        self.own_score.end_round()
        if self.own_score.score > before:
            logger.warning(
                "the checker doubts itself (%s): its score is %d",
                ", ".join(sorted(self.own_score.signs)),
                self.own_score.score,
            )

    def _enqueue(self, node_id: NodeId, due: float, now: float) -> None:
        node = self._nodes[node_id]
        node.last_interval = node.interval()
        skipped = self._schedule.again(node_id, due, now, node.last_interval)
        if node.is_busy:
            skipped += 1
        else:
            node.is_busy = True
            self._queue.append(node)
        self._skipped += skipped

    def _start_queued(self, now: float, nursery: trio.Nursery) -> float:
        """Begin what may begin now; return when more may, if it waits for nothing but time."""
        if not self._queue:
            return math.inf
        rate = self.config.max_checks_per_s
        # Unused turns are kept for a tenth of a second, so that checks that fall together may begin together.
        self._tokens = min(max(rate / 10, 1.0), self._tokens + (now - self._tokens_at) * rate)
        self._tokens_at = now
        while self._queue and self._running < self.config.max_concurrent_checks:
            # Less a rounding error: a wait that is too short to move the clock would never end.
            if self._tokens < 1 - 1e-6:
                return now + (1 - self._tokens) / rate
            node = self._queue.popleft()
            if node.is_stopped:
                continue
            self._tokens -= 1
            self._running += 1
            timeout = min(self.config.timeout * self.own_score.timeout_factor, self.config.check_interval)
            node.scope = trio.CancelScope(deadline=now + timeout)
            nursery.start_soon(self._check, node, node.scope, timeout, now)
        return math.inf

    # --- One check ---

    async def _check(self, node: Monitored, scope: trio.CancelScope, timeout_s: float, began: float) -> None:
        result: CheckResult | None = None
        try:
            with scope:
                result = await node.probe.check()
        except Exception as error:  # noqa: BLE001  # a probe may raise what it will: that is a failed check, and is kept
            result = failure_of(error)
        finally:
            self._running -= 1
            node.is_busy = False
            if self._queue:
                self._wake()
        if node.is_stopped:
            return
        now = trio.current_time()
        latency = now - began
        if result is None:
            result = CheckResult(CheckOutcome.FAIL, f"no answer within {timeout_s:g} s", ErrorCategory.TIMEOUT_ERROR)
            latency = max(latency, timeout_s)
        self._take(node, result, now, latency)
        if node.last_interval > self.config.check_interval and not node.is_backing_off:
            # It is not as dead as it seemed: no need to wait as long as was thought.
            self._schedule.hurry(node.node_id, max(now, began + self.config.check_interval))
            self._wake()

    async def _watch(self, node: Monitored) -> None:
        with node.watch_scope:
            try:
                await node.probe.watch(lambda result: self._take_reported(node, result))
            except Exception:
                logger.exception("watching node %s failed; it is still checked every interval", node.node_id)

    def _take_reported(self, node: Monitored, result: CheckResult) -> None:
        if not node.is_stopped:
            self._take(node, result, trio.current_time(), 0.0, is_reported=True)

    def _take(
        self, node: Monitored, result: CheckResult, now: float, latency: float, *, is_reported: bool = False
    ) -> None:
        before = node.status
        reason = node.take(result, now, latency, is_reported=is_reported)
        if reason is not None:
            self._tell_change(node, before, reason, result)

    def _tell_change(self, node: Monitored, before: HealthStatus, reason: str, result: CheckResult | None) -> None:
        change = node.changed(before, reason, trio.current_time(), result)
        if change is None:
            return
        logger.info("node %s: %s, was %s: %s", change.node_id, change.new, change.old, reason)
        for hook in self.first_hooks:
            hook(change)
        self._listeners.post(change)

    # --- Helpers ---

    def _begin(self, node: Monitored, nursery: trio.Nursery) -> None:
        self._schedule.begin(node.node_id, trio.current_time())
        nursery.start_soon(self._watch, node)
        self._wake()

    def _halt(self, node: Monitored) -> None:
        node.stop()
        self._schedule.end(node.node_id)
        self._wake()

    def _running_nursery(self) -> trio.Nursery:
        if self._nursery is None:
            raise RuntimeError("the HealthChecker is not running; use it inside its `async with` block")
        return self._nursery
