"""What a demo shows while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clustercore.cli.demo.cluster import DemoCluster
from clustercore.cli.demo.load import Load
from clustercore.cli.status import NodeAnswer, status_table

__all__ = ["View"]

# Into a file or pipe progress is told at most this often.
_LINE_INTERVAL_S = 1.0


class View:
    """The demo's output, up to its summary."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # It is drawn by whoever calls ``draw``: a thread of its own would outlive a cancelled demo.
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._line_at = 0.0

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the table, and leave what was said."""
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays, above the table if there is one."""
        self._console.print(Text(text), soft_wrap=True)

    def draw(self, cluster: DemoCluster, load: Load | None, now: float) -> None:
        """Show the nodes and the progress."""
        if self._live is not None:
            self._live.update(Group(_table(cluster), Text("" if load is None else _progress(load))), refresh=True)
        elif load is not None and load.is_running and now - self._line_at >= _LINE_INTERVAL_S:
            self._line_at = now
            self.say(_progress(load))


def _table(cluster: DemoCluster) -> Table:
    answers = []
    for node in cluster.nodes:
        status = cluster.statuses[node.node_id]
        why = None if status is not None else f"{node.node_id} does not answer" if node.is_running else "dead"
        answers.append(NodeAnswer(node.address, status, why))
    return status_table(answers)


def _progress(load: Load) -> str:
    done = len(load.acknowledged)
    rate = done / load.elapsed_s if load.elapsed_s else 0.0
    return f"{done} of {len(load.writes)} writes acknowledged, {rate:.0f} a second, {load.unknown} made again"
