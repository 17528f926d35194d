import trio

from clustercore import Node, interfaces
from clustercore_memory import MemoryNetwork, MemoryStorage, MemoryTransport
from clustercore_static import StaticDiscovery


class Counter(interfaces.StateMachine):
    value = 0

    def apply(self, index: int, command: bytes) -> bytes:
        self.value += int(command)
        return self.snapshot()

    def snapshot(self) -> bytes:
        return str(self.value).encode()

    def restore(self, snapshot: bytes) -> None:
        self.value = int(snapshot)


async def main() -> None:
    net, found = MemoryNetwork(), StaticDiscovery({"a": "a", "b": "b", "c": "c"})
    ways = [(name, MemoryTransport(net, name), MemoryStorage()) for name in "abc"]
    a, b, c = (Node(n, machine=Counter(), transport=t, storage=s, discovery=found) for n, t, s in ways)
    async with a, b, c:
        print("the cluster agreed on", (await b.propose(b"42")).result.decode())


trio.run(main)
