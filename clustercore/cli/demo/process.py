"""One node of the demo: a process of its own, which never outlives the demo.

Its standard input is a pipe that only the demo holds. When the demo ends in whatever way, also by SIGKILL, the kernel
closes the pipe, and the node, which has to look at it, stops.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import trio

from clustercore.cli.demo.errors import DemoFailed

__all__ = ["NodeProcess"]

# After SIGTERM a node gets so long before SIGKILL.
_GRACE_S = 5.0
_TAIL_LINES = 15
_TAIL_BYTES = 16 * 1024


class NodeProcess:
    """A node's process: started, killed and started again, with one log.

    Args:
        node_id: Whose it is.
        address: Where it serves.
        command: The program and its arguments. It ends when its standard input does.
        log_path: The file that gets what it says, after what is in it.
        folder: Where it runs; None for the folder of this process.
    """

    def __init__(
        self, node_id: str, address: str, command: Sequence[str], log_path: Path, folder: Path | None = None
    ) -> None:
        self.node_id = node_id
        self.address = address
        self.log_path = log_path
        self._command = command
        self._folder = folder
        self._process: trio.Process | None = None
        # The processes that the demo has ended itself.
        self._ended: set[trio.Process] = set()

    async def start(self) -> None:
        """Start the process. It is not serving yet."""
        with self.log_path.open("ab") as log:
            # A session of its own: a Ctrl-C at the terminal is for the demo, which then ends its nodes in order.
            self._process = await trio.lowlevel.open_process(
                self._command,
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    async def wait(self) -> int:
        """Wait for the end of the process and return its exit code; negative for a signal."""
        assert self._process is not None, "start() comes first"
        return await self._process.wait()

    async def watch(self) -> None:
        """Return when the demo ends the process that runs now. Raises: DemoFailed if it ends by itself."""
        process = self._process
        assert process is not None, "start() comes first"
        code = await process.wait()
        if process not in self._ended:
            raise self.failure(code)

    def failure(self, code: int) -> DemoFailed:
        """Return the error that says how the process ended, with the end of its log."""
        how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        return DemoFailed(f"node {self.node_id} ended unexpectedly, {how}", self.log_tail())

    async def kill(self) -> None:
        """End the process with SIGKILL, and wait until it is gone."""
        assert self._process is not None, "start() comes first"
        self._ended.add(self._process)
        self._process.kill()
        await self._process.wait()
        await self._close_stdin()

    async def stop(self) -> None:
        """End the process, if there is one: with SIGTERM, and after some seconds with SIGKILL. Cannot be cancelled."""
        if self._process is None:
            return
        self._ended.add(self._process)
        with trio.CancelScope(shield=True):
            self._process.terminate()
            with trio.move_on_after(_GRACE_S):
                await self._process.wait()
            await self.kill()

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - _TAIL_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"{self.log_path} cannot be read: {error.strerror}"
        return "\n".join((f"--- the end of {self.log_path} ---", *lines[-_TAIL_LINES:]))

    async def _close_stdin(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            await self._process.stdin.aclose()
