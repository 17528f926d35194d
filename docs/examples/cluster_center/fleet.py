"""A fleet: each UAV sends a heartbeat each second. Masts take those of up to 50 UAVs, and hand them on in one call.

python -m cluster_center.fleet 127.0.0.1:7101 127.0.0.1:7102 127.0.0.1:7103 --uavs 1000
"""

import argparse
import math
import random
import time
from collections.abc import Sequence

import trio

from clustercore.cli.exits import run
from clustercore.interfaces import TransportError
from clustercore_grpc import GrpcTransport

from .desk import Client
from .kinds import UAV

UAVS_PER_MAST = 50


class Fleet:
    def __init__(self, servers: Sequence[Client], count: int) -> None:
        self._servers = servers
        ids = [f"uav-{number:05}" for number in range(count)]
        # So many that each server has one of its own.
        size = min(UAVS_PER_MAST, math.ceil(count / len(servers)))
        self._masts = [ids[start : start + size] for start in range(0, count, size)]
        self.count = count
        # Heartbeats that a server took, that none did, and for which a mast was still busy with the one before.
        self.taken = self.lost = self.late = 0
        # Of each UAV, the last that a server took.
        self.last: dict[str, int] = {}

    async def register(self) -> None:
        rng = random.Random(1)
        for number, uav_ids in enumerate(self._masts):
            entities = {
                uav_id: {"model": rng.choice(("quad-x4", "wing-v2")), "serial": f"{rng.getrandbits(64):016X}"}
                for uav_id in uav_ids
            }
            await self._nearest(number)[0].ask("Put", kind=UAV.name, entities=entities)

    async def fly(self) -> None:
        """Send all heartbeats until cancelled. Masts are not in step, as UAVs are not."""
        async with trio.open_nursery() as nursery:
            for number in range(len(self._masts)):
                nursery.start_soon(self._relay, number)

    async def _relay(self, number: int) -> None:
        due = trio.current_time() + number / len(self._masts)
        while True:
            await trio.sleep_until(due)
            await self._beat(number)
            due += 1
            while due < trio.current_time():
                self.late += len(self._masts[number])
                due += 1

    async def _beat(self, number: int) -> None:
        uav_ids, at = self._masts[number], int(time.time())
        for server in self._nearest(number):
            try:
                await server.ask("Heartbeat", uav_ids=uav_ids, at=at)
            except TransportError:
                # It is off, or does not answer: the next one takes them. If the first one has them as well, no matter.
                continue
            self.taken += len(uav_ids)
            self.last |= dict.fromkeys(uav_ids, at)
            return
        self.lost += len(uav_ids)

    def _nearest(self, number: int) -> Sequence[Client]:
        """Return the servers that a mast tries, one after the other."""
        first = number % len(self._servers)
        return [*self._servers[first:], *self._servers[:first]]


async def main(options: argparse.Namespace) -> None:
    async with GrpcTransport() as transport, trio.open_nursery() as nursery:
        fleet = Fleet([Client(transport, address) for address in options.servers], options.uavs)
        await fleet.register()
        nursery.start_soon(fleet.fly)
        while True:
            print(f"{fleet.taken:,} heartbeats taken, {fleet.lost:,} lost, {fleet.late:,} late", flush=True)
            await trio.sleep(5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="cluster_center.fleet")
    parser.add_argument("servers", nargs="+", metavar="HOST:PORT")
    parser.add_argument("--uavs", type=int, default=1000)
    options = parser.parse_args()
    if options.uavs < 1:
        parser.error(f"--uavs {options.uavs}: expected 1 or more")
    run(main, options)
