"""The page: what each server knows, what the sync sends, and what it saves."""

from collections.abc import Sequence

from rich.console import Group
from rich.panel import Panel
from rich.table import Table

from clustercore.interfaces import NodeStopped
from clustercore.sync.blocks import encode_block

from .kinds import MISSION, UAV
from .server import Server


class Page:
    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers
        self.lines: list[str] = []
        # Of services that have ended with their servers.
        self._past_bytes = self._past_sessions = 0
        self.full_bytes = 0

    def say(self, line: str) -> None:
        self.lines.append(line)

    def keep(self, server: Server) -> None:
        """Remember what a server's sync sent, before it goes off."""
        sent, sessions = traffic(server)
        self._past_bytes += sent
        self._past_sessions += sessions

    def measure(self) -> None:
        """Find out what a transfer of everything would send: what each session would, were there no increments."""
        store = next(server.store for server in self._servers if server.store is not None)
        changes = list(store.states())
        self.full_bytes = sum(len(encode_block(changes[start : start + 500])) for start in range(0, len(changes), 500))

    @property
    def sent_bytes(self) -> int:
        return self._past_bytes + sum(traffic(server)[0] for server in self._servers)

    @property
    def sessions(self) -> int:
        return self._past_sessions + sum(traffic(server)[1] for server in self._servers)

    @property
    def saved_bytes(self) -> int:
        return self.sessions * self.full_bytes - self.sent_bytes

    @property
    def conflicts(self) -> int:
        """Conflicts that were resolved, each counted once, whichever servers noticed it."""
        stores = [server.store for server in self._servers if server.store is not None]
        return len({conflict.conflict_id for store in stores for conflict in store.conflicts})

    def render(self) -> Group:
        table = Table(
            "server", "role", "healthy", "missions", "UAVs flying", "in step", "fetched", title="Cluster Center"
        )
        for server in self._servers:
            table.add_row(server.name, *_cells(server))
        numbers = (
            f"conflicts resolved: {self.conflicts}   sync: {self.sessions} sessions, {self.sent_bytes / 1e6:.2f} MB   "
            f"saved by increments: {self.saved_bytes / 1e6:.2f} MB"
        )
        return Group(table, numbers, Panel("\n".join(self.lines[-12:]), title="what happens"))


def traffic(server: Server) -> tuple[int, int]:
    statuses = [] if server.sync is None else list(server.sync.status().values())
    sent = sum(status.bytes_sent + status.bytes_received for status in statuses)
    return sent, sum(sum(status.sessions.values()) for status in statuses)


def _cells(server: Server) -> tuple[str, ...]:
    try:
        return _cells_of_running(server)
    except NodeStopped:
        # It is just going off.
        return "off", "", "", "", "", ""


def _cells_of_running(server: Server) -> tuple[str, ...]:
    node, store, sync, health = server.node, server.store, server.sync, server.health
    if node is None or store is None or sync is None or health is None:
        raise NodeStopped(f"server {server.name} is off")
    status = node.status()
    role = f"leads term {status.term}" if server.leads_in is not None else status.role.value
    others = ", ".join(f"{member.node_id}" for member in health.view)
    states = [mission.state for each in store.ids(MISSION) if (mission := store.get(MISSION, each)) is not None]
    missions = ", ".join(f"{states.count(state)} {state.lower()}" for state in sorted(set(states)))
    flying = sum(uav.status == "FLYING" for each in store.ids(UAV) if (uav := store.get(UAV, each)) is not None)
    peers = sync.status()
    lag = max((status.lag_s for status in peers.values()), default=0.0)
    fetched = sum(status.received for status in peers.values())
    return role, others, missions, str(flying), f"{lag:.0f} s ago" if lag < 1e6 else "not yet", f"{fetched:,}"
