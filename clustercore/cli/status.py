"""``clustercore status``: how the nodes see themselves and each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import click
import trio
from rich.table import Table

from clustercore.cli.exits import Exit, run
from clustercore.cli.options import cluster_option, json_option, nodes_option, timeout_option, transport_option
from clustercore.cli.output import console, print_json
from clustercore.cli.remote import StatusProbe, open_transport
from clustercore.interfaces import Configuration, NodeStatus, PeerStatus, Role, Server, Transport, TransportError

__all__ = ["NodeAnswer", "ask_all", "configuration_json", "standing_of", "status", "status_table", "waiting_lines"]


@attrs.frozen
class NodeAnswer:
    """What one node answered, or why it did not."""

    address: str
    # Exactly one of the two is None.
    status: NodeStatus | None
    error: str | None

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` shows."""
        told = None
        if self.status is not None:
            told = attrs.asdict(self.status, filter=lambda field, _: field.name != "configuration")
            told |= {"role": self.status.role.value, "members": configuration_json(self.status.configuration)}
        return {"address": self.address, "status": told, "error": self.error}


@click.command()
@nodes_option
@transport_option
@cluster_option
@timeout_option(3.0)
@json_option
def status(nodes: tuple[str, ...], transport: str, cluster_id: str, timeout_s: float, as_json: bool) -> None:
    """Show role, term, log, commit and applied index, and the peers' lag of each node given.

    Below, for each node that waits before it can take part: for whom or what.

    Exits with 1 if one of them does not answer.
    """
    answers = run(_status, nodes, transport, cluster_id, timeout_s)
    if as_json:
        print_json({"nodes": [answer.as_json() for answer in answers]})
    else:
        console().print(status_table(answers))
        for line in waiting_lines(answers):
            console().print(line, markup=False, highlight=False)
    if any(answer.status is None for answer in answers):
        raise SystemExit(Exit.FAILED)


async def _status(addresses: Sequence[str], transport_name: str, cluster_id: str, timeout_s: float) -> list[NodeAnswer]:
    async with open_transport(transport_name, nodes=addresses, cluster_id=cluster_id) as transport:
        return await ask_all(transport, addresses, timeout_s)


async def ask_all(transport: Transport, addresses: Sequence[str], timeout_s: float) -> list[NodeAnswer]:
    """Ask all nodes at once; return their answers in the order of the addresses."""
    answers: dict[str, NodeAnswer] = {}

    async def ask(address: str) -> None:
        probe = StatusProbe(transport, address, timeout_s=timeout_s)
        try:
            answers[address] = NodeAnswer(address, await probe.ask(), None)
        except TransportError as error:
            answers[address] = NodeAnswer(address, None, str(error))
        finally:
            await probe.aclose()

    async with trio.open_nursery() as nursery:
        for address in dict.fromkeys(addresses):
            nursery.start_soon(ask, address)
    return [answers[address] for address in dict.fromkeys(addresses)]


def status_table(answers: Sequence[NodeAnswer]) -> Table:
    """Return a table with a row for each node, also for those that did not answer."""
    # Narrow enough for the 80 columns of a terminal, where a squeezed table cannot be read.
    table = Table(box=None, padding=(0, 1, 0, 0))
    for text in ("node", "address", "role"):
        table.add_column(text, no_wrap=True)
    for number in ("term", "log", "commit", "applied"):
        table.add_column(number, justify="right", no_wrap=True)
    table.add_column("health", no_wrap=True)
    table.add_column("peers: lag")
    for answer in answers:
        table.add_row(*_row(answer))
    return table


def waiting_lines(answers: Sequence[NodeAnswer]) -> list[str]:
    """Return a line for each node that waits for something before it can take part."""
    told = [answer.status for answer in answers if answer.status is not None]
    return [f"node {status.node_id} {status.waiting}" for status in told if status.waiting]


def _row(answer: NodeAnswer) -> Sequence[str]:
    if answer.status is None:
        return ("?", answer.address, "no answer", "", "", "", "", "", answer.error or "")
    told = answer.status
    is_leader = told.role is Role.LEADER
    return (
        told.node_id,
        answer.address,
        _role(told),
        str(told.term),
        f"{told.first_log_index}..{told.last_log_index}",
        str(told.commit_index),
        str(told.last_applied),
        _health(told),
        ", ".join(_peer(peer, is_leader) for peer in told.peers),
    )


def _role(told: NodeStatus) -> str:
    """Say what a node does, and what it is to the cluster if that is not just a voter."""
    own = told.configuration.get(told.node_id)
    if told.is_removed:
        return "removed"
    if not told.configuration.servers and told.configuration_index == 0 and told.term == 0:
        return "waits to be added"
    text = told.role.value
    if told.role is Role.FOLLOWER:
        is_learner = own is not None and not own.is_voter and told.node_id not in told.configuration.old_voters
        text = "learner" if is_learner else text
        text = f"{text} of {told.leader_id}" if told.leader_id else text
    return f"{text}, joint" if told.configuration.is_joint else text


def _health(told: NodeStatus) -> str:
    """Say in a word how the node is; why is in ``--json``."""
    if told.health.not_serving:
        return "not serving"
    return "degraded" if told.health.degraded else "ok"


def _peer(peer: PeerStatus, is_leader: bool) -> str:
    """Only a leader knows how far the others are."""
    return f"{peer.node_id}: {peer.lag}" if is_leader else peer.node_id


def configuration_json(configuration: Configuration) -> dict[str, Any]:
    """Return members as ``--json`` shows them."""
    return {
        "cluster_id": configuration.cluster_id,
        "is_joint": configuration.is_joint,
        "servers": [
            {"node_id": server.node_id, "standing": standing_of(server, configuration), "address": server.address}
            for server in configuration.servers
        ],
    }


def standing_of(server: Server, configuration: Configuration) -> str:
    """Say what a member is to the cluster, in one or two words."""
    is_old = server.node_id in configuration.old_voters
    if server.is_voter:
        return "voter" if is_old or not configuration.is_joint else "new voter"
    if is_old:
        return "leaving" if server.is_leaving else "learner next"
    return "promoted next" if server.is_promoted else "learner"
