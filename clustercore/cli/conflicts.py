"""``clustercore conflicts``: what a node decided between edits that did not know each other, and the way back."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import attrs
import click
import trio
from rich.table import Table

from clustercore.cli.exits import Exit, leave, run
from clustercore.cli.options import cluster_option, json_option, nodes_option, timeout_option, transport_option
from clustercore.cli.output import console, print_json, print_line
from clustercore.cli.remote import open_transport
from clustercore.interfaces import (
    ConfigError,
    LinkClosed,
    OutcomeUnknown,
    PeerTimeout,
    PeerUnreachable,
    ServiceTransport,
    TransportError,
)
from clustercore.sync.conflict_log import AmbiguousConflict, Conflict, ConflictSide, match_conflict
from clustercore.sync.conflict_service import ConflictClient

__all__ = ["conflicts", "describe", "listing", "read_file"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

# How every entry begins in a file.
_BEGINNING = b'{"conflict_id":'


@click.group()
def conflicts() -> None:
    """Read which edits met that did not know each other, and write a losing one back.

    Every node that saw both edits has the entry, under the same id; `list` and `show` ask the first --node that
    answers, or read a --file that a log wrote. Exit codes: 0 done, 1 failed, 2 refused (several ids begin with the
    digits that were given), 3 there is no such conflict, 4 the value may or may not be written back.
    """


def _target_options(function: F) -> F:
    for add in (json_option, timeout_option(10.0), cluster_option, transport_option, nodes_option):
        function = add(function)
    return function


_file_option = click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Read a log's file of JSON lines, and ask no node. Those that were moved aside (FILE.1, ...) belong to it.",
)


def _check_id(context: click.Context, parameter: click.Parameter, text: str) -> str:
    if not text:
        raise click.BadParameter("it is empty; expected an id, or its first digits")
    return text


_id_argument = click.argument("conflict_id", metavar="ID", callback=_check_id)


@attrs.frozen
class _Target:
    nodes: Sequence[str]
    transport: str
    cluster_id: str
    timeout_s: float

    async def read(self, ask: Callable[[ConflictClient], Awaitable[T]]) -> T:
        """Ask the nodes in turn, until one answers. Raises: TransportError, saying of each why it did not."""
        reasons = []
        async with open_transport(self.transport, nodes=self.nodes, cluster_id=self.cluster_id) as transport:
            for address in self.nodes:
                try:
                    return await self._ask(_with_services(transport), address, ask)
                except TransportError as error:
                    reasons.append(f"{address}: {error}")
        raise PeerUnreachable("; ".join(reasons))

    async def write(self, ask: Callable[[ConflictClient], Awaitable[T]]) -> T:
        """Ask the first node that can be reached. Raises: OutcomeUnknown if it did not answer."""
        reasons = []
        async with open_transport(self.transport, nodes=self.nodes, cluster_id=self.cluster_id) as transport:
            for address in self.nodes:
                try:
                    return await self._ask(_with_services(transport), address, ask)
                except PeerUnreachable as error:
                    reasons.append(f"{address}: {error}")
                except (LinkClosed, PeerTimeout) as error:
                    raise OutcomeUnknown(f"{address}: {error}; the value may or may not be written back") from error
        raise PeerUnreachable("; ".join(reasons))

    async def _ask(self, transport: ServiceTransport, address: str, ask: Callable[[ConflictClient], Awaitable[T]]) -> T:
        with trio.move_on_after(self.timeout_s):
            return await ask(ConflictClient(transport, address))
        raise PeerTimeout(f"no answer within {self.timeout_s:g} s")


def _with_services(transport: object) -> ServiceTransport:
    if not isinstance(transport, ServiceTransport):
        raise ConfigError(
            f"--transport: {type(transport).__name__} carries no services, so it cannot ask for conflicts"
        )
    return transport


@conflicts.command("list")
@click.option("--kind", help="Of this kind of entity only.")
@click.option("--id", "entity_id", help="Of the entity with this id only.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="So many of the newest.")
@_file_option
@_target_options
def list_conflicts(
    kind: str | None, entity_id: str | None, limit: int, path: Path | None, as_json: bool, **target: Any
) -> None:
    """Show the newest conflicts, and how often each rule decided."""
    if path is not None:
        found = [
            entry for entry in read_file(path) if kind in (None, entry.kind) and entity_id in (None, entry.entity_id)
        ]
        shown, total, counts = found[-limit:], len(found), []
    else:
        answer = run(_Target(**target).read, lambda client: client.list(kind=kind, entity_id=entity_id, limit=limit))
        shown, total, counts = list(answer[0]), answer[1], list(answer[2])
    if as_json:
        print_json({"total": total, "conflicts": [entry.to_json() for entry in shown], "counts": counts})
        return
    print_line(f"{len(shown)} of {total} conflicts, the newest last")
    console().print(listing(shown))
    for count in counts:
        print_line(
            f"{count['count']} x {count['kind']}/{count['group']} by {count['rule']}: "
            f"{count['winner_node']} over {count['loser_node']}"
        )


@conflicts.command()
@_id_argument
@_file_option
@_target_options
def show(conflict_id: str, path: Path | None, as_json: bool, **target: Any) -> None:
    """Show both sides of conflict ID, which may be the first digits of an id."""
    if path is not None:
        try:
            entry = match_conflict(conflict_id, read_file(path))
        except AmbiguousConflict as error:
            leave(error)
    else:
        entry = run(_Target(**target).read, lambda client: client.show(conflict_id))
    if entry is None:
        _say_that_there_is_none(conflict_id)
    elif as_json:
        print_json(entry.to_json())
    else:
        print_line(describe(entry))


@conflicts.command()
@_id_argument
@_target_options
def restore(conflict_id: str, as_json: bool, **target: Any) -> None:
    """Write the losing value of conflict ID back, as a new edit of the node that is asked."""
    restored = run(_Target(**target).write, lambda client: client.restore(conflict_id))
    if not restored:
        _say_that_there_is_none(conflict_id)
    elif as_json:
        print_json({"restored": conflict_id})
    else:
        print_line(f"the losing value of {conflict_id} is written back")


def _say_that_there_is_none(conflict_id: str) -> None:
    click.echo(f"clustercore: there is no conflict whose id begins with {conflict_id}", err=True)
    raise click.exceptions.Exit(Exit.NO)


# --- Showing ---------------------------------------------------------------------------------------------------------


def read_file(path: Path) -> Iterator[Conflict]:
    """Yield the entries of a log's file, and of those that were moved aside, oldest first and each id once.

    Raises: click.ClickException for a line that is no entry, but for a last one that is not finished.
    """
    told: set[str] = set()
    with ExitStack() as stack:
        for part, file in reversed(list(_open_parts(path, stack))):
            for number, line in enumerate(file, 1):
                entry = _read_line(part, number, line)
                # A machine's log has an entry again for each time that the Raft log was gone through.
                if entry is not None and entry.conflict_id not in told:
                    told.add(entry.conflict_id)
                    yield entry


def _open_parts(path: Path, stack: ExitStack) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a log's file and those that were moved aside, newest first.

    In this order one that is moved aside meanwhile may be opened twice, and none is missed.
    """
    yield path, stack.enter_context(path.open("rb"))
    numbers = (older.name.removeprefix(f"{path.name}.") for older in path.parent.iterdir())
    for number in sorted(int(number) for number in numbers if number.isdecimal() and number.isascii()):
        part = path.with_name(f"{path.name}.{number}")
        with suppress(FileNotFoundError):
            yield part, stack.enter_context(part.open("rb"))


def _read_line(part: Path, number: int, line: bytes) -> Conflict | None:
    """Return the entry in a line; None if it is the beginning of one whose end has not been written."""
    try:
        return Conflict.from_json(json.loads(line.decode()))
    except (KeyError, TypeError, ValueError) as error:
        if not line.endswith(b"\n") and (line.startswith(_BEGINNING) or _BEGINNING.startswith(line)):
            return None
        what = f"{part}, line {number}: no entry of a conflict log: {_why(error)}"
        raise click.ClickException(what) from error


def _why(error: Exception) -> str:
    match error:
        case UnicodeDecodeError():
            return f"byte {error.start + 1} is not UTF-8"
        case json.JSONDecodeError():
            return f"it is not JSON at column {error.colno}: {error.msg}"
        case KeyError():
            return f"it has no {error}"
        case _:
            return str(error)


def listing(entries: Sequence[Conflict]) -> Table:
    """Return a table with a row for each conflict."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for text in ("id", "noticed", "what", "rule", "winner", "loser"):
        table.add_column(text, no_wrap=text != "what")
    for entry in entries:
        table.add_row(
            entry.conflict_id[:12],
            _moment(entry.detected_at_ms),
            f"{entry.kind}/{entry.entity_id} {entry.group}",
            entry.rule,
            _name(entry.winner),
            _name(entry.loser),
        )
    return table


def describe(entry: Conflict) -> str:
    """Return all there is to say of a conflict, as some lines."""
    lines = [
        f"conflict  {entry.conflict_id}",
        f"what      {entry.kind}/{entry.entity_id}, group {entry.group}",
        f"noticed   {_moment(entry.detected_at_ms)} by {entry.node_id}",
        f"decided   by {entry.rule} ({entry.resolver})",
        f"winner    {_side(entry.winner)}",
        f"loser     {_side(entry.loser)}",
        f"holds     {_value(entry.result)}",
    ]
    return "\n".join(lines)


def _side(side: ConflictSide) -> str:
    base = "nothing" if side.base is None else f"version {side.base.version} of {side.base.node_id}"
    time = side.stamp.hybrid_time
    value = "deletes the entity" if side.is_deletion else _value(side.value)
    return f"{_name(side)} at {_moment(time.physical_ms)}+{time.logical}, over {base}: {value}"


def _name(side: ConflictSide) -> str:
    return f"{side.node_id} v{side.stamp.version}"


def _value(value: bytes | None) -> str:
    return "deleted" if value is None else value.decode(errors="backslashreplace")


def _moment(time_ms: int) -> str:
    try:
        moment = datetime.fromtimestamp(time_ms // 1000, UTC).replace(microsecond=time_ms % 1000 * 1000)
    except (OverflowError, ValueError, OSError):
        # A clock that is wrong by thousands of years.
        return f"{time_ms} ms"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
