"""One server of the Cluster Center: a node, the entities, their sync, and the health of the others. All of it on disk.

python -m cluster_center.server a a=127.0.0.1:7101 b=127.0.0.1:7102 c=127.0.0.1:7103 --data DIR
"""

import argparse
import logging
import os
import signal
import stat
from collections.abc import Mapping
from pathlib import Path

import trio

from clustercore import ClusterHealth, HealthConfig, Node
from clustercore.cli.exits import run
from clustercore.interfaces import ConfigError, Discovery, NodeId
from clustercore.sync import ConflictDesk, EntityStore, SyncConfig, SyncService
from clustercore_retry import CategoryRetryPolicy
from clustercore_sqlite import SqliteRecords, SqliteStorage
from clustercore_static import StaticDiscovery

from .cable import CableTransport
from .desk import Desk
from .kinds import MISSION, UAV
from .scheduler import TICK_S, Ledger, schedule_missions

# The real system syncs every 30 seconds, compares everything every 5 minutes, and checks health every 10 seconds; those
# are the defaults. A story is shorter.
SYNC = SyncConfig(incremental_interval_s=2.0, full_interval_s=30.0, window_s=1.0, window_limit_s=6.0)
HEALTH = HealthConfig(check_interval=1.0, timeout=0.5)


def make_discovery(members: Mapping[str, str], consul: str | None) -> Discovery:
    """How the servers find each other: by what the command line says, or by telling Consul, and asking it."""
    if consul is None:
        return StaticDiscovery(members)
    from clustercore_consul import ConsulDiscovery

    # The variable is the one that Consul's own commands read; without ACLs there is no token.
    return ConsulDiscovery(consul, "cluster-center", ttl_s=10.0, token=os.environ.get("CONSUL_HTTP_TOKEN", ""))


def make_folder(data: Path) -> None:
    """Make the folder for a server's files, if it is not there."""
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--data {data}: {error.strerror}; name a folder that can be made and written to") from error


async def serve(options: argparse.Namespace) -> None:
    name, data = options.name, options.data
    make_folder(data)
    discovery, transport = make_discovery(options.members, options.consul), CableTransport(options.members[name])
    ledger = Ledger()
    # The entities outlive the node: they are opened before it, and closed after it.
    async with EntityStore(NodeId(name), [MISSION, UAV], SqliteRecords(data / f"{name}-entities.db")) as store:
        sync = SyncService(store, config=SYNC, retry=CategoryRetryPolicy())
        health = ClusterHealth(discovery, HEALTH)
        async with Node(
            name,
            machine=ledger,
            transport=transport,
            storage=SqliteStorage(data / f"{name}-raft.db"),
            discovery=discovery,
            voters=options.members,
            # They run in the node's nursery, and answer on its listener.
            companions=[
                sync,
                health,
                ConflictDesk(store.conflicts, store.restore),
                Desk(store, sync, health, ledger, transport),
            ],
        ) as node:
            print(f"server {name} serves at {node.address}", flush=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop_at_signal, nursery.cancel_scope)
                if options.exit_with_stdin:
                    nursery.start_soon(_stop_at_end_of_stdin, nursery.cancel_scope)
                await schedule_missions(node, store, options.tick)
            # The block is left in peace: a leader hands over first.


async def _stop_at_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


async def _stop_at_end_of_stdin(scope: trio.CancelScope) -> None:
    """Whoever started this process holds the other end of the pipe, and takes it along, however it ends."""
    await trio.lowlevel.wait_readable(0)
    while os.read(0, 1024):
        await trio.lowlevel.wait_readable(0)
    scope.cancel()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cluster_center.server")
    parser.add_argument("name", help="of this server")
    parser.add_argument(
        "members", nargs="+", metavar="NAME=HOST:PORT", help="all servers; with --consul the others' names are enough"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where its files are, or will be")
    parser.add_argument("--consul", metavar="URL", help="find each other by this Consul")
    parser.add_argument("--tick", type=float, default=TICK_S, metavar="S", help="seconds between looks at the missions")
    parser.add_argument("--exit-with-stdin", action="store_true", help="stop when standard input ends")
    options = parser.parse_args()
    options.members = {name: address for name, _, address in (each.partition("=") for each in options.members)}
    if not options.members.get(options.name):
        parser.error(f"there is no {options.name}=HOST:PORT among the members")
    missing = [name for name, address in options.members.items() if not address]
    if missing and options.consul is None:
        parser.error(f"there is no address of {', '.join(missing)}; it is not needed with --consul")
    if not 0 < options.tick <= 60:
        parser.error(f"--tick {options.tick}: expected more than 0, and at most 60 seconds")
    if options.exit_with_stdin and not stat.S_ISFIFO(os.fstat(0).st_mode):
        parser.error("--exit-with-stdin: standard input is no pipe")
    return options


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # It logs every request to Consul.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    run(serve, arguments())
