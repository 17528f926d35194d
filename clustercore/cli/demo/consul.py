"""The demo's Consul: an agent of its own in development mode, which never outlives the demo."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import trio

from clustercore.cli.demo.errors import DemoFailed
from clustercore.cli.demo.ports import PortReservation
from clustercore.interfaces import ConfigError

__all__ = ["DemoConsul"]

_HELP = (
    "--discovery consul: the program `consul` is not in PATH; install it (Debian 11 and Ubuntu 22.04: `apt install "
    "consul`; macOS: `brew install consul`; others: https://developer.hashicorp.com/consul/install), or run the demo "
    "without this option"
)

# How often it is started before the demo gives up: a port may have been taken.
_STARTS = 3
_SERVING_LIMIT_S = 30.0
_GRACE_S = 10.0
_POLL_S = 0.05
_TAIL_LINES = 15


class DemoConsul:
    """An agent with free ports that keeps everything in memory.

    Raises: ConfigError if Consul is not installed; the text says how to install it.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("consul")
        if program is None:
            raise ConfigError(_HELP)
        self._program = program
        self.log_path = folder / "consul.log"
        self._ports: PortReservation | None = None
        self._process: trio.Process | None = None

    @property
    def discovery(self) -> str:
        """The table [discovery] of a node that is to be found in it, and the one by which a cluster is founded."""
        assert self._ports is not None, "start() comes first"
        url = f"http://127.0.0.1:{self._ports.ports[0]}"
        options = f'plugin = "consul"\nurl = {json.dumps(url)}\nservice = "clustercore-demo"\nttl_s = 10\nwait_s = 5\n'
        return f"[discovery]\n{options}\n[founding]\nexpect = 3\n"

    async def start(self) -> None:
        """Start it, and wait until it takes connections. Raises: DemoFailed, with the end of its log."""
        for _ in range(_STARTS):
            self._ports = PortReservation(4)
            await self._launch(self._ports.ports)
            if await self._is_serving(self._ports.ports[0]):
                return
            await self.stop()
        raise DemoFailed("consul does not start", self.log_tail())

    async def watch(self) -> None:
        """Never return. Raises: DemoFailed if it ends by itself."""
        process = self._process
        assert process is not None, "start() comes first"
        code = await process.wait()
        raise DemoFailed(f"consul ended unexpectedly, with exit code {code}", self.log_tail())

    async def stop(self) -> None:
        """End it, if it runs, and let its ports go. Cannot be cancelled."""
        process, self._process = self._process, None
        with trio.CancelScope(shield=True):
            if process is not None and process.stdin is not None:
                # Its leash is let go: see the module.
                await process.stdin.aclose()
                with trio.move_on_after(_GRACE_S):
                    await process.wait()
                process.kill()
                await process.wait()
        if self._ports is not None:
            self._ports.close()

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join((f"--- the end of {self.log_path} ---", *lines[-_TAIL_LINES:]))

    async def _launch(self, ports: tuple[int, ...]) -> None:
        http, server, lan, wan = map(str, ports)
        options = ["-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1", "-http-port", http, "-server-port", server]
        options += ["-serf-lan-port", lan, "-serf-wan-port", wan, "-dns-port", "-1", "-grpc-port", "-1"]
        options += ["-hcl", "disable_update_check = true"]
        leash = [sys.executable, "-P", "-m", "clustercore.cli.demo.leash"]
        with self.log_path.open("ab") as log:
            # A session of its own: a Ctrl-C at the terminal is for the demo, which then ends this in order.
            self._process = await trio.lowlevel.open_process(
                [*leash, self._program, "agent", *options],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def _is_serving(self, port: int) -> bool:
        """Wait until the agent takes connections, or has ended."""
        assert self._process is not None, "it was launched"
        with trio.move_on_after(_SERVING_LIMIT_S):
            while self._process.poll() is None:
                try:
                    stream = await trio.open_tcp_stream("127.0.0.1", port)
                except OSError:
                    await trio.sleep(_POLL_S)
                else:
                    await stream.aclose()
                    return True
        return False
