"""``clustercore members``: who belongs to the cluster, and changes of that, through any of its nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import attrs
import click
from rich.table import Table

from clustercore.cli.exits import run
from clustercore.cli.options import cluster_option, json_option, nodes_option, timeout_option, transport_option
from clustercore.cli.output import console, print_json, print_line
from clustercore.cli.remote import check_address, open_transport
from clustercore.cli.status import configuration_json, standing_of
from clustercore.interfaces import Configuration, Members, MembersHandle, NodeId, Server
from clustercore.runtime.member_changes import MemberChanges
from clustercore.runtime.remote_members import RemoteMembers

__all__ = ["members", "members_json", "members_table"]

F = TypeVar("F", bound=Callable[..., Any])

# A node that does not answer leaves time to ask the others.
_NODES_IN_TIME = 3

Work = Callable[[MembersHandle, float], Awaitable[Members]]


@click.group()
def members() -> None:
    """List the members of a running cluster, and change them.

    Any node takes any of these; each waits until the change is finished, or --timeout. A change that holds already is
    a success, so one whose outcome is unknown (exit code 4) can be repeated. docs/how-to/change-members.md shows how to
    replace machines.
    """


def _target_options(function: F) -> F:
    for add in (json_option, timeout_option(30.0), cluster_option, transport_option, nodes_option):
        function = add(function)
    return function


_expect_option = click.option(
    "--expect-index",
    type=click.IntRange(min=1),
    metavar="INDEX",
    help="Change nothing if the members are not those of this index any more; `members list` tells it.",
)


@members.command("list")
@_target_options
def list_members(as_json: bool, **target: Any) -> None:
    """Show every member: what it is, where it is, and how far it is behind the leader."""
    _run(target, as_json, lambda handle, timeout_s: handle.get(give_up_s=timeout_s))


@members.command()
@click.argument("node_id", metavar="ID")
@click.argument("address", metavar="HOST:PORT")
@click.option("--learner", is_flag=True, help="Add it without a vote, until it is promoted.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it has caught up; it gets its vote by itself.")
@_expect_option
@_target_options
def add(
    node_id: str, address: str, learner: bool, no_wait: bool, expect_index: int | None, as_json: bool, **target: Any
) -> None:
    """Add node ID, which is reached at HOST:PORT, and wait until it votes.

    It must be started with --join, or with voters = [] in its file.
    """

    async def work(handle: MembersHandle, timeout_s: float) -> Members:
        if learner or no_wait:
            return await handle.add_learner(
                node_id, address, promote=not learner, expected_index=expect_index, give_up_s=timeout_s
            )
        return await handle.add(node_id, address, expected_index=expect_index, give_up_s=timeout_s)

    _run(target, as_json, work, [address])


@members.command()
@click.argument("node_id", metavar="ID")
@_expect_option
@_target_options
def promote(node_id: str, expect_index: int | None, as_json: bool, **target: Any) -> None:
    """Give learner ID a vote, if it has caught up."""
    _run(
        target,
        as_json,
        lambda handle, timeout_s: handle.promote(node_id, expected_index=expect_index, give_up_s=timeout_s),
    )


@members.command()
@click.argument("node_id", metavar="ID")
@_expect_option
@_target_options
def demote(node_id: str, expect_index: int | None, as_json: bool, **target: Any) -> None:
    """Make a learner of voter ID."""
    _run(
        target,
        as_json,
        lambda handle, timeout_s: handle.demote(node_id, expected_index=expect_index, give_up_s=timeout_s),
    )


@members.command()
@click.argument("node_id", metavar="ID")
@_expect_option
@_target_options
def remove(node_id: str, expect_index: int | None, as_json: bool, **target: Any) -> None:
    """Remove member ID, dead or alive. A node that is no member is removed already."""
    _run(
        target,
        as_json,
        lambda handle, timeout_s: handle.remove(node_id, expected_index=expect_index, give_up_s=timeout_s),
    )


@members.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.argument("address", metavar="HOST:PORT")
@_expect_option
@_target_options
def replace(old: str, new: str, address: str, expect_index: int | None, as_json: bool, **target: Any) -> None:
    """Put node NEW, which is reached at HOST:PORT, in the place of member OLD, dead or alive.

    NEW must be started with voters = [] in its file, or with --join. OLD counts until NEW has caught up.
    """
    _run(
        target,
        as_json,
        lambda handle, timeout_s: handle.replace(old, new, address, expected_index=expect_index, give_up_s=timeout_s),
        [address],
    )


@members.command()
@click.argument("node_id", metavar="ID")
@click.argument("address", metavar="HOST:PORT")
@click.option("--force", is_flag=True, help="Do not look first whether the node answers there.")
@_expect_option
@_target_options
def move(node_id: str, address: str, force: bool, expect_index: int | None, as_json: bool, **target: Any) -> None:
    """Note that member ID is reached at HOST:PORT. A node that is started at another address says so itself.

    A node that is well where it is must answer at HOST:PORT too, to the leader, or nothing is changed.
    """
    _run(
        target,
        as_json,
        lambda handle, timeout_s: handle.move(
            node_id, address, force=force, expected_index=expect_index, give_up_s=timeout_s
        ),
        [address],
    )


@members.command("apply")
@click.option("--voter", "voters", multiple=True, metavar="ID[=HOST:PORT]", help="A voter that is to be; repeat it.")
@click.option("--learner", "learners", multiple=True, metavar="ID[=HOST:PORT]", help="A learner that is to be.")
@_expect_option
@_target_options
def apply_members(
    voters: tuple[str, ...], learners: tuple[str, ...], expect_index: int | None, as_json: bool, **target: Any
) -> None:
    """Make the members just the given ones, in one change. New voters must be learners that have caught up."""
    servers = [_server(text, is_voter=True) for text in voters] + [_server(text, is_voter=False) for text in learners]
    try:
        wanted = Configuration.with_servers(servers)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    _run(
        target,
        as_json,
        lambda handle, timeout_s: handle.apply(wanted, expected_index=expect_index, give_up_s=timeout_s),
        [server.address for server in servers if server.address],
    )


def _server(text: str, *, is_voter: bool) -> Server:
    node_id, _, address = text.partition("=")
    if not node_id:
        raise click.UsageError(f"{text!r} names no node; write ID or ID=HOST:PORT")
    return Server(NodeId(node_id), is_voter=is_voter, address=address)


# --- Asking and showing ----------------------------------------------------------------------------------------------


@attrs.frozen
class _Target:
    """Whom to ask, and how."""

    nodes: Sequence[str]
    transport: str
    cluster_id: str
    timeout_s: float

    async def do(self, work: Work, addresses: Sequence[str]) -> Members:
        """Ask, or change something by which members are at these addresses."""
        async with open_transport(self.transport, nodes=self.nodes, cluster_id=self.cluster_id) as transport:
            for address in addresses:
                check_address(transport, "HOST:PORT", address)
            remote = RemoteMembers(transport, lambda: self.nodes, timeout_s=self.timeout_s / _NODES_IN_TIME)
            try:
                return await work(MemberChanges(remote.ask), self.timeout_s)
            finally:
                await remote.aclose()


def _run(target: dict[str, Any], as_json: bool, work: Work, addresses: Sequence[str] = ()) -> None:
    found = run(_Target(**target).do, work, addresses)
    if as_json:
        print_json(members_json(found))
    else:
        print_line(_headline(found))
        console().print(members_table(found))


def _headline(found: Members) -> str:
    state = "" if found.is_settled else "; a change is under way"
    return f"members of index {found.index}, leader {found.leader_id or 'unknown'}{state}"


def members_json(found: Members) -> dict[str, Any]:
    """Return what ``--json`` shows."""
    return {
        "index": found.index,
        "is_committed": found.is_committed,
        "is_settled": found.is_settled,
        "term": found.term,
        "leader_id": found.leader_id,
        "members": configuration_json(found.configuration),
        "peers": [attrs.asdict(peer) for peer in found.peers],
    }


def members_table(found: Members) -> Table:
    """Return a table with a row for each member."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for text in ("node", "standing", "address"):
        table.add_column(text, no_wrap=True)
    table.add_column("lag", justify="right")
    table.add_column("answers")
    peers = {peer.node_id: peer for peer in found.peers}
    for server in found.configuration.servers:
        peer = peers.get(server.node_id)
        is_leader = server.node_id == found.leader_id
        table.add_row(
            server.node_id,
            standing_of(server, found.configuration),
            server.address or "as discovery says",
            "" if peer is None else str(peer.lag),
            "leader" if is_leader else "yes" if peer is not None and peer.is_heard else "no",
        )
    return table
