"""The discovery contract on DNS: it asks again when what it was told has expired."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import trio

from clustercore.interfaces import Backoff, ConfigError, FollowingDiscovery
from clustercore_dns.lookup import Found, Lookup, LookupFailed

__all__ = ["DnsDiscovery"]

# That a node is not there is believed for less long than where it is: one that starts is waited for.
_MAX_ABSENCE_S = 5.0


class DnsDiscovery(FollowingDiscovery):
    """Knows who the SRV records of a service name, or which hosts of a list have addresses.

    A node's id is the first label of its host's name: ``kv-0`` for ``kv-0.kv.default.svc.cluster.local``, as a headless
    service of Kubernetes names the pods of a StatefulSet. With SRV records its address is the host's name and the port
    of the record, and the transport looks the name up at each connection; with hosts it is an IP address.

    An answer holds for its time to live, within bounds. One that is no answer (no reply in time, SERVFAIL) leaves what
    was told last, as stale, and is asked for again with growing pauses. So does one that names nobody after there was
    somebody. DNS can only be read: ``register`` and ``deregister`` concern this object alone.

    Args:
        service: The full name of the SRV records, such as ``_raft._tcp.kv.default.svc.cluster.local``.
        hosts: Instead of it: the full names of hosts, which are asked for A records, and for AAAA if they have none.
        port: Where each of the hosts serves.
        server: The name server to ask, as "address:port"; by default those of this machine.
        timeout_s: Seconds for one question, with all its repetitions.
        min_interval_s: The shortest time between two questions, whatever the time to live, in seconds.
        max_interval_s: The longest.
        rng: Spreads the questions of many nodes.

    Raises:
        ConfigError: not exactly one of ``service`` and ``hosts`` is given, hosts without a port, a name or server is
            none, or an interval is out of range; when it is entered, no server is given and the machine has none.
    """

    def __init__(
        self,
        service: str = "",
        *,
        hosts: Sequence[str] = (),
        port: int = 0,
        server: str = "",
        timeout_s: float = 2.0,
        min_interval_s: float = 1.0,
        max_interval_s: float = 30.0,
        rng: Random | None = None,
    ) -> None:
        if bool(service) == bool(hosts):
            raise ConfigError("give either service, the name of SRV records, or hosts, a list of names")
        if hosts and not 0 < port < 65536:
            raise ConfigError(f"port = {port}: expected the port at which the hosts serve, from 1 to 65535")
        if not timeout_s > 0:
            raise ConfigError(f"timeout_s = {timeout_s!r}: expected a number of seconds above 0")
        super().__init__("dns")
        self._min_s, self._max_s = min_interval_s, max_interval_s
        self._rng = rng if rng is not None else Random()
        self._backoff = Backoff(min_interval_s, 2.0, max_interval_s, self._rng)
        self._lookup = Lookup(service, hosts, port, server=server, timeout_s=timeout_s)

    async def begin(self) -> None:
        self._lookup.open()

    async def follow(self) -> None:
        pause_s = 0.0
        while True:
            await trio.sleep(pause_s)
            pause_s = await self._ask()

    async def _ask(self) -> float:
        """Ask once, and return after how many seconds to ask again."""
        asked_at = self._known.edits
        try:
            found = await self._lookup.ask()
        except LookupFailed as error:
            self._known.fail(str(error))
            return self._backoff.draw()
        self._backoff.reset()
        self._known.tell(found.members, asked_at=asked_at)
        return self._holds_s(found)

    def _holds_s(self, found: Found) -> float:
        """Return for how long an answer is believed, a little less so that nodes do not all ask at the same moment."""
        longest_s = self._max_s if found.members else min(self._max_s, max(self._min_s, _MAX_ABSENCE_S))
        return min(max(found.ttl_s, self._min_s), longest_s) * self._rng.uniform(0.9, 1.0)
