"""``clustercore kv``: read and write the key-value store."""

from __future__ import annotations

import base64
import math
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import attrs
import click
import trio

from clustercore.cli.exits import Exit, run
from clustercore.cli.kv_client import KvClient, KvEvent, all_pairs, open_kv_client
from clustercore.cli.options import cluster_option, json_option, nodes_option, timeout_option, transport_option
from clustercore.cli.output import print_json, print_line
from clustercore.interfaces import OutcomeUnknown, PeerTimeout

__all__ = ["kv"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@attrs.frozen
class Target:
    """Which cluster to ask, and for how long."""

    nodes: Sequence[str]
    transport: str
    cluster_id: str
    timeout_s: float

    async def read(self, ask: Callable[[KvClient], Awaitable[T]]) -> T:
        """Ask a question that changes nothing. Raises: PeerTimeout; in a group, what the question raises."""
        async with open_kv_client(self.transport, self.nodes, self.cluster_id) as client:
            with trio.move_on_after(self.timeout_s):
                return await ask(client)
        raise self.no_answer(client)

    async def write(self, ask: Callable[[KvClient], Awaitable[T]]) -> T:
        """Ask for a change. Raises: OutcomeUnknown, also when the time is over."""
        try:
            return await self.read(ask)
        except PeerTimeout as error:
            raise OutcomeUnknown(f"{error}; the write may or may not be carried out") from None

    def no_answer(self, client: KvClient) -> PeerTimeout:
        """Return the error that says for each node why it did not answer in time."""
        reasons = (f"{address}: {client.failures.get(address, 'no answer yet')}" for address in self.nodes)
        return PeerTimeout(f"no answer within {self.timeout_s:g} s: {'; '.join(reasons)}")


@click.group()
def kv() -> None:
    """Read and write the key-value store of a cluster.

    Any node passes requests on to the leader. Exit codes: 0 done, 1 failed, 2 refused, 3 the key is absent or not as
    expected, 4 the write may or may not be carried out.
    """


def _target_options(function: F) -> F:
    for add in (json_option, timeout_option(10.0), cluster_option, transport_option, nodes_option):
        function = add(function)
    return function


_retry_option = click.option(
    "--retry-unknown",
    is_flag=True,
    help="Repeat the write when its outcome is unknown. It may then be carried out twice, also after later writes.",
)
_local_option = click.option(
    "--local", is_flag=True, help="Read what the answering node has applied, which may be stale."
)


@kv.command()
@click.argument("key")
@click.argument("value")
@_retry_option
@_target_options
def put(key: str, value: str, retry_unknown: bool, as_json: bool, **target: Any) -> None:
    """Set KEY to VALUE; a VALUE of - is read from standard input."""
    data = _value(value)
    result = run(_target(target).write, lambda client: client.put(key, data, retry_unknown=retry_unknown))
    if as_json:
        print_json({"key": key, "revision": result.revision})
    else:
        print_line(f"set, revision {result.revision}")


@kv.command()
@click.argument("key")
@_local_option
@_target_options
def get(key: str, local: bool, as_json: bool, **target: Any) -> None:
    """Print the value of KEY. Exits with 3 if it is absent."""
    result = run(_target(target).read, lambda client: client.get(key, local=local))
    if as_json:
        print_json(
            {"key": key} | _shown(result.value) | {"revision": result.revision, "applied_index": result.applied_index}
        )
    elif result.value is not None:
        _print_value(result.value)
    if result.value is None:
        _say_no(f"there is no key {key!r}")


@kv.command()
@click.argument("key")
@_retry_option
@_target_options
def delete(key: str, retry_unknown: bool, as_json: bool, **target: Any) -> None:
    """Remove KEY. It is no error if it is absent."""
    result = run(_target(target).write, lambda client: client.delete(key, retry_unknown=retry_unknown))
    if as_json:
        print_json({"key": key, "deleted": result.deleted, "revision": result.revision})
    else:
        print_line(f"deleted, revision {result.revision}" if result.deleted else "was absent")


@kv.command()
@click.argument("key")
@click.argument("value")
@click.option("--expect", metavar="VALUE", help="The value that KEY must have.")
@click.option("--expect-revision", metavar="N", type=click.IntRange(min=0), help="The revision of KEY's last change.")
@click.option("--expect-absent", is_flag=True, help="KEY must not exist.")
@_retry_option
@_target_options
def cas(
    key: str,
    value: str,
    expect: str | None,
    expect_revision: int | None,
    expect_absent: bool,
    retry_unknown: bool,
    as_json: bool,
    **target: Any,
) -> None:
    """Set KEY to VALUE if it is as expected. Exits with 3 if it is not."""
    data, expected = _value(value), _expected(expect, expect_revision, expect_absent)
    result = run(
        _target(target).write, lambda client: client.cas(key, data, expected=expected, retry_unknown=retry_unknown)
    )
    if as_json:
        there = {} if result.swapped else _shown(result.value)
        print_json({"key": key, "swapped": result.swapped, "revision": result.revision} | there)
    elif result.swapped:
        print_line(f"set, revision {result.revision}")
    if not result.swapped:
        _say_no(
            f"the key {key!r} is absent" if result.value is None else f"the key {key!r} has revision {result.revision}"
        )


@kv.command()
@click.argument("prefix", default="")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Print at most so many keys; else all.")
@click.option("--start-after", default="", metavar="KEY", help="Only keys after this one.")
@_local_option
@_target_options
def scan(prefix: str, limit: int | None, start_after: str, local: bool, as_json: bool, **target: Any) -> None:
    """Print the keys that start with PREFIX, and their values, in order.

    Many keys are read in pages, each of one moment. With --json, a line for each key.
    """
    wanted = limit if limit is not None else math.inf

    async def print_pages(client: KvClient) -> None:
        async for pair in all_pairs(client, prefix, start_after=start_after, local=local, limit=wanted):
            if as_json:
                print_json({"key": pair.key} | _shown(pair.value) | {"revision": pair.revision})
            else:
                print_line(f"{pair.key}\t{pair.value.decode(errors='backslashreplace')}")

    run(_target(target).read, print_pages)


@kv.command()
@click.argument("prefix", default="")
@click.option("--after-revision", type=click.IntRange(min=0), metavar="N", help="Also changes made since this one.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many changes.")
@_target_options
def watch(prefix: str, after_revision: int | None, count: int | None, as_json: bool, **target: Any) -> None:
    """Print each change to keys that start with PREFIX, as it is made. --timeout is for the first answer."""
    run(_watch, _target(target), prefix, after_revision, count, as_json)


# --- Work ------------------------------------------------------------------------------------------------------------


async def _watch(target: Target, prefix: str, after_revision: int | None, count: int | None, as_json: bool) -> None:
    left = count if count is not None else math.inf
    async with open_kv_client(target.transport, target.nodes, target.cluster_id) as client:
        with trio.move_on_after(target.timeout_s) as scope:
            async with client.watch(prefix, after_revision=after_revision) as events:
                scope.deadline = math.inf
                async for event in events:
                    _print_event(event, as_json)
                    left -= 1
                    if left <= 0:
                        return
    raise target.no_answer(client)


def _target(options: dict[str, Any]) -> Target:
    return Target(options["nodes"], options["transport"], options["cluster_id"], options["timeout_s"])


def _value(text: str) -> bytes:
    """Return the bytes of an argument; the shell may have handed over some that are no UTF-8."""
    return sys.stdin.buffer.read() if text == "-" else text.encode(errors="surrogateescape")


def _expected(value: str | None, revision: int | None, is_absent: bool) -> bytes | int | None:
    if sum((value is not None, revision is not None, is_absent)) != 1:
        raise click.UsageError("give exactly one of --expect, --expect-revision and --expect-absent")
    if value is not None:
        return value.encode(errors="surrogateescape")
    return revision


def _shown(value: bytes | None) -> dict[str, str | None]:
    """Return a value for JSON, which has no bytes: as text if it is UTF-8, else in base 64 under another name."""
    if value is None:
        return {"value": None}
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(value).decode()}


def _print_value(value: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(value + b"\n")
    sys.stdout.buffer.flush()


def _print_event(event: KvEvent, as_json: bool) -> None:
    kind = "delete" if event.value is None else "put"
    if as_json:
        print_json({"event": kind, "key": event.key} | _shown(event.value) | {"revision": event.revision})
    elif event.value is None:
        print_line(f"{event.revision}\t{kind}\t{event.key}")
    else:
        print_line(f"{event.revision}\t{kind}\t{event.key}\t{event.value.decode(errors='backslashreplace')}")


def _say_no(why: str) -> None:
    sys.stderr.write(f"clustercore: {why}\n")
    raise SystemExit(Exit.NO)
