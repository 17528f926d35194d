"""Draw tickets, each number once: a node per process, over gRPC, on disk. Run one in each of three terminals.

python tickets_over_grpc.py a a=127.0.0.1:7101 b=127.0.0.1:7102 c=127.0.0.1:7103
"""

import sys

import trio

from clustercore import Node
from clustercore.interfaces import LogIndex, OutcomeUnknown, StateMachine
from clustercore_grpc import GrpcTransport
from clustercore_sqlite import SqliteStorage
from clustercore_static import StaticDiscovery


class Tickets(StateMachine):
    drawn = 0

    def apply(self, index: LogIndex, command: bytes) -> bytes:
        self.drawn += 1
        return self.snapshot()

    def snapshot(self) -> bytes:
        return str(self.drawn).encode()

    def restore(self, snapshot: bytes) -> None:
        self.drawn = int(snapshot)


async def main(name: str, members: dict[str, str]) -> None:
    transport, storage = GrpcTransport(members[name]), SqliteStorage(f"{name}.db")
    async with Node(
        name, machine=Tickets(), transport=transport, storage=storage, discovery=StaticDiscovery(members)
    ) as node:
        while True:
            try:
                print("ticket", (await node.propose(b"draw")).result.decode(), flush=True)
            except OutcomeUnknown:
                print("perhaps a ticket was drawn that nobody holds: draw another", flush=True)
            await trio.sleep(0.2)


trio.run(main, sys.argv[1], dict(member.split("=") for member in sys.argv[2:]))
