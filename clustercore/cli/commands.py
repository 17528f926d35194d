"""The root of the command line."""

from __future__ import annotations

import click

from clustercore.cli.conflicts import conflicts
from clustercore.cli.demo import demo
from clustercore.cli.fuzz import fuzz
from clustercore.cli.kv import kv
from clustercore.cli.members import members
from clustercore.cli.mutants import mutants
from clustercore.cli.plugins_command import plugins
from clustercore.cli.retry import retry
from clustercore.cli.serve import serve
from clustercore.cli.status import status
from clustercore.cli.trace import trace

__all__ = ["root"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="clustercore")
def root() -> None:
    """Replicated state that survives the loss of machines: run nodes, ask them, and see what they bear."""


for command in (demo, serve, kv, status, members, conflicts, plugins, retry, fuzz, mutants, trace):
    root.add_command(command)
