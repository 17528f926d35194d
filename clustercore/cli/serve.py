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

from clustercore.cli.config import NodePlan, read_node_plan
from clustercore.cli.exits import leave, run
from clustercore.cli.options import json_option
from clustercore.cli.output import print_json
from clustercore.interfaces import ClusterError

__all__ = ["serve"]

logger = logging.getLogger("clustercore.serve")

# A node stops within a write and a farewell. One that has not by then hangs, and must not outlive its operator's wish.
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
@json_option
def serve(config_path: Path, log_level: str, exit_with_stdin: bool, as_json: bool) -> None:
    """Run the node that a configuration file describes.

    Logs to standard error, one line for each change of role. SIGTERM and SIGINT stop it, with exit code 0. With --json,
    standard output gets a line for each event: serving, role, stopped.
    """
    logging.basicConfig(level=log_level.upper(), format=_LOG_FORMAT, stream=sys.stderr)
    try:
        plan = read_node_plan(config_path)
        if exit_with_stdin and not stat.S_ISFIFO(os.fstat(0).st_mode):
            raise click.UsageError("--exit-with-stdin: standard input is no pipe")
    except ClusterError as error:
        leave(error)
    run(_serve, plan, exit_with_stdin, print_json if as_json else _tell_nobody)


async def _serve(plan: NodePlan, exit_with_stdin: bool, tell: Tell) -> None:
    reasons: list[str] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(_stop_on_signal, nursery.cancel_scope, reasons)
        if exit_with_stdin:
            nursery.start_soon(_stop_at_end_of_stdin, nursery.cancel_scope, reasons)
        await _run_node(plan, tell)
    # The limit has done its duty.
    signal.alarm(0)
    reason = ", ".join(reasons)
    logger.info("node %s: stopped by %s", plan.node_id, reason)
    tell({"event": "stopped", "node_id": plan.node_id, "reason": reason})


async def _run_node(plan: NodePlan, tell: Tell) -> None:
    async with plan.make_node() as node:
        logger.info("node %s: serving at %s", plan.node_id, node.address)
        tell({"event": "serving", "node_id": plan.node_id, "address": node.address})
        # The node itself logs its changes of role.
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


async def _stop_on_signal(
    scope: trio.CancelScope, reasons: list[str], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            _stop(scope, reasons, signal.Signals(number).name)
            # The handlers end with this block: a second signal ends the process as it would any other.
            return


async def _stop_at_end_of_stdin(scope: trio.CancelScope, reasons: list[str]) -> None:
    """Stop when nobody holds the other end of the pipe any more.

    This is how a child notices the death of its parent: the kernel closes the pipe also after a SIGKILL. Whatever is
    written into it is thrown away.
    """
    while True:
        await trio.lowlevel.wait_readable(0)
        if not os.read(0, 65536):
            break
    _stop(scope, reasons, "end of standard input")


def _stop(scope: trio.CancelScope, reasons: list[str], reason: str) -> None:
    reasons.append(reason)
    # SIGALRM's default action ends the process, whatever Python is doing.
    signal.alarm(_STOP_LIMIT_S)
    scope.cancel()


def _tell_nobody(_: dict[str, Any]) -> None:
    return None
