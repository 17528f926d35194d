"""Real Consul agents on loopback: started, stopped, frozen and started again by tests."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx2
import pytest

from clustercore.cli.demo.ports import PortReservation

__all__ = ["TOKEN", "ConsulAgent", "ConsulServers", "dev_agent", "needs_consul", "three_servers"]

needs_consul = pytest.mark.skipif(
    shutil.which("consul") is None, reason="no consul is installed (Debian has it in bullseye: see .ci/run)"
)

# Of the agents with ACLs, the one that may do everything. It is shown nowhere.
TOKEN = "0f4e6c1a-1111-2222-3333-9d8c7b6a5f4e"

# Generous: it only ends a test that hangs.
_LIMIT_S = 60
_STARTS = 3


@attrs.define(eq=False)
class ConsulAgent:
    """An agent: its files, and its process if it runs."""

    folder: Path
    host: str
    port: int
    options: Sequence[str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> str:
        """Everything it said."""
        return (self.folder / "consul.log").read_text(errors="replace")

    def start(self) -> None:
        """Start it. It need not answer yet."""
        with (self.folder / "consul.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["consul", "agent", *self.options], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it by a signal, if it runs."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(_LIMIT_S)
            self.process = None

    def freeze(self) -> None:
        """Let it take connections and answer nothing, until ``thaw``."""
        assert self.process is not None, "it runs"
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it answer again."""
        assert self.process is not None, "it runs"
        self.process.send_signal(signal.SIGCONT)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask its API, with the token that may do everything. Raises: httpx2.HTTPError."""
        with httpx2.Client(base_url=self.url, trust_env=False, headers={"X-Consul-Token": TOKEN}) as client:
            answer = client.request(method, path, content=b"" if body is None else json.dumps(body).encode())
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def wait_until(self, holds: Callable[[ConsulAgent], bool]) -> None:
        """Wait until something holds; an agent that does not answer is asked again."""
        give_up_at = time.monotonic() + _LIMIT_S
        while True:
            try:
                if holds(self):
                    return
            except httpx2.HTTPError:
                if self.process is None or self.process.poll() is not None:
                    raise AssertionError(f"consul has ended:\n{self.log}") from None
            assert time.monotonic() < give_up_at, self.log
            time.sleep(0.05)

    def wait_led(self) -> None:
        """Wait until it knows a leader and its catalog has its machine."""
        self.wait_until(lambda agent: bool(agent.ask("GET", "/v1/status/leader")))
        self.wait_until(lambda agent: any(node["Node"] == agent.name for node in agent.ask("GET", "/v1/catalog/nodes")))

    @property
    def name(self) -> str:
        """What Consul calls its machine."""
        return f"machine-{self.host.rpartition('.')[2]}"


def _options(folder: Path, host: str, ports: Sequence[int], more: dict[str, Any]) -> list[str]:
    http, server, lan, wan = ports
    config = {
        "node_name": f"machine-{host.rpartition('.')[2]}",
        "bind_addr": host,
        "client_addr": host,
        "ports": {"http": http, "server": server, "serf_lan": lan, "serf_wan": wan, "dns": -1, "grpc": -1},
        "disable_update_check": True,
        # Elections as quick as they may be.
        "performance": {"raft_multiplier": 1},
        "acl": {"enabled": True, "default_policy": "deny", "tokens": {"master": TOKEN, "agent": TOKEN}},
        **more,
    }
    path = folder / "consul.json"
    path.write_text(json.dumps(config))
    return ["-config-file", str(path)]


@contextmanager
def dev_agent(folder: Path) -> Iterator[ConsulAgent]:
    """Run ``consul agent -dev``, with ACLs, within the block. It keeps everything in memory: a restart loses it."""
    for attempt in range(1, _STARTS + 1):
        with closing(PortReservation(4)) as reserved:
            options = ["-dev", *_options(folder, "127.0.0.1", reserved.ports, {})]
            agent = ConsulAgent(folder, "127.0.0.1", reserved.ports[0], options)
            try:
                agent.start()
                try:
                    agent.wait_led()
                except AssertionError:
                    # Another process has taken a UDP port, which nobody can hold for it.
                    if attempt == _STARTS:
                        raise
                    continue
                yield agent
                return
            finally:
                agent.end()


class ConsulServers:
    """Three servers that keep their data, each on a loopback address of its own, at the same ports."""

    def __init__(self, agents: Sequence[ConsulAgent]) -> None:
        self.agents = agents

    def start(self) -> None:
        """Start those that do not run, and wait for a leader."""
        for agent in self.agents:
            if agent.process is None:
                agent.start()
        for agent in self.agents:
            agent.wait_led()

    def end(self) -> None:
        """Kill all of them."""
        for agent in self.agents:
            agent.end()


@contextmanager
def three_servers(folder: Path) -> Iterator[ConsulServers]:
    """Run three servers within the block."""
    for attempt in range(1, _STARTS + 1):
        with closing(PortReservation(4)) as reserved:
            hosts = [f"127.0.0.{number}" for number in (1, 2, 3)]
            agents = []
            for host in hosts:
                own = folder / f"{host}-{attempt}"
                own.mkdir()
                more = {
                    "server": True,
                    "bootstrap_expect": 3,
                    "data_dir": str(own / "data"),
                    "retry_join": [f"{other}:{reserved.ports[2]}" for other in hosts if other != host],
                    "retry_interval": "1s",
                    # One that was killed is to come back under its own name at once.
                    "leave_on_terminate": False,
                }
                agents.append(ConsulAgent(own, host, reserved.ports[0], _options(own, host, reserved.ports, more)))
            servers = ConsulServers(agents)
            try:
                try:
                    servers.start()
                except AssertionError:
                    if attempt == _STARTS:
                        raise
                    continue
                yield servers
                return
            finally:
                servers.end()
