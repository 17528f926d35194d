"""The how-to guide of three machines with Consul, done as it says, with loopback addresses for its machines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from clustercore.cli.demo.ports import PortReservation
from tests.consul_agent import needs_consul
from tests.unit.docs_pages import blocks, commands
from tests.unit.repository import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.slow, needs_consul]

PAGE = ROOT / "docs/how-to/three-machines-with-consul.md"
FILES = {block.file_name: block.text for block in blocks(PAGE, "hcl", "toml")}
COMMANDS = list(commands(PAGE))
# Generous: it only ends a test that hangs.
LIMIT_S = 90


@attrs.frozen
class Machines:
    """Three folders, what runs in them, and how a command of the page is to be read."""

    folder: Path
    # Of Consul: http, server, serf on the LAN and on the WAN.
    ports: Sequence[int]
    node_port: int
    running: list[subprocess.Popen[bytes]] = attrs.field(factory=list)
    environment: dict[str, str] = attrs.field(factory=lambda: dict(os.environ))

    def own(self, number: int) -> Path:
        """Return a machine's folder."""
        return self.folder / f"machine-{number}"

    def read(self, text: str, number: int) -> str:
        """Return a text of the page as it is on a machine."""
        text = text.replace("127.0.0.1:8500", f"127.0.0.{number}:{self.ports[0]}")
        text = text.replace('client_addr      = "127.0.0.1"', f'client_addr      = "127.0.0.{number}"')
        text = text.replace('"machine-1"', f'"machine-{number}"').replace("n1", f"n{number}")
        for name in ("bind_addr        = ", "listen = "):
            text = text.replace(f'{name}"10.0.0.1', f'{name}"10.0.0.{number}')
        text = text.replace(":7101", f":{self.node_port}")
        return text.replace("10.0.0.", "127.0.0.")

    def command(self, *beginning: str, number: int = 1) -> list[str]:
        """Return the one command of the page that begins so, as it is on a machine."""
        (words,) = [words for words in COMMANDS if words[: len(beginning)] == list(beginning)]
        words = [self.read(word, number) for word in words]
        return [sys.executable, "-P", "-m", "clustercore.cli", *words[1:]] if words[0] == "clustercore" else words

    def start(self, command: list[str], number: int) -> None:
        """Start something that runs on."""
        own = self.own(number)
        with (own / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=own, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running.append(process)

    def run(self, command: list[str]) -> str:
        """Run something to its end, on the first machine, until it succeeds; return what it says."""
        give_up_at = time.monotonic() + LIMIT_S
        while True:
            done = subprocess.run(
                command, cwd=self.own(1), env=self.environment, capture_output=True, timeout=LIMIT_S, check=False
            )
            if done.returncode == 0:
                return done.stdout.decode()
            logs = "\n".join((self.own(number) / "log").read_text()[-2000:] for number in (1, 2, 3))
            assert time.monotonic() < give_up_at, f"{command}: {done.stderr.decode()}\n{logs}"
            time.sleep(0.2)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """Three machines whose files are those of the page; what still runs at the end is killed."""
    with ExitStack() as stack:
        *ports, node_port = stack.enter_context(closing(PortReservation(5))).ports
        machines = Machines(tmp_path, ports, node_port)
        names = dict(zip(("http", "server", "serf_lan", "serf_wan"), ports, strict=True)) | {"dns": -1, "grpc": -1}
        for number in (1, 2, 3):
            own = machines.own(number)
            own.mkdir()
            consul = machines.read(FILES["consul.hcl"], number)
            # The page uses Consul's own ports, which another Consul may have here.
            consul = re.sub(r'"(127\.0\.0\.\d)"(?=[],])', rf'"\1:{ports[2]}"', consul)
            lines = "".join(f"  {name} = {port}\n" for name, port in names.items())
            (own / "consul.hcl").write_text(f"{consul}ports {{\n{lines}}}\n")
            (own / "clustercore.hcl").write_text(FILES["clustercore.hcl"])
            (own / f"n{number}.toml").write_text(machines.read(FILES["n1.toml"], number))
        machines.environment["CONSUL_HTTP_ADDR"] = f"127.0.0.1:{ports[0]}"
        try:
            yield machines
        finally:
            for process in machines.running:
                process.kill()
                process.wait()


def secret_of(answer: str) -> str:
    """Return the token that a command of Consul shows."""
    found = re.search(r"^SecretID: +(\S+)$", answer, re.MULTILINE)
    assert found, answer
    return found[1]


def test_three_machines_as_the_page_says(machines: Machines) -> None:
    """Its files and commands, in its order, make a cluster of three that keeps what it is told, and Consul knows it."""
    for number in (1, 2, 3):
        machines.start(machines.command("consul", "agent"), number)
    machines.environment["CONSUL_HTTP_TOKEN"] = secret_of(machines.run(machines.command("consul", "acl", "bootstrap")))
    machines.run(machines.command("consul", "acl", "policy"))
    token = secret_of(machines.run(machines.command("consul", "acl", "token")))
    for number in (3, 1, 2):
        (machines.own(number) / "consul.token").write_text(token)
        machines.start(machines.command("clustercore", "serve", number=number), number)

    machines.run(machines.command("clustercore", "kv", "put"))
    assert "hello" in machines.run(machines.command("clustercore", "kv", "get"))
    assert status(machines) == ["n1", "n2", "n3"]
    catalog = machines.run(machines.command("consul", "catalog", "services"))
    assert re.search(r"^clustercore\b.*clustercore\.cluster=", catalog, re.MULTILINE), catalog
    assert token not in "".join((machines.own(number) / "log").read_text() for number in (1, 2, 3))


def status(machines: Machines) -> list[str]:
    """Return who answers and is a voter."""
    give_up_at = time.monotonic() + LIMIT_S
    while True:
        told: Any = json.loads(machines.run([*machines.command("clustercore", "status"), "--json"]).splitlines()[-1])
        seen = {
            tuple(one["node_id"] for one in node["status"]["members"]["servers"] if one["standing"] == "voter")
            for node in told["nodes"]
        }
        if len(seen) == 1 and len(min(seen)) == 3:
            return sorted(seen.pop())
        assert time.monotonic() < give_up_at, told
        time.sleep(0.1)
