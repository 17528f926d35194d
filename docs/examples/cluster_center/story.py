"""The story: a partition is made and healed, the leader is lost and comes back, and nothing is lost with them."""

from typing import Any

import attrs
import trio

from clustercore.cli.demo.errors import DemoFailed

from .center import Center, Server
from .checks import Edit
from .fleet import Fleet
from .kinds import ENDED, MISSION
from .page import Page

# Missions, and those of them that are edited on both sides of the partition.
MISSIONS = [f"mission-{number:02}" for number in range(12)]
CONTESTED = MISSIONS[:5]


@attrs.define(eq=False)
class Story:
    center: Center
    fleet: Fleet
    page: Page
    # For how long there is time to read, in each chapter.
    pause_s: float
    # What the servers acknowledged to operators.
    edits: list[Edit] = attrs.field(factory=list)

    async def tell(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.center.keep_looking)
            nursery.start_soon(self.page.keep_drawing)
            await self._begin(nursery)
            async with trio.open_nursery() as flying:
                flying.start_soon(self.fleet.fly)
                await trio.sleep(self.pause_s)
                await self._have_a_partition()
                await self._lose_the_leader(nursery)
                flying.cancel_scope.cancel()
            await self._settle()
            nursery.cancel_scope.cancel()

    async def _begin(self, nursery: trio.Nursery) -> None:
        center = self.center
        async with trio.open_nursery() as starting:
            for server in center.servers:
                starting.start_soon(center.start, server, nursery)
        self.page.say(f"three servers run, and {(await self._leader()).name} leads")
        await self.fleet.register()
        missions = {mission_id: {"area": f"sector {mission_id[-2:]}"} for mission_id in MISSIONS}
        await center.servers[0].client.ask("Put", kind=MISSION.name, entities=missions)
        size = len(MISSIONS), self.fleet.count
        await center.eventually(
            lambda: [(len(told["missions"]), told["uavs"]) for told in center.told] == [size] * 3,
            "servers that know all missions and UAVs",
        )
        await self.page.measure()
        self.page.say(f"{self.fleet.count:,} UAVs report, each second; {len(MISSIONS)} missions are planned at a")

    async def _have_a_partition(self) -> None:
        center, leader = self.center, await self._leader()
        alone = next(server for server in reversed(center.servers) if server is not leader)
        await center.cut_off(alone)
        self.page.say(f"{alone.name} is cut off, and goes on; missions get orders on both sides")
        for mission_id in CONTESTED:
            await self._edit(leader, mission_id, order="ABORT")
            await self._edit(alone, mission_id, order="RECALL")
        await self._edit(alone, MISSIONS[-1], area="a sector that only the server that is cut off knows")
        await self._wait_health(alone, is_well=False)
        self.page.say(f"the health checks have found that {alone.name} is not reached")
        await trio.sleep(self.pause_s)

        await center.cut_off(None)
        met = {f"{mission_id} order" for mission_id in CONTESTED}
        await center.eventually(
            lambda: all(met <= set(server.conflicts) for server in center.servers),
            "all conflicts, in the logs of all servers",
        )
        self.page.say(f"healed: {len(CONTESTED)} missions had two orders; each log says which holds")

    async def _lose_the_leader(self, nursery: trio.Nursery) -> None:
        center, lost = self.center, await self._leader()
        await self._edit(lost, MISSIONS[-2], area="a sector that only the leader knew when it was killed")
        await center.kill(lost)
        self.page.say(f"{lost.name}, which led, is lost, just after it acknowledged an edit")
        leader = await self._leader()
        self.page.say(f"{leader.name} leads now, and schedules the missions")
        await self._wait_health(lost, is_well=False)
        await trio.sleep(self.pause_s)
        await center.start(lost, nursery)
        self.page.say(f"{lost.name} is back, with what its disk had")

        def has_caught_up() -> bool:
            told = lost.told
            return told is not None and told["lag_s"] is not None and told["heartbeats"] > 0

        await center.eventually(has_caught_up, f"a server {lost.name} that is in step, and that UAVs report to")
        await self._wait_health(lost, is_well=True)
        self.page.say(f"{lost.name} has fetched what it missed, and its UAVs report to it again")

    async def _settle(self) -> None:
        """Without heartbeats, wait until all servers hold the same, to the last byte."""
        center = self.center
        await center.eventually(
            lambda: all(set(told["missions"]) <= ENDED for told in center.told), "missions that end"
        )
        center.compares = True
        await center.eventually(
            lambda: len(center.told) == 3 and len({server.held for server in center.servers} | {None}) == 2,
            "servers that hold the same",
        )
        self.page.say("all missions ended; the servers hold the same, to the last byte")

    # --- Small steps ---

    async def _leader(self) -> Server:
        """Wait until a server leads, and has taken over the missions."""

        def has_taken_over() -> bool:
            leader = self.center.leader
            return leader is not None and leader.told is not None and leader.told["schedulers"][-1:] == [leader.name]

        await self.center.eventually(has_taken_over, "a leader")
        assert self.center.leader is not None
        return self.center.leader

    async def _wait_health(self, server: Server, *, is_well: bool) -> None:
        """Wait until the leader's health checks take a server for well, or not."""

        def is_found() -> bool:
            leader = self.center.leader
            return leader is not None and leader.told is not None and is_well == (server.name in leader.told["healthy"])

        await self.center.eventually(is_found, f"a leader that takes {server.name} for {'well' if is_well else 'ill'}")

    async def _edit(self, server: Server, mission_id: str, **fields: Any) -> None:
        """Do what an operator does at a server, and remember that it was acknowledged."""
        if not await server.client.ask("Edit", kind=MISSION.name, entity_id=mission_id, fields=fields):
            raise DemoFailed(f"server {server.name} does not know {mission_id}")
        self.edits.append(Edit(mission_id, fields))
