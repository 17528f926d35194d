"""The servers as the story has them: processes that can be killed, and what they last told of themselves."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import trio

from clustercore.cli.demo.errors import DemoFailed
from clustercore.cli.demo.ports import PortReservation
from clustercore.cli.demo.process import NodeProcess
from clustercore.interfaces import ServiceTransport, TransportError

from .desk import Client

NAMES = ("a", "b", "c")
LOOK_S = 0.5
# Of the scheduler: a mission takes 12 seconds.
TICK_S = 0.5
# Generous: it only ends a story that hangs.
PATIENCE_S = 60.0


@attrs.define(eq=False)
class Server:
    process: NodeProcess
    client: Client
    # What it last told; None while it does not answer.
    told: dict[str, Any] | None = None
    # What stands for all that it holds, if it was asked.
    held: str | None = None
    # What it told before each of its ends: the counts of a process end with it.
    past: list[dict[str, Any]] = attrs.field(factory=list)
    is_cut_off: bool = False

    @property
    def name(self) -> str:
        return self.process.node_id

    @property
    def conflicts(self) -> list[str]:
        """What it has met conflicts of."""
        return [] if self.told is None else list(self.told["conflicts"].values())

    def total(self, count: str) -> int:
        """Return a count over all of the server's lives."""
        return sum(told[count] for told in (*self.past, self.told) if told is not None)


class Center:
    def __init__(self, transport: ServiceTransport, data: Path, consul: str | None, stack: ExitStack) -> None:
        self.transport = transport
        ports = PortReservation(len(NAMES))
        stack.callback(ports.close)
        members = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports.ports, strict=True)}
        self.servers = [
            Server(_process(name, members, data, consul), Client(transport, members[name])) for name in NAMES
        ]
        # Whether servers are asked for all they hold too, which costs them some milliseconds.
        self.compares = False
        self._looked = trio.Event()
        self._turn = trio.Lock()

    # --- Life and death ---

    async def start(self, server: Server, nursery: trio.Nursery) -> None:
        """Start a server, and wait until it answers. The story ends if it ends by itself."""
        await server.process.start()
        nursery.start_soon(server.process.watch)
        await self.eventually(lambda: server.told is not None, f"an answer of server {server.name}")

    async def kill(self, server: Server) -> None:
        """Kill it, with SIGKILL. What it has on its disk is all that is left of it."""
        async with self._turn:
            server.past += [server.told] if server.told is not None else []
            await server.process.kill()
            server.told = server.held = None

    async def stop(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.shield = True
            for server in self.servers:
                nursery.start_soon(server.process.stop)

    async def cut_off(self, alone: Server | None) -> None:
        """Pull all cables between one server and the others; None to plug all in again."""
        for server in self.servers:
            server.is_cut_off = server is alone
        for server in self.servers:
            others = [each for each in self.servers if each.is_cut_off != server.is_cut_off]
            await server.client.ask("Pull", addresses=[each.client.address for each in others])

    # --- Looking ---

    async def keep_looking(self) -> None:
        while True:
            async with self._turn, trio.open_nursery() as nursery:
                for server in self.servers:
                    nursery.start_soon(self._look_at, server)
            self._looked.set()
            self._looked = trio.Event()
            await trio.sleep(LOOK_S)

    async def _look_at(self, server: Server) -> None:
        server.held = None
        try:
            server.told = await server.client.ask("Tell") if server.process.is_running else None
            if self.compares:
                server.held = (await server.client.ask("Hold"))["held"]
        except TransportError:
            server.told = None

    async def eventually(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until what the servers tell is as it should be. Raises: DemoFailed if it is not after a long time."""
        with trio.move_on_after(PATIENCE_S):
            while not condition():
                await self._looked.wait()
            return
        evidence = [f"{server.name} tells {server.told}\n{server.process.log_tail()}" for server in self.servers]
        raise DemoFailed(f"not within {PATIENCE_S:.0f} s: {what}", "\n".join(evidence))

    @property
    def told(self) -> Sequence[dict[str, Any]]:
        """What those servers told that answer."""
        return [server.told for server in self.servers if server.told is not None]

    @property
    def leader(self) -> Server | None:
        """The one that leads; of two that say so, the one of the later term."""
        leaders = [(server.told["term"], server) for server in self.servers if server.told and server.told["leads"]]
        return max(leaders, key=lambda pair: pair[0])[1] if leaders else None

    def total(self, count: str) -> int:
        return sum(server.total(count) for server in self.servers)


def _process(name: str, members: dict[str, str], data: Path, consul: str | None) -> NodeProcess:
    if consul is None:
        finding = [f"{member}={address}" for member, address in members.items()]
    else:
        # Of the others the names are enough: where they are, Consul says.
        finding = [f"{name}={members[name]}", *(member for member in members if member != name), "--consul", consul]
    options = ["--data", str(data), "--tick", str(TICK_S), "--exit-with-stdin"]
    command = [sys.executable, "-m", "cluster_center.server", name, *finding, *options]
    return NodeProcess(name, members[name], command, data / f"{name}.log", Path(__file__).parent.parent)
