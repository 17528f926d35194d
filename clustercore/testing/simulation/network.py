"""The simulated network: who can reach whom, how long that takes, and what goes wrong on the way.

It carries *parcels*: anything that is to happen at the other end, as a function. ``link`` makes messages of them and
``transport`` connections; this file knows addresses, delays and faults. All of it is decided by the run's seed.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING

import attrs
import trio

from clustercore.interfaces import Hello, HelloResponse, Message, PeerUnreachable, TransportError
from clustercore.testing.simulation.chance import Chance

if TYPE_CHECKING:
    from clustercore.testing.simulation.link import SimulatedLink
    from clustercore.testing.simulation.transport import Listener

__all__ = ["CallFate", "NetworkOptions", "SimulatedNetwork", "host_of"]

# Addresses that no partition names are together, on a side of their own.
_UNNAMED = 0

# After so many seconds without a word from a machine that lost its power, a connection to it is given up, as a
# transport's keepalive does. If it is back sooner, it says at once that it knows of no such connection.
KEEPALIVE_S = 10.0

# Parcels arrive at multiples of this, so that what arrives at about the same time does so in one turn of the scheduler:
# that decides the order, and the clock need not stop for each.
_TICK_S = 0.0005
# The share of sends and receives, where neither has to wait, at which other tasks get a turn. A turn costs more than
# the send.
_TURNS = 0.25


@attrs.frozen
class NetworkOptions:
    """How the wires are between any two machines. The default ones are perfect: everything arrives at once.

    Shares are of the messages, from 0 to 1. A transport may do all of this to a node (``clustercore.interfaces``).
    """

    # What every message takes, in seconds, and the mean of what comes on top, which is exponentially distributed.
    latency_s: float = 0.0
    jitter_s: float = 0.0
    # Whether the messages of a link arrive in the order in which they were sent.
    is_ordered: bool = True
    # Lost without a sign, although the link lives on.
    lost: float = 0.0
    # Arrive twice.
    repeated: float = 0.0
    # In the middle of which the connection breaks: it does not arrive, and the link closes.
    reset: float = 0.0
    # The same of calls of services: the request or the response is lost without a sign, or the request comes twice, the
    # second time later and perhaps after others that were sent after it.
    call_lost: float = 0.0
    call_repeated: float = 0.0
    # Whether who cannot be reached is silent, so that dialling it takes until the caller's patience ends. Otherwise
    # dialling fails at once.
    is_silent: bool = False


class CallFate(Enum):
    """What the network makes of one call of a service."""

    FINE = "fine"
    REQUEST_LOST = "request lost"
    RESPONSE_LOST = "response lost"
    REPEATED = "repeated"


def host_of(address: str) -> str:
    """Return the machine that an address is of: one machine has any number of them, as in "a", "a@2", "a@3"."""
    return address.partition("@")[0]


class SimulatedNetwork:
    """Connects the simulated transports that are made with it; no other network knows them.

    Faults are of machines, whichever of their addresses they serve at (``host_of``).

    Across a cut a message is silently lost, as it is when a cable is pulled: links stay open, and those that wait on
    them learn nothing. That a link was closed is told once the cut is mended.

    Args:
        chance: Decides delays and faults.
        options: How the wires are; may be replaced at any time.
    """

    def __init__(self, chance: Chance | None = None, options: NetworkOptions | None = None) -> None:
        self.options = options if options is not None else NetworkOptions()
        self._chance = chance if chance is not None else Chance(0)
        self._listeners: dict[str, Listener] = {}
        # The side each address is on. Two addresses reach each other if they are on the same.
        self._sides: dict[str, int] = {}
        self._last_side = _UNNAMED
        # Directions, from and to, in which nothing passes, or everything waits.
        self._cut: set[tuple[str, str]] = set()
        self._clogged: set[tuple[str, str]] = set()
        self._waiting: dict[tuple[str, str], list[Callable[[], None]]] = defaultdict(list)
        # By how much longer everything takes to and from an address.
        self._slow: dict[str, float] = {}
        self._off: set[str] = set()
        # Open ends of links, by the address they are at, in the order of their opening.
        self._links: dict[str, dict[SimulatedLink, None]] = defaultdict(dict)
        # Parcels on their way: when they arrive, a number that keeps the order, and what happens then.
        self._parcels: list[tuple[float, int, Callable[[], None]]] = []
        self._sent = 0
        self._next_arrival = trio.CancelScope()
        self._changed = trio.Event()
        # Is told of each message between nodes that leaves an address for another.
        self.on_send: Callable[[str, str, Message], None] | None = None
        # How fast the clocks at some addresses go that nobody knows of.
        self.hidden_rates: Mapping[str, float] = {}
        # How much went wrong.
        self.lost = self.repeated = self.resets = 0

    # --- Faults ---

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut the network into groups of addresses, in place of any cut before.

        Addresses in no group form one more, together. An address named twice is on the side that names it last.
        """
        self.heal()
        for group in groups:
            side = self._new_side()
            for address in group:
                self._sides[address] = side

    def isolate(self, address: str) -> None:
        """Cut one address off from all others, and leave other cuts as they are."""
        self._sides[address] = self._new_side()

    def bridge(self, left: Iterable[str], middle: str, right: Iterable[str]) -> None:
        """Cut the network in two, in place of any cut before, but for one address that reaches both sides."""
        self.heal()
        rights = list(right)
        for one in left:
            for other in rights:
                if middle not in (one, other):
                    self._cut |= {(one, other), (other, one)}

    def cut(self, source: str, target: str) -> None:
        """Let nothing pass from one address to another; the other way is left as it is."""
        self._cut.add((source, target))

    def clog(self, source: str, target: str) -> None:
        """Let everything wait that goes from one address to another, until ``heal``; nothing of it is lost."""
        self._clogged.add((source, target))

    def slow_down(self, address: str, factor: float) -> None:
        """Let everything to and from an address take so many times as long, until ``heal``, and 1 ms at least."""
        self._slow[address] = factor

    def heal(self) -> None:
        """Let everyone reach everyone again; what was clogged arrives now. ``options`` stay."""
        self._sides.clear()
        self._cut.clear()
        self._clogged.clear()
        self._slow.clear()
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        waiting, self._waiting = self._waiting, defaultdict(list)
        for parcels in waiting.values():
            for deliver in parcels:
                deliver()

    def can_reach(self, address: str, other: str) -> bool:
        """Say whether nothing is cut from one address to another, whether or not someone serves there."""
        return (
            self._sides.get(address, _UNNAMED) == self._sides.get(other, _UNNAMED) and (address, other) not in self._cut
        )

    def _new_side(self) -> int:
        self._last_side += 1
        return self._last_side

    # --- Machines ---

    def end_links(self, address: str) -> None:
        """Close every link of a machine as a kernel does whose process was killed: the other ends are told."""
        for link in list(self._links[host_of(address)]):
            link.close()

    def power_off(self, address: str) -> None:
        """Let a machine fall silent: nothing leaves it or arrives there any more, and nobody is told."""
        host = host_of(address)
        self._off.add(host)
        for link in list(self._links[host]):
            link.fall_silent()
            self._at(trio.current_time() + KEEPALIVE_S, link.peer.end)
        for served in [served for served in self._listeners if host_of(served) == host]:
            del self._listeners[served]

    def power_on(self, address: str) -> None:
        """End what ``power_off`` began."""
        self._off.discard(host_of(address))

    def is_off(self, address: str) -> bool:
        """Say whether a machine has no power."""
        return host_of(address) in self._off

    # --- For links and transports ---

    async def run(self) -> None:
        """Deliver what is on its way, until cancelled."""
        while True:
            due = self._parcels[0][0] if self._parcels else math.inf
            with trio.CancelScope(deadline=due) as self._next_arrival:
                await trio.sleep_forever()
            while self._parcels and self._parcels[0][0] <= trio.current_time():
                heapq.heappop(self._parcels)[2]()

    def _at(self, due: float, deliver: Callable[[], None]) -> None:
        self._sent += 1
        heapq.heappush(self._parcels, (due, self._sent, deliver))
        if due < self._next_arrival.deadline:
            self._next_arrival.deadline = due

    async def checkpoint(self) -> None:
        """Be cancelled if that is due, and let other tasks run, as chance will have it."""
        if self._chance.happens(_TURNS):
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    def draw_delay_s(self, source: str, target: str) -> float:
        """Return how long something takes from one address to another this time."""
        options = self.options
        delay_s = options.latency_s
        if options.jitter_s:
            delay_s += self._chance.exponential(options.jitter_s)
        if self._slow:
            factor = self._slow.get(source, 1.0) * self._slow.get(target, 1.0)
            if factor > 1:
                delay_s = max(delay_s, 0.001) * factor
        return delay_s

    def carry(
        self,
        source: str,
        target: str,
        deliver: Callable[[], None],
        *,
        lose: Callable[[], None] | None = None,
        not_before: float = 0.0,
    ) -> float:
        """Take a parcel from one address to another; return when it arrives, if it does.

        Args:
            deliver: What is to happen there.
            lose: What happens where it meets a cut. None: it waits there until the cut is mended.
            not_before: It arrives at this time at the earliest: that of what was sent before it, to keep the order.
        """
        delay_s = self.draw_delay_s(source, target)
        due = max(trio.current_time() + delay_s, not_before)
        if delay_s:
            due = math.ceil(due / _TICK_S) * _TICK_S

        def arrive() -> None:
            if source in self._off or target in self._off:
                return
            is_cut = not self.can_reach(source, target)
            if is_cut and lose is not None:
                self.lost += 1
                lose()
            elif is_cut or (source, target) in self._clogged:
                self._waiting[source, target].append(arrive)
            else:
                deliver()

        if lose is not None and not self.can_reach(source, target):
            self.lost += 1
            lose()
        elif due <= trio.current_time():
            arrive()
        else:
            self._at(due, arrive)
        return due

    def leave(self, source: str, target: str, message: Message) -> Message:
        """Note that a message leaves, and return it as it arrives.

        A clock that goes at another rate, and is not known to, is one whose seconds mean something else: what one node
        tells in its own seconds the other takes for as many of its own.
        """
        if self.on_send is not None:
            self.on_send(source, target, message)
        if self.hidden_rates and isinstance(message, Hello | HelloResponse):
            factor = self.hidden_rates.get(source, 1.0) / self.hidden_rates.get(target, 1.0)
            return attrs.evolve(message, election_timeout_s=message.election_timeout_s * factor)
        return message

    def draw_fate(self) -> tuple[int, bool]:
        """Return how often a message arrives, and whether its connection breaks in the middle of it."""
        options, chance = self.options, self._chance
        if chance.happens(options.reset):
            self.resets += 1
            return 0, True
        if chance.happens(options.lost):
            self.lost += 1
            return 0, False
        if chance.happens(options.repeated):
            self.repeated += 1
            return 2, False
        return 1, False

    def draw_call_fate(self) -> CallFate:
        """Return what becomes of one call of a service."""
        options, chance = self.options, self._chance
        if chance.happens(options.call_lost):
            self.lost += 1
            return CallFate.REQUEST_LOST if chance.happens(0.5) else CallFate.RESPONSE_LOST
        if chance.happens(options.call_repeated):
            self.repeated += 1
            return CallFate.REPEATED
        return CallFate.FINE

    def opened(self, address: str, link: SimulatedLink) -> None:
        """Note an open end of a link."""
        self._links[address][link] = None

    def closed(self, address: str, link: SimulatedLink) -> None:
        """Forget a closed end of a link."""
        self._links[address].pop(link, None)

    def check_free(self, address: str) -> None:
        """Make sure that nobody serves at an address.

        Raises:
            TransportError: someone does.
        """
        if address in self._listeners:
            raise TransportError(f"{address!r} is served already on this simulated network; choose another address")

    def listen(self, address: str, listener: Listener) -> None:
        """Take an address that is free."""
        self._listeners[address] = listener

    def stop_listening(self, address: str, listener: Listener) -> None:
        """Give an address back."""
        if self._listeners.get(address) is listener:
            del self._listeners[address]

    async def dial(self, source: str, address: str) -> Listener:
        """Return who serves at an address, after the time it takes a machine to get there and back.

        Raises:
            PeerUnreachable: nobody does, or it cannot be reached.
        """
        host = host_of(address)
        there_and_back_s = self.draw_delay_s(source, host) + self.draw_delay_s(host, source)
        if there_and_back_s:
            await trio.sleep(there_and_back_s)
        else:
            await trio.lowlevel.checkpoint()
        while not (self.can_reach(source, host) and self.can_reach(host, source)) or host in self._off:
            if not self.options.is_silent:
                raise PeerUnreachable(f"{address!r} cannot be reached from {source!r}: the simulated network is cut")
            await self._changed.wait()
        listener = self._listeners.get(address)
        if listener is None:
            raise PeerUnreachable(f"nobody serves at {address!r} on this simulated network")
        return listener
