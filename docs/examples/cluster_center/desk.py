"""What UAVs, operators and the page ask of a server: a service of ours, on the node's own listener.

Its messages are JSON here, to be short; those of a real system are protobuf, so that any gRPC client can make them.

    python -m cluster_center.desk 127.0.0.1:7101 Read '{"kind": "mission"}'
"""

import argparse
import hashlib
import json
import math
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any, TypeVar

import attrs
import trio

from clustercore import ClusterHealth
from clustercore.cli.exits import run
from clustercore.interfaces import (
    InvalidCommand,
    NodeCompanion,
    NodeHandle,
    NodeSite,
    Role,
    Service,
    ServiceError,
    ServiceTransport,
)
from clustercore.sync import EntityKind, EntityStore, SyncService
from clustercore_grpc import GrpcTransport

from .cable import CableTransport
from .kinds import MISSION, UAV
from .scheduler import Ledger, missions, uavs

SERVICE = "example.ClusterCenter"

T = TypeVar("T")


class Desk(NodeCompanion):
    def __init__(
        self, store: EntityStore, sync: SyncService, health: ClusterHealth, ledger: Ledger, transport: CableTransport
    ) -> None:
        self._store, self._sync, self._health, self._ledger, self._transport = store, sync, health, ledger, transport
        self._heartbeats = 0

    def services(self, node: NodeHandle) -> Sequence[Service]:
        methods: dict[str, Callable[..., Awaitable[Any]]] = {
            "Put": self._put,
            "Edit": self._edit,
            "Heartbeat": self._heartbeat,
            "Read": self._read,
            "Tell": partial(self._tell, node),
            "Hold": self._hold,
            "Pull": self._pull,
        }
        return [Service(SERVICE, {name: partial(_answer, method) for name, method in methods.items()})]

    async def run(self, site: NodeSite) -> None:
        """There is nothing to do but answer."""

    # Whoever has the answer may rely on it: what was written is on the disk of this server.

    async def _put(self, kind: str, entities: Mapping[str, Mapping[str, Any]]) -> None:
        """Create missions or UAVs. All at once, so that they share their way to the disk."""
        known = self._kind(kind)
        made = {entity_id: _call(known.entity_class, fields) for entity_id, fields in entities.items()}
        async with trio.open_nursery() as nursery:
            for entity_id, entity in made.items():
                nursery.start_soon(self._store.put, known, entity_id, entity)

    async def _edit(self, kind: str, entity_id: str, fields: Mapping[str, Any]) -> bool:
        try:
            return await self._store.update(self._kind(kind), entity_id, **fields)
        except InvalidCommand as error:
            raise ServiceError(str(error)) from error

    async def _heartbeat(self, uav_ids: Sequence[str], at: int) -> None:
        async def beat(uav_id: str) -> None:
            await self._store.update(UAV, uav_id, last_heartbeat=at)

        async with trio.open_nursery() as nursery:
            for uav_id in uav_ids:
                nursery.start_soon(beat, uav_id)
        self._heartbeats += len(uav_ids)

    async def _read(self, kind: str) -> dict[str, Any]:
        found = missions(self._store) if self._kind(kind) is MISSION else uavs(self._store)
        return {entity_id: attrs.asdict(entity) for entity_id, entity in found}

    def _kind(self, name: str) -> EntityKind[Any]:
        if name not in self._store.kinds:
            raise ServiceError(f"kind = {name!r}: expected one of {', '.join(self._store.kinds)}")
        return self._store.kinds[name]

    async def _tell(self, node: NodeHandle) -> dict[str, Any]:
        """Tell what the page shows of this server."""
        status, peers = node.status(), list(self._sync.status().values())
        lags = [peer.lag_s for peer in peers]
        return {
            "term": status.term,
            "leads": status.role is Role.LEADER,
            "schedulers": self._ledger.schedulers,
            "healthy": [member.node_id for member in self._health.view],
            "missions": [mission.state for _, mission in missions(self._store)],
            "uavs": sum(1 for _ in self._store.ids(UAV)),
            "flying": sum(uav.status == "FLYING" for _, uav in uavs(self._store)),
            "heartbeats": self._heartbeats,
            # How long ago this server last had all that the others had, by the one of whom that is longest.
            "lag_s": max(lags) if lags and max(lags) < math.inf else None,
            "sessions": sum(sum(peer.sessions.values()) for peer in peers),
            "sync_bytes": sum(peer.bytes_sent + peer.bytes_received for peer in peers),
            "repaired_by_full": self._sync.repaired_by_full,
            "conflicts": {each.conflict_id: f"{each.entity_id} {each.group}" for each in self._store.conflicts},
        }

    async def _hold(self) -> dict[str, Any]:
        """Tell all that is held, in a word, and how long it would be on its way, packed as the sync packs it."""
        everything = self._store.canonical_bytes()
        return {"held": hashlib.sha256(everything).hexdigest(), "packed_bytes": len(zlib.compress(everything, 6))}

    async def _pull(self, addresses: Sequence[str]) -> None:
        """For the story only."""
        await self._transport.pull(addresses)


async def _answer(method: Callable[..., Awaitable[Any]], request: bytes) -> bytes:
    try:
        asked = json.loads(request)
    except ValueError as error:
        raise ServiceError(f"this is no JSON: {error}") from error
    return json.dumps(await _call(method, asked)).encode()


def _call(function: Callable[..., T], named: Any) -> T:
    """Call what takes these arguments. Raises: ServiceError, before anything is done, if it does not."""
    try:
        signature(function).bind(**named)
    except TypeError as error:
        expected = ", ".join(signature(function).parameters) or "nothing"
        raise ServiceError(f"{error}; expected is {expected}") from error
    return function(**named)


def _request(text: str) -> dict[str, Any]:
    """Read the arguments of a method from the command line."""
    try:
        asked = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from error
    if not isinstance(asked, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON object, such as {{"kind": "mission"}}')
    return asked


@attrs.frozen
class Client:
    """The other side of the desk. Every call raises what ``ServiceTransport.call`` does."""

    transport: ServiceTransport
    address: str

    async def ask(self, method: str, **request: Any) -> Any:
        return json.loads(await self.transport.call(self.address, f"{SERVICE}/{method}", json.dumps(request).encode()))


async def main(options: argparse.Namespace) -> None:
    async with GrpcTransport() as transport:
        answer = await Client(transport, options.address).ask(options.method, **options.request)
    print(json.dumps(answer, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="cluster_center.desk")
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("method", help="one of those that Desk.services names")
    parser.add_argument("request", type=_request, nargs="?", default={}, help="its arguments, as a JSON object")
    run(main, parser.parse_args())
