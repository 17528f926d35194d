"""The root of the command line.

A command is imported when it is run, or all are to be listed: what it takes to fuzz is no burden to who reads a key.
"""

from __future__ import annotations

from importlib import import_module

import click

__all__ = ["root"]

# Each command by its name: the module, and what it is called there.
_COMMANDS = {
    "demo": "clustercore.cli.demo:demo",
    "serve": "clustercore.cli.serve:serve",
    "kv": "clustercore.cli.kv:kv",
    "status": "clustercore.cli.status:status",
    "members": "clustercore.cli.members:members",
    "conflicts": "clustercore.cli.conflicts:conflicts",
    "plugins": "clustercore.cli.plugins_command:plugins",
    "retry": "clustercore.cli.retry:retry",
    "fuzz": "clustercore.cli.fuzz:fuzz",
    "mutants": "clustercore.cli.mutants:mutants",
    "trace": "clustercore.cli.trace:trace",
}


class _LazyGroup(click.Group):
    """A group whose commands are imported as they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="clustercore")
def root() -> None:
    """Replicated state that survives the loss of machines: run nodes, ask them, and see what they bear."""
