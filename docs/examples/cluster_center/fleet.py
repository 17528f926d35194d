"""A fleet: each UAV reports to one server, and sends it a heartbeat each second."""

import random
import time
from collections.abc import Sequence

import trio

from clustercore.interfaces import ClusterError

from .kinds import UAV, Uav
from .server import Server


async def register(servers: Sequence[Server], count: int) -> None:
    rng = random.Random(1)
    for number in range(count):
        store = servers[number % len(servers)].store
        assert store is not None
        model = rng.choice(("quad-x4", "wing-v2", "hexa-lift"))
        await store.put(UAV, f"uav-{number:04}", Uav(model=model, serial=f"{rng.getrandbits(64):016X}"))


async def fly(servers: Sequence[Server], count: int) -> None:
    """Send all heartbeats, each second, until cancelled. What is sent to a server that is off is lost."""
    while True:
        began = trio.current_time()
        for number in range(count):
            store = servers[number % len(servers)].store
            if store is not None:
                try:
                    await store.update(UAV, f"uav-{number:04}", last_heartbeat=int(time.time()))
                except ClusterError:
                    # The server went off in the middle of it.
                    continue
        await trio.sleep_until(began + 1)
