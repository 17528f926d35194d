"""``clustercore plugins``: what is installed, by interface."""

from __future__ import annotations

import attrs
import click
from rich.table import Table

from clustercore.cli.kv_client import KV_CLIENT
from clustercore.cli.options import json_option
from clustercore.cli.output import console, print_json
from clustercore.runtime.plugins import INTERFACES, InstalledPlugin, installed_plugins

__all__ = ["plugins"]


@click.command()
@json_option
def plugins(as_json: bool) -> None:
    """Show which plugins are installed, by interface."""
    found = installed_plugins((*INTERFACES, KV_CLIENT))
    if as_json:
        print_json({interface: [attrs.asdict(plugin) for plugin in group] for interface, group in found.items()})
    else:
        console().print(_table([plugin for group in found.values() for plugin in group]))


def _table(found: list[InstalledPlugin]) -> Table:
    table = Table("interface", "name", "distribution", "version", "target")
    for plugin in found:
        table.add_row(plugin.interface, plugin.name, plugin.distribution, plugin.version, plugin.target)
    return table
