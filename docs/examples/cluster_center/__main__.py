"""The story: a partition is made and healed, the leader is lost and comes back, and nothing is lost with them."""

import argparse
import socket
import sys
from collections.abc import Callable, Sequence

import trio
from rich.console import Console
from rich.live import Live

from clustercore.interfaces import Discovery
from clustercore_static import StaticDiscovery

from . import fleet
from .kinds import MISSION, Mission
from .page import Page
from .server import Server, edit

# Missions, and how many of them are edited on both sides of the partition.
MISSIONS, CONTESTED = 12, 5
PATIENCE_S = 60.0


def free_addresses(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


def make_servers(consul: str | None) -> list[Server]:
    addresses = dict(zip("abc", free_addresses(3), strict=True))

    def discovery() -> Discovery:
        if consul is None:
            return StaticDiscovery(addresses)
        from clustercore_consul import ConsulDiscovery

        return ConsulDiscovery(consul, "cluster-center")

    return [Server(name, address, discovery) for name, address in addresses.items()]


async def eventually(condition: Callable[[], bool], what: str) -> None:
    with trio.move_on_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - servers have no event for each thing the story waits for
            await trio.sleep(0.1)
        return
    raise SystemExit(f"not within {PATIENCE_S:.0f} s: {what}")


def leader_of(servers: Sequence[Server]) -> Server | None:
    return next((server for server in servers if server.leads_in is not None), None)


async def cut_off(alone: Server, servers: Sequence[Server]) -> None:
    for server in servers:
        assert server.cable is not None
        await server.cable.pull([each.address for each in servers if (server is alone) != (each is alone)])


async def tell(
    servers: list[Server], page: Page, nursery: trio.Nursery, flying: trio.Nursery, options: argparse.Namespace
) -> None:
    for server in servers:
        await nursery.start(server.run)
    await eventually(lambda: leader_of(servers) is not None, "a leader")
    page.say(f"three servers, and {leader_of(servers).name} leads")  # type: ignore[union-attr]  # as just waited for
    await fleet.register(servers, options.uavs)
    store = servers[0].store
    assert store is not None
    for number in range(MISSIONS):
        await store.put(MISSION, f"mission-{number:02}", Mission(area=f"sector {number}"))
    page.say(f"{options.uavs:,} UAVs report to them, each second; {MISSIONS} missions are planned at server a")
    flying.start_soon(fleet.fly, servers, options.uavs)
    await trio.sleep(options.pause)

    page.measure()
    alone = next(server for server in servers if server.leads_in is None)
    await cut_off(alone, servers)
    page.say(f"server {alone.name} is cut off, and goes on by itself: operators edit missions on both sides")
    other = next(server for server in servers if server is not alone)
    for number in range(CONTESTED):
        await edit(other, f"mission-{number:02}", "ABORTED", 15)
        await edit(alone, f"mission-{number:02}", "RUNNING", 90 + number)
    await trio.sleep(options.pause)
    for server in servers:
        assert server.cable is not None
        server.cable.plug_in()
    await eventually(lambda: page.conflicts >= CONTESTED, "conflicts that were found")
    page.say(f"healed: {page.conflicts} conflicts were resolved, alike on all servers, and both values are in the log")

    leader = leader_of(servers)
    assert leader is not None
    page.keep(leader)
    await leader.kill()
    page.say(f"server {leader.name}, which led, is lost")
    await eventually(lambda: leader_of(servers) is not None, "another leader")
    page.say(f"{leader_of(servers).name} leads now, and schedules the missions")  # type: ignore[union-attr]  # as above
    await trio.sleep(options.pause)
    await nursery.start(leader.run)
    page.say(f"server {leader.name} is back, with what its disk had, and fetches what it missed")
    await trio.sleep(options.pause)


async def settle(servers: list[Server], page: Page) -> None:
    """Without heartbeats, wait until all servers hold the same, to the last byte."""

    def are_equal() -> bool:
        held = {server.store.canonical_bytes() for server in servers if server.store is not None}
        states = {
            mission.state
            for server in servers
            if server.store is not None
            for each in server.store.ids(MISSION)
            if (mission := server.store.get(MISSION, each)) is not None
        }
        return len(held) == 1 and states <= {"COMPLETED", "ABORTED"}

    await eventually(are_equal, "servers that hold the same")
    page.measure()
    page.say("all missions have ended, and all servers hold the same, to the last byte")


async def main(options: argparse.Namespace) -> int:
    console = Console()
    servers = make_servers(options.consul)
    page = Page(servers)

    async def refresh(live: Live) -> None:
        while True:
            live.update(page.render(), refresh=not options.headless)
            await trio.sleep(0.5)

    async with trio.open_nursery() as nursery:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            nursery.start_soon(refresh, live)
            async with trio.open_nursery() as flying:
                await tell(servers, page, nursery, flying, options)
                flying.cancel_scope.cancel()
            await settle(servers, page)
            final = page.render()
        saved, conflicts = page.saved_bytes, page.conflicts
        repaired = sum(server.sync.repaired_by_full for server in servers if server.sync is not None)
        nursery.cancel_scope.cancel()
    console.print(final)
    console.print(f"conflicts resolved: {conflicts}; bytes saved by incremental sync: {saved:,}", soft_wrap=True)
    return 0 if saved > 0 and repaired == 0 else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cluster_center", description=__doc__)
    parser.add_argument("--consul", metavar="URL", help="find each other by this Consul; by a fixed list otherwise")
    parser.add_argument("--uavs", type=int, default=1000)
    parser.add_argument("--pause", type=float, default=8.0, help="seconds that each chapter of the story takes")
    parser.add_argument("--headless", action="store_true", help="print the page once, at the end")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(trio.run(main, arguments()))
