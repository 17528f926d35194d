"""Where the machines of a run serve, and whether those who look for them find them.

A member that nobody finds has to find the others, and say where it is; for that there must be a leader. So, as a manual
would have it, one machine moves at a time, and the members change no further until it is noted where that one is.
"""

from __future__ import annotations

from typing import Any

import attrs

from clustercore.raft.state import RaftState
from clustercore.testing.simulation.cluster import SimulatedCluster
from clustercore.testing.simulation.watching import Watch

__all__ = ["Addresses"]


@attrs.define(eq=False)
class Addresses:
    """What those who move machines, and those who change the members, know of each other."""

    cluster: SimulatedCluster[Any]
    watch: Watch
    # Changes of the members that are being asked for.
    changing: int = 0

    def other(self, name: str) -> str:
        """Return the one of a machine's two addresses at which it does not serve."""
        return name if self.cluster.address_of(name) != name else f"{name}@2"

    @property
    def lost(self) -> list[str]:
        """The members that are looked for where they do not serve."""
        newest = self._newest()
        servers = newest.configuration.servers if newest is not None else ()
        # Discovery knows the name, where the members know no address.
        places = {server.node_id: server.address or server.node_id for server in servers}
        return [name for name, place in places.items() if place != self.cluster.address_of(name)]

    def may_lose(self, name: str) -> bool:
        """Say whether a machine may be looked for where it does not serve: the others must need it for nothing."""
        newest = self._newest()
        if newest is None or self.changing or self.lost:
            return False
        if any(self.watch.has_lost_disk(each) for each in self.cluster.machines):
            return False
        voters = newest.configuration.voters
        return newest.is_configuration_committed and (name not in voters or len(voters) > 2)

    def _newest(self) -> RaftState | None:
        """Return what the node knows that has the newest members in its log."""
        states = [state for state in map(self.watch.state_of, self.cluster.machines) if state is not None]
        return max(states, key=lambda state: state.configurations.latest_index, default=None)
