"""The page: what each server tells, what the sync sends, and what it saves. Live on a terminal, else lines."""

import time

import trio
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from .center import LOOK_S, Center, Server
from .kinds import ENDED

LINES = 10


class Page:
    def __init__(self, center: Center, console: Console, *, is_live: bool) -> None:
        self._center = center
        self._console = console
        # It is drawn by ``keep_drawing``: a thread of its own would outlive a story that ends early.
        self._live = Live(console=console, auto_refresh=False, transient=True) if is_live else None
        self._began_at = time.monotonic()
        self._lines: list[str] = []
        # How long all that a server holds is on the wire.
        self._packed_bytes = 0

    def say(self, line: str) -> None:
        line = f"{time.monotonic() - self._began_at:5.1f} s  {line}"
        self._lines.append(line)
        if self._live is None:
            self._console.print(line, soft_wrap=True, highlight=False)

    async def keep_drawing(self) -> None:
        if self._live is None:
            return
        with self._live:
            while True:
                self._live.update(self.render(), refresh=True)
                await trio.sleep(LOOK_S)

    async def measure(self) -> None:
        """Find out what a transfer of everything would send: what each session would, were there no increments."""
        self._packed_bytes = (await self._center.servers[0].client.ask("Hold"))["packed_bytes"]

    @property
    def saved_bytes(self) -> int:
        return self._center.total("sessions") * self._packed_bytes - self._center.total("sync_bytes")

    @property
    def conflicts(self) -> int:
        """Conflicts that were resolved, each counted once, whichever servers noticed it."""
        return len({conflict for told in self._center.told for conflict in told["conflicts"]})

    def render(self) -> Group:
        table = Table(title="Cluster Center", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for name in ("", "role", "healthy"):
            table.add_column(name, no_wrap=True)
        for name in ("running", "ended", "flying", "heartbeats", "lag", "conflicts"):
            table.add_column(name, no_wrap=True, justify="right")
        for server in self._center.servers:
            table.add_row(server.name, *_cells(server))
        center = self._center
        figures = (
            f" sync: {center.total('sessions')} sessions, {center.total('sync_bytes') / 1e6:.2f} MB; "
            f"{self.saved_bytes / 1e6:.2f} MB saved by increments; {self.conflicts} conflicts resolved"
        )
        return Group(table, figures, Panel("\n".join(self._lines[-LINES:]), title="what happens"))


def _cells(server: Server) -> tuple[str, ...]:
    told = server.told
    if told is None:
        return ("silent" if server.process.is_running else "off", *[""] * 7)
    states = told["missions"]
    return (
        f"leads {told['term']}" if told["leads"] else "cut off" if server.is_cut_off else "follows",
        " ".join(told["healthy"]),
        str(states.count("RUNNING")),
        str(sum(state in ENDED for state in states)),
        str(told["flying"]),
        f"{server.total('heartbeats'):,}",
        "" if told["lag_s"] is None else f"{told['lag_s']:.0f} s",
        str(len(told["conflicts"])),
    )
