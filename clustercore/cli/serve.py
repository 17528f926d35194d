"""``clustercore serve``: one node, until a signal ends it."""

from __future__ import annotations

import logging
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import trio

from clustercore.cli.config import NodeOverrides, NodePlan, read_node_plan
from clustercore.cli.exits import leave, run
from clustercore.cli.options import json_option
from clustercore.cli.output import print_json
from clustercore.health.cluster_health import HealthEvent
from clustercore.interfaces import ClusterError, StatusChange
from clustercore.runtime.node import Node

__all__ = ["serve"]

logger = logging.getLogger("clustercore.serve")

# A node stops within a write, an election timeout and a farewell. One that has not by then hangs, and must not outlive
# its operator's wish.
_STOP_LIMIT_S = 30
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LEVELS = ("debug", "info", "warning", "error")

Tell = Callable[[dict[str, Any]], None]


@click.command()
@click.option("--config", "config_path", required=True, type=click.Path(path_type=Path), metavar="FILE")
@click.option("--log-level", type=click.Choice(_LEVELS), default="info", show_default=True)
@click.option(
    "--exit-with-stdin",
    is_flag=True,
    help="Stop when standard input, which must be a pipe, ends: when the process that holds it ends, in whatever way.",
)
@click.option(
    "--join",
    "join",
    multiple=True,
    is_flag=False,
    flag_value="",
    metavar="[HOST:PORT]",
    help="Ask a running cluster to add this node: whom its discovery knows, and the node at HOST:PORT; may be "
    "repeated. A node that was added already just goes on.",
)
@click.option("--node-id", metavar="ID", help="This node's id, in place of the file's.")
@click.option("--advertise", metavar="HOST:PORT", help="Where others reach this node, in place of the file's.")
@click.option(
    "--discovery",
    metavar="NAME",
    help="The plugin that finds the others, in place of the file's; its options are in the table [discovery].",
)
@click.option(
    "--expect",
    type=click.IntRange(min=1),
    metavar="N",
    help="Form a cluster with the nodes that discovery knows, which begins with so many voters: one node, the founder, "
    "forms it, and the others are added. The same on every node, and at every start.",
)
@click.option(
    "--founder",
    metavar="ID",
    help="The node that forms it. By default the one that is called like this one, with the number 1: n1, for n3.",
)
@json_option
def serve(
    config_path: Path,
    log_level: str,
    exit_with_stdin: bool,
    join: tuple[str, ...],
    as_json: bool,
    **overrides: Any,
) -> None:
    """Run the node that a configuration file describes.

    Logs to standard error, one line for each change of role. SIGTERM and SIGINT stop it, with exit code 0: a leader
    hands over first, for at most an election timeout, unless a second signal comes. A node that finds that it was
    removed from its cluster stops with exit code 1. With --json, standard output gets a line for each event: serving,
    role, removed, stopping, stopped; and health, health action, if the file has a table [health].
    """
    logging.basicConfig(level=log_level.upper(), format=_LOG_FORMAT, stream=sys.stderr)
    if log_level == "info":
        # It logs every request that a plugin makes: that is for those who look for a fault.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        plan = read_node_plan(config_path, NodeOverrides(**overrides))
        if join:
            plan = plan.joining(tuple(address for address in join if address))
        if exit_with_stdin and not stat.S_ISFIFO(os.fstat(0).st_mode):
            raise click.UsageError("--exit-with-stdin: standard input is no pipe")
    except ClusterError as error:
        leave(error)
    run(_serve, plan, exit_with_stdin, print_json if as_json else _tell_nobody)


class _Stop:
    """Ends the node: in order when asked once, at once when asked again."""

    def __init__(self, node_id: str, tell: Tell) -> None:
        self._node_id = node_id
        self._tell = tell
        # Why, in the order of asking.
        self.reasons: list[str] = []
        # What it ends with, if not in peace.
        self.error: ClusterError | None = None
        # Around the life of the node, and around the body of its block: leaving that lets it hand over.
        self.life = trio.CancelScope()
        self.body = trio.CancelScope()
        self.is_serving = False

    def ask(self, reason: str) -> None:
        """Stop in order, or at once if it was asked before or the node does not serve yet."""
        self.reasons.append(reason)
        # SIGALRM's default action ends the process, whatever Python is doing.
        signal.alarm(_STOP_LIMIT_S)
        if self.is_serving and len(self.reasons) == 1:
            logger.info("node %s: %s: stopping; a second signal stops it at once", self._node_id, reason)
            self._tell({"event": "stopping", "node_id": self._node_id, "reason": reason})
            self.body.cancel()
        else:
            self.life.cancel()


async def _serve(plan: NodePlan, exit_with_stdin: bool, tell: Tell) -> None:
    stop = _Stop(plan.node_id, tell)
    async with trio.open_nursery() as nursery:
        await nursery.start(_stop_on_signal, stop)
        if exit_with_stdin:
            nursery.start_soon(_stop_at_end_of_stdin, stop)
        with stop.life:
            await _run_node(plan, stop, tell)
        nursery.cancel_scope.cancel()
    # The limit has done its duty.
    signal.alarm(0)
    reason = ", ".join(stop.reasons)
    logger.info("node %s: stopped by %s", plan.node_id, reason)
    tell({"event": "stopped", "node_id": plan.node_id, "reason": reason})
    if stop.error is not None:
        raise stop.error


def _tell_health(plan: NodePlan, tell: Tell) -> None:
    """Have what health finds, and what is done about it, told. The log has it anyway."""
    if plan.health is None:
        return

    def tell_change(change: StatusChange) -> None:
        tell(
            {
                "event": "health",
                "node_id": plan.node_id,
                "peer": change.node_id,
                "old": change.old,
                "new": change.new,
                "reason": change.reason,
            }
        )

    def tell_action(event: HealthEvent) -> None:
        tell(
            {
                "event": "health action",
                "node_id": plan.node_id,
                "peer": event.node_id,
                "kind": event.kind,
                "guard": event.guard,
                "term": event.term,
                "detail": event.detail,
            }
        )

    plan.health.checker.subscribe(tell_change)
    plan.health.on_event(tell_action)


async def _run_node(plan: NodePlan, stop: _Stop, tell: Tell) -> None:
    _tell_health(plan, tell)
    async with plan.make_node() as node:
        logger.info("node %s: serving at %s", plan.node_id, node.address)
        tell({"event": "serving", "node_id": plan.node_id, "address": node.address})
        stop.is_serving = True
        # The node itself logs its changes of role.
        with stop.body:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop_when_removed, node, stop, tell)
                async for change in node.role_changes():
                    tell(
                        {
                            "event": "role",
                            "node_id": plan.node_id,
                            "role": change.role.value,
                            "term": change.term,
                            "leader_id": change.leader_id,
                        }
                    )


async def _stop_when_removed(node: Node, stop: _Stop, tell: Tell) -> None:
    """Stop a node that is no member any more: it would wait for ever, and its operator would not know."""
    index = await node.wait_removed()
    tell({"event": "removed", "node_id": node.node_id, "index": index})
    stop.error = ClusterError(
        f"node {node.node_id!r} was removed from its cluster, at index {index} at the latest; to have it back, run "
        "`clustercore members add` and start it again; otherwise retire it"
    )
    stop.ask("removal from the cluster")


async def _stop_on_signal(stop: _Stop, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            stop.ask(signal.Signals(number).name)
            if stop.life.cancel_called:
                # The handlers end with this block: a further signal ends the process as it would any other.
                return


async def _stop_at_end_of_stdin(stop: _Stop) -> None:
    """Stop when nobody holds the other end of the pipe any more.

    This is how a child notices the death of its parent: the kernel closes the pipe also after a SIGKILL. Whatever is
    written into it is thrown away.
    """
    while True:
        await trio.lowlevel.wait_readable(0)
        if not os.read(0, 65536):
            break
    stop.ask("end of standard input")


def _tell_nobody(_: dict[str, Any]) -> None:
    return None
