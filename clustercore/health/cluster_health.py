"""ClusterHealth: the checker tied to discovery. Who is registered is monitored; who is not well gets no work.

An unhealthy node leaves the *view*, which says who should get work, at once. It is taken out of discovery, where others
look, only by the leader, only after it has been unhealthy for ``deregister_after_s`` without a break, and only if no
guard (``guards``) stands in the way. Its registration is kept here, and given back when the node is well again. Who
belongs to the cluster is Raft's alone: nothing here changes it.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from enum import StrEnum
from random import Random
from typing import Any

import attrs
import trio

from clustercore.health.callbacks import Listeners
from clustercore.health.checker import HealthChecker
from clustercore.health.config import HealthConfig
from clustercore.health.guards import Facts, Guard, blocking_guard, is_panic
from clustercore.health.indirect import IndirectProbe, peer_service
from clustercore.health.node_probe import NodeProbe
from clustercore.health.own_score import Sign
from clustercore.interfaces.companion import NodeCompanion, NodeSite
from clustercore.interfaces.discovery import Discovery, DiscoverySnapshot, Member
from clustercore.interfaces.errors import ClusterError, NodeStopped
from clustercore.interfaces.health import CheckOutcome, CheckResult, HealthStatus, Probe, StatusChange
from clustercore.interfaces.node import NodeHandle
from clustercore.interfaces.transport import Service, ServiceTransport
from clustercore.interfaces.values import NodeStatus
from clustercore.raft.types import NodeId, Term
from clustercore.runtime.signals import Newest

__all__ = ["ClusterHealth", "HealthEvent", "HealthEventKind"]

logger = logging.getLogger("clustercore.health")

# How many events are kept.
_EVENTS = 100
# How long discovery may take to register or deregister a node. A source that does not answer is waited for without end,
# and who leads by then may be another; it is tried again in the next interval.
_DISCOVERY_LIMIT_S = 10.0


class HealthEventKind(StrEnum):
    """What was done, or not done, about a node that is not well."""

    DEREGISTERED = "deregistered"
    REGISTERED = "registered again"
    # A guard kept it registered.
    BLOCKED = "deregistration blocked"
    # Discovery did not answer in time, or refused.
    FAILED = "discovery failed"
    # The member has been unhealthy for long. Nothing is done: an operator decides.
    REPLACEMENT_SUGGESTED = "replacement suggested"


@attrs.frozen
class HealthEvent:
    """Something was done, or not done, about a node."""

    kind: HealthEventKind
    node_id: NodeId
    # When, on Trio's clock; and in which term, if this node leads.
    at: float
    term: Term | None
    # Which guard stood in the way, if one did.
    guard: Guard | None = None
    detail: str = ""


class ClusterHealth(NodeCompanion):
    """Monitors the nodes that discovery knows, and keeps those that are not well out of the way.

    Runs beside a node: ``Node(..., discovery=discovery, companions=[ClusterHealth(discovery)])``. Callbacks of
    ``checker`` and of ``on_event`` may be added before the node starts. Used once, as the node is.
    """

    def __init__(
        self,
        discovery: Discovery,
        config: HealthConfig | None = None,
        *,
        probe: Callable[[Member], Probe] | None = None,
        guards: Container[Guard] = frozenset(Guard),
        rng: Random | None = None,
    ) -> None:
        """Prepare; the node runs it.

        Args:
            discovery: The node's own, which it enters and leaves.
            config: Times, thresholds and limits.
            probe: Makes the probe of a member; by default it is asked for its status over the node's transport.
            guards: Those that count. By default all do; leave one out only if you know better.
            rng: For the checker, and to draw whom to ask about a node.
        """
        self.config = config if config is not None else HealthConfig()
        self._rng = rng if rng is not None else Random()
        # Who is well. Add callbacks here; nodes come and go with discovery.
        self.checker = HealthChecker(self.config, rng=self._rng)
        self.checker.first_hooks.append(self._note_change)
        self._discovery = discovery
        self._probe = probe
        self._guards = guards
        self._listeners: Listeners[HealthEvent] = Listeners()
        self._events: deque[HealthEvent] = deque(maxlen=_EVENTS)
        self._site: NodeSite | None = None
        self._snapshot: DiscoverySnapshot | None = None
        # The last registration of each node that is monitored.
        self._kept: dict[NodeId, Member] = {}
        # The members of the cluster, as this node knew them when it last looked.
        self._members: frozenset[NodeId] = frozenset()
        # Those that this node took out, and since when each that it did not has been registered, on Trio's clock.
        self._out: set[NodeId] = set()
        self._registered_since: dict[NodeId, float] = {}
        # When each node last turned unhealthy, and until when those that did so with most others stay registered.
        self._fell_at: dict[NodeId, float] = {}
        self._cliff_until: dict[NodeId, float] = {}
        # What was said already: who is blocked by which guard, for whom discovery failed, who should be replaced.
        self._blocked_by: dict[NodeId, Guard] = {}
        self._failed: set[NodeId] = set()
        self._suggested: set[NodeId] = set()
        self._leading_term: Term | None = None
        # Around what is done at discovery: ends when this node leads no more.
        self._lease = trio.CancelScope()
        self._woken = trio.Event()
        self._view: Newest[tuple[Member, ...]] = Newest(())

    # --- What is known ---

    @property
    def view(self) -> tuple[Member, ...]:
        """Who should get work: those in service that are not unhealthy, in maintenance or held for flapping.

        Sorted by id; this node is among them if it is registered. If less than ``panic_share`` of the nodes are healthy
        it is everybody in service: then the checker is more likely wrong than they are.
        """
        return self._view.value

    def views(self) -> AsyncIterator[tuple[Member, ...]]:
        """Iterate over the view: as it is now, and then each time the newest. It never ends by itself.

        Whoever is slow misses those between. Cancellation: nothing is lost; the next step returns the newest.
        """
        return aiter(self._view)

    async def view_changed(self, since: tuple[Member, ...]) -> tuple[Member, ...]:
        """Wait until the view is another than ``since``, and return it. Cancellation: nothing is lost."""
        await trio.lowlevel.checkpoint()
        while self._view.value == since:
            await self._view.changed()
        return self._view.value

    @property
    def events(self) -> tuple[HealthEvent, ...]:
        """The last hundred events, oldest first."""
        return tuple(self._events)

    def on_event(self, callback: Callable[[HealthEvent], Awaitable[None] | None]) -> Callable[[], None]:
        """Call back for each event from now on, as ``HealthChecker.on_status_change`` does; return what ends that."""
        return self._listeners.add(callback)

    def snapshot(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        now = trio.current_time()
        events = [
            {
                "kind": event.kind,
                "node_id": event.node_id,
                "ago_s": now - event.at,
                "term": event.term,
                "guard": event.guard,
                "detail": event.detail,
            }
            for event in self._events
        ]
        view = [member.node_id for member in self._view.value]
        return self.checker.snapshot() | {"view": view, "out": sorted(self._out), "events": events}

    # --- Life ---

    def services(self, node: NodeHandle) -> Sequence[Service]:
        """Return what other nodes ask to have a node looked at."""
        return [peer_service(self._look_for_another, limit_s=self.config.timeout / 2)]

    async def run(self, site: NodeSite) -> None:
        """Monitor until cancelled."""
        self._site = site
        async with self.checker, trio.open_nursery() as nursery:
            self._listeners.start(nursery)
            nursery.start_soon(self._follow_discovery)
            nursery.start_soon(self._hold_lease, site)
            try:
                await self._act()
            except NodeStopped:
                # It is leaving its block. This is cancelled soon; until then there is nothing to do.
                nursery.cancel_scope.cancel()

    async def _follow_discovery(self) -> None:
        async for snapshot in self._discovery.watch():
            self._take_snapshot(snapshot)
            self._wake()

    async def _hold_lease(self, site: NodeSite) -> None:
        while True:
            try:
                async with site.node.leading() as term:
                    self._leading_term = term
                    self._wake()
                    try:
                        await trio.sleep_forever()
                    finally:
                        self._leading_term = None
                        self._lease.cancel()
                        self._wake()
            except NodeStopped:
                return

    def _wake(self) -> None:
        self._woken.set()

    # --- Who is monitored ---

    def _take_snapshot(self, snapshot: DiscoverySnapshot) -> None:
        now = trio.current_time()
        self._snapshot = snapshot
        in_service = {member.node_id for member in snapshot.in_service}
        # One that is withdrawn, and not from here, is one that its source itself finds unwell: it is registered.
        registered = in_service | {member.node_id for member in snapshot.members if member.node_id not in self._out}
        self._registered_since = {node_id: self._registered_since.get(node_id, now) for node_id in registered}
        self._update_view(now)
        # Somebody, perhaps the node itself, has registered it.
        self._out -= in_service
        for member in snapshot.members:
            known = self._kept.get(member.node_id)
            self._kept[member.node_id] = member
            if member.node_id != self._own_id and (known is None or known.address != member.address):
                self.checker.start_monitoring(member.node_id, self._make_probe(member))

    def _forget_strangers(self, status: NodeStatus) -> None:
        """Monitor nobody who is neither registered nor a member, unless it was taken out here."""
        assert self._snapshot is not None
        told = {member.node_id for member in self._snapshot.members}
        was_member = self._members
        self._members = status.configuration.members
        # Whoever was a member, and is none any more, was removed for good.
        self._out -= was_member - self._members
        for node_id in list(self._kept):
            if node_id not in told and node_id not in self._members and node_id not in self._out:
                del self._kept[node_id]
                self.checker.stop_monitoring_node(node_id)
                for known in (self._fell_at, self._cliff_until, self._blocked_by):
                    known.pop(node_id, None)
                self._failed.discard(node_id)
                self._suggested.discard(node_id)

    def _make_probe(self, member: Member) -> Probe:
        if self._probe is not None:
            return self._probe(member)
        transport = self._running_site.transport
        direct = NodeProbe(transport, member.address, member.node_id)
        if not self.config.indirect_probes or not isinstance(transport, ServiceTransport):
            return direct
        return IndirectProbe(
            direct,
            member.node_id,
            transport=transport,
            helpers=self._helpers,
            direct_s=self.config.timeout / 2,
        )

    def _helpers(self, node_id: NodeId) -> Sequence[tuple[NodeId, str]]:
        """Draw who is asked to look at a node: others that are well, as far as is known."""
        now = trio.current_time()
        well = sorted(self._well(now) - {self._own_id, node_id})
        drawn = self._rng.sample(well, min(self.config.indirect_probes, len(well)))
        return [(helper, self._kept[helper].address) for helper in drawn if helper in self._kept]

    async def _look_for_another(self, node_id: NodeId) -> CheckResult:
        """Look at a node once, because another node asks."""
        member = self._kept.get(node_id)
        if member is None or self._site is None:
            return CheckResult(CheckOutcome.UNKNOWN, f"there is no node {node_id!r} here")
        return await NodeProbe(self._site.transport, member.address, node_id).check()

    # --- What is done ---

    async def _act(self) -> None:
        while True:
            now = trio.current_time()
            wake_at = math.inf
            if self._snapshot is not None:
                if self._snapshot.is_stale:
                    self.checker.own_score.note(Sign.DISCOVERY)
                    wake_at = now + self.config.check_interval
                self._forget_strangers(self._running_site.node.status())
                self._update_view(now)
                for node_id in self.checker.monitored:
                    wake_at = min(wake_at, await self._look_after(node_id))
            with trio.CancelScope(deadline=wake_at):
                await self._woken.wait()
            self._woken = trio.Event()

    async def _look_after(self, node_id: NodeId) -> float:
        """Do what is to be done about a node; return when to look again, if nothing happens before."""
        now = trio.current_time()
        node, member = self.checker.node(node_id), self._kept.get(node_id)
        if node is None or member is None:
            return math.inf
        unhealthy_s = node.unhealthy_for(now)
        if unhealthy_s is None:
            self._blocked_by.pop(node_id, None)
            self._suggested.discard(node_id)
            if node.is_well(now) and self._is_missed(node_id):
                return await self._register(member)
            return node.held_until if node.held_until > now else math.inf
        wake_at = self._suggest_replacement(node_id, unhealthy_s, now)
        since = self._registered_since.get(node_id)
        if since is None:
            return wake_at
        left_s = self.config.deregister_after_s - min(unhealthy_s, now - since)
        if left_s > 0:
            return min(wake_at, now + left_s)
        return min(wake_at, await self._deregister(node_id, now))

    def _is_missed(self, node_id: NodeId) -> bool:
        """Whether discovery should know a node, and does not."""
        assert self._snapshot is not None
        if self._leading_term is None:
            return False
        is_unknown = self._snapshot.get(node_id) is None
        return node_id in self._out or (is_unknown and node_id in self._members)

    async def _register(self, member: Member) -> float:
        if await self._at_discovery(member.node_id, lambda: self._discovery.register(member)):
            self._out.discard(member.node_id)
            self._tell(HealthEventKind.REGISTERED, member.node_id, detail=f"at {member.address}, as before")
            return math.inf
        return trio.current_time() + self.config.check_interval

    async def _deregister(self, node_id: NodeId, now: float) -> float:
        guard = blocking_guard(self._facts(node_id, now), self.config, self._guards)
        if guard is not None:
            if self._blocked_by.get(node_id) is not guard:
                self._blocked_by[node_id] = guard
                self._tell(HealthEventKind.BLOCKED, node_id, guard=guard)
            return now + self.config.check_interval
        # Before it is asked for: what the node registers meanwhile must not be forgotten with it.
        self._out.add(node_id)
        if await self._at_discovery(node_id, lambda: self._discovery.deregister(node_id)):
            self._blocked_by.pop(node_id, None)
            self._tell(HealthEventKind.DEREGISTERED, node_id, detail="it was unhealthy for too long")
            return math.inf
        # It may be done all the same. If not, and the node is well again, it is registered once more: that is harmless.
        return trio.current_time() + self.config.check_interval

    async def _at_discovery(self, node_id: NodeId, work: Callable[[], Awaitable[None]]) -> bool:
        """Do something at discovery while this node leads; return whether it is done."""
        with trio.move_on_after(_DISCOVERY_LIMIT_S) as self._lease:
            if self._leading_term is None and Guard.NOT_LEADER in self._guards:
                return False
            try:
                await work()
            except ClusterError as error:
                self._tell_failed(node_id, str(error))
                return False
            self._failed.discard(node_id)
            return True
        if self._leading_term is not None:
            self.checker.own_score.note(Sign.DISCOVERY)
            self._tell_failed(node_id, f"no answer within {_DISCOVERY_LIMIT_S:g} s")
        return False

    def _tell_failed(self, node_id: NodeId, detail: str) -> None:
        """Tell that discovery did not do what was asked for a node: once, until it does."""
        if node_id not in self._failed:
            self._failed.add(node_id)
            self._tell(HealthEventKind.FAILED, node_id, detail=detail)

    def _suggest_replacement(self, node_id: NodeId, unhealthy_s: float, now: float) -> float:
        left_s = self.config.suggest_replacement_after_s - unhealthy_s
        if left_s > 0:
            return now + left_s
        if self._leading_term is not None and node_id in self._members and node_id not in self._suggested:
            self._suggested.add(node_id)
            self._tell(
                HealthEventKind.REPLACEMENT_SUGGESTED,
                node_id,
                detail=f"unhealthy for {unhealthy_s:.0f} s; nothing is changed unless an operator does",
            )
        return math.inf

    # --- Facts ---

    def _note_change(self, change: StatusChange) -> None:
        """Note who turned unhealthy, and with whom: called before anybody else hears of it."""
        now, node_id = change.at, change.node_id
        if change.new is HealthStatus.UNHEALTHY:
            self._fell_at[node_id] = now
            interval = self.config.check_interval * (1 + self.config.jitter)
            fell = {each for each, at in self._fell_at.items() if at >= now - interval}
            if len(fell) > self.config.cliff_share * (len(self.checker.monitored) + 1):
                for each in fell:
                    self._cliff_until[each] = now + self.config.cliff_hold_s
        elif change.new is not HealthStatus.MAINTENANCE:
            self._fell_at.pop(node_id, None)
            self._cliff_until.pop(node_id, None)
        # At once: what is done at discovery may take its time.
        self._update_view(now)
        self._wake()

    def _well(self, now: float) -> frozenset[NodeId]:
        """Return this node, and the others that are known to be well."""
        nodes = ((node_id, self.checker.node(node_id)) for node_id in self.checker.monitored)
        return frozenset(
            {self._own_id, *(node_id for node_id, node in nodes if node is not None and node.is_well(now))}
        )

    def _facts(self, node_id: NodeId, now: float) -> Facts:
        status = self._running_site.node.status()
        return Facts(
            node_id=node_id,
            own_id=self._own_id,
            leading_term=self._leading_term,
            highest_term=status.term,
            is_frozen=self.checker.own_score.is_frozen,
            fell_in_cliff=self._cliff_until.get(node_id, -math.inf) > now,
            nodes=frozenset({self._own_id, *self.checker.monitored}),
            well=self._well(now),
            in_service=frozenset(self._registered_since),
            configuration=status.configuration,
        )

    def _update_view(self, now: float) -> None:
        if self._snapshot is None:
            return
        in_service = self._snapshot.in_service
        others = len(self.checker.monitored)
        known = sum(self.checker.status(node_id) is not HealthStatus.UNKNOWN for node_id in self.checker.monitored)
        # While most are not known yet, nothing speaks against them, and there is no reason for panic.
        if 2 * known >= others and is_panic(len(self._well(now)), others + 1, self.config):
            view = in_service
        else:
            view = tuple(member for member in in_service if self.checker.is_routable(member.node_id))
        if view != self._view.value:
            self._view.set(view)

    def _tell(self, kind: HealthEventKind, node_id: NodeId, *, guard: Guard | None = None, detail: str = "") -> None:
        event = HealthEvent(kind, node_id, trio.current_time(), self._leading_term, guard, detail)
        self._events.append(event)
        self._listeners.post(event)
        # Every follower leaves it to the leader: that is no news.
        level = logging.DEBUG if guard is Guard.NOT_LEADER else logging.WARNING
        logger.log(level, "node %s: %s: %s", node_id, kind, detail if guard is None else f"by the guard {guard}")

    @property
    def _running_site(self) -> NodeSite:
        assert self._site is not None, "it runs beside a node"
        return self._site

    @property
    def _own_id(self) -> NodeId:
        return self._running_site.node.node_id
