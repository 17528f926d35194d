"""The ``clustercore`` command.

Its libraries (click, rich) are an extra. Only what this file imports is there for sure, so that a missing one is a hint
and not a traceback.
"""

from __future__ import annotations

import sys
from importlib import import_module

__all__ = ["main"]

_EXTRA = frozenset({"click", "rich"})
_MISUSED = 2


def main() -> None:
    """Run the command line in ``sys.argv``, and end the process with an exit code of ``clustercore.cli.exits``."""
    try:
        commands = import_module("clustercore.cli.commands")
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.stderr.write(f"clustercore: {error.name} is not installed; run: pip install clustercore[cli]\n")
        sys.exit(_MISUSED)
    commands.root(prog_name="clustercore")
