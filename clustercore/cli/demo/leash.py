"""Runs a program of somebody else's that must not outlive whoever holds this process's standard input.

``python -m clustercore.cli.demo.leash COMMAND ...``. When standard input, a pipe, ends, in whatever way, the program is
ended with SIGTERM, and some seconds later with SIGKILL. When the program ends by itself, its exit code is passed on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import trio

__all__ = ["run_on_leash"]


async def run_on_leash(command: Sequence[str]) -> int:
    """Run the program, and return its exit code, or 0 if it was ended because standard input has.

    Raises: OSError if there is no such program.
    """
    code = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_wait_for_the_end_of_stdin, nursery.cancel_scope)
        code = (await trio.run_process(command, stdin=subprocess.DEVNULL, check=False)).returncode
        nursery.cancel_scope.cancel()
    return code


async def _wait_for_the_end_of_stdin(scope: trio.CancelScope) -> None:
    while True:
        await trio.lowlevel.wait_readable(0)
        if not os.read(0, 65536):
            scope.cancel()
            return


if __name__ == "__main__":
    sys.exit(trio.run(run_on_leash, sys.argv[1:]))
