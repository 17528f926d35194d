"""``clustercore retry``: what a retry policy does, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click
from rich.table import Table

from clustercore.cli.config import read_toml
from clustercore.cli.exits import leave
from clustercore.cli.options import json_option
from clustercore.cli.output import console, print_json, print_line
from clustercore.cli.retry_samples import sample_error
from clustercore.interfaces import (
    CategoryLimits,
    Classification,
    ClusterError,
    ConfigError,
    RetryPolicy,
    RetryTable,
    RuleRow,
)
from clustercore.runtime.plugins import RETRY_POLICY, make_plugin

__all__ = ["retry"]

F = TypeVar("F", bound=Callable[..., Any])

_EFFECT = {True: "certainly none", False: "not known"}


@click.group()
def retry() -> None:
    """Show what a retry policy does with errors, and why."""


def _policy_options(function: F) -> F:
    add_options = click.option(
        "--options",
        "options_file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="A TOML file with the policy's options, such as rules of your own.",
    )
    add_policy = click.option(
        "--policy",
        default="category",
        show_default=True,
        metavar="NAME",
        help="The retry policy plugin; `clustercore plugins` lists those installed.",
    )
    return add_policy(add_options(json_option(function)))


@retry.command("table")
@_policy_options
def show_table(policy: str, options_file: Path | None, as_json: bool) -> None:
    """Show the limits of each category, and the rules that find the category of an error."""
    table = _policy(policy, options_file).table()
    if as_json:
        print_json(attrs.asdict(table))
    else:
        console().print(_limits_table(table))
        console().print(_rules_table(table))


@retry.command()
@click.argument("sample", metavar="KIND:VALUE")
@click.option("--message", default="", help="The error's text.")
@click.option(
    "--retry-after",
    "retry_after_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="The server says when to come back.",
)
@_policy_options
def explain(
    sample: str, message: str, retry_after_s: float | None, policy: str, options_file: Path | None, as_json: bool
) -> None:
    r"""Tell what the policy makes of an error, and by which rule.

    \b
    The error is one of
      grpc:UNAVAILABLE                a gRPC status
      http:503                        an HTTP status
      errno:ECONNRESET                a code of the operating system
      resolver:EAI_AGAIN              a code of the name resolver
      type:trio.BrokenResourceError   an exception that can be imported
      text:"connection lost"          an unknown exception with a text
    """
    made = _policy(policy, options_file)
    try:
        found = made.explain(sample_error(sample, message, retry_after_s))
    except ConfigError as error:
        leave(error)
    limits = next((row for row in made.table().limits if row.category is found.category), None)
    if as_json:
        print_json(attrs.asdict(found) | {"max_retries": _most(found, limits)})
    else:
        for line in _told(found, limits):
            print_line(line)


def _policy(name: str, options_file: Path | None) -> RetryPolicy:
    try:
        options = {} if options_file is None else dict(read_toml(options_file))
        return make_plugin(RETRY_POLICY, name, options, str(options_file or f"--policy {name}"))
    except ClusterError as error:
        leave(error)


# --- In words --------------------------------------------------------------------------------------------------------


def _most(found: Classification, limits: CategoryLimits | None) -> int:
    return limits.max_retries if limits is not None and found.is_retried else 0


def _told(found: Classification, limits: CategoryLimits | None) -> list[str]:
    if found.category is None or limits is None:
        return [f"category: none ({found.rule})", "retries:  none; it is passed on, and counted nowhere"]
    most = _most(found, limits)
    lines = [f"category: {found.category}", f"rule:     {found.rule}"]
    if not most:
        return [*lines, "retries:  none"]
    if found.retry_after_s is not None:
        wait = f"after {found.retry_after_s:g} s, as the server asks"
    else:
        wait = f"after at most {limits.base_delay_s:g} s, doubling up to {limits.max_delay_s:g} s"
    lines.append(f"retries:  at most {most}, {wait}")
    if found.is_certainly_undone:
        return [*lines, "effect:   certainly none, so any call may be tried again"]
    return [*lines, "effect:   not known, so only a call that is idempotent is tried again"]


def _limits_table(table: RetryTable) -> Table:
    shown = Table("category", "retries", "first wait", "longest wait", "drawn from", title="Limits")
    for row in table.limits:
        shown.add_row(*_limits_row(row))
    return shown


def _limits_row(row: CategoryLimits) -> tuple[str, ...]:
    if not row.max_retries:
        return (row.category.value, "never", "", "", "")
    drawn = f"{1 - row.jitter:.0%} to 100 %".replace("%", " %", 1)
    return (row.category.value, str(row.max_retries), f"{row.base_delay_s:g} s", f"{row.max_delay_s:g} s", drawn)


def _rules_table(table: RetryTable) -> Table:
    shown = Table("rule", "category", "retried", "effect", title="Rules, in the order in which they are consulted")
    most = {row.category: row.max_retries for row in table.limits}
    for rule in table.rules:
        shown.add_row(
            rule.name, rule.category.value, _retried(rule, most[rule.category]), _EFFECT[rule.is_certainly_undone]
        )
    return shown


def _retried(rule: RuleRow, most: int) -> str:
    return "yes" if rule.is_retried and most else "no"
