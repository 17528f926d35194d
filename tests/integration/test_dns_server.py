"""Discovery by DNS against Knot DNS, whose zone is changed while it runs, as Kubernetes changes that of a service."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs
import dns.message
import dns.query
import dns.update
import pytest
import trio

from clustercore import Founding, Node
from clustercore.interfaces import DiscoverySnapshot, LogIndex, StateMachine
from clustercore_dns import DnsDiscovery
from clustercore_memory import MemoryNetwork, MemoryStorage, MemoryTransport
from tests.waiting import until_known

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KNOTD = shutil.which("knotd") or shutil.which("knotd", path="/usr/sbin:/sbin")
LIMIT_S = 60
ZONE = "kv.example."
SERVICE = f"_raft._tcp.{ZONE}"

CONFIG = """
server:
    listen: 127.0.0.1@{port}
    rundir: "{folder}"
database:
    storage: "{folder}"
log:
  - target: stderr
    any: warning
acl:
  - id: anybody
    address: 127.0.0.1
    action: update
template:
  - id: default
    storage: "{folder}"
zone:
  - domain: {zone}
    file: "zone"
    acl: anybody
    zonefile-sync: -1
    journal-content: none
    zonefile-load: whole
"""
RECORDS = """\
$TTL 1
@ SOA ns admin 1 60 60 60 1
@ NS ns
ns A 127.0.0.1
"""


@attrs.define
class Knot:
    """A running server, and a way to change its zone."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Run it, and return once it answers."""
        assert KNOTD is not None
        text = CONFIG.format(port=self.port, folder=self.folder, zone=ZONE)
        (self.folder / "knot.conf").write_text(text)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([KNOTD, "-c", str(self.folder / "knot.conf")], stdout=log, stderr=log)
        question = dns.message.make_query(ZONE, "SOA")
        for _ in range(100):
            try:
                if dns.query.udp(question, "127.0.0.1", port=self.port, timeout=0.2).answer:
                    return
            except (dns.exception.Timeout, OSError):
                assert self.process.poll() is None, (self.folder / "log").read_text()
        raise AssertionError(f"knotd does not answer: {(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def update(self, change: Callable[[dns.update.UpdateMessage], None]) -> None:
        """Change the zone (RFC 2136)."""
        message = dns.update.UpdateMessage(ZONE)
        change(message)
        answer = dns.query.tcp(message, "127.0.0.1", port=self.port, timeout=5)
        assert answer.rcode() == 0, answer

    def set_pods(self, *pods: str) -> None:
        """Let the service have these pods, each with its record of a host."""

        def change(message: dns.update.UpdateMessage) -> None:
            message.delete("_raft._tcp")
            for pod in pods:
                message.add("_raft._tcp", 1, "SRV", f"0 0 7101 {pod}.{ZONE}")
                message.replace(pod, 1, "A", "127.0.0.1")

        self.update(change)


@pytest.fixture
def knot(tmp_path: Path) -> Iterator[Knot]:
    """A server whose zone has no pods."""
    if KNOTD is None:
        pytest.skip("knotd is not installed: it is in the package knot of Debian")
    (tmp_path / "zone").write_text(RECORDS)
    with ExitStack() as at_end:
        # Both kinds of sockets have to be free.
        stream = at_end.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        stream.bind(("127.0.0.1", 0))
        server = Knot(tmp_path, stream.getsockname()[1])
        at_end.close()
        at_end.callback(server.stop)
        server.start()
        yield server


def ids(snapshot: DiscoverySnapshot) -> list[str]:
    """Who is told."""
    return [member.node_id for member in snapshot.members]


async def test_pods_come_and_go(knot: Knot) -> None:
    """Nobody is there at first; pods that start are found within the time to live, and one that stops is dropped."""
    with trio.fail_after(LIMIT_S):
        async with DnsDiscovery(SERVICE, server=knot.address, min_interval_s=0.1) as found:
            assert ids(await found.members()) == []

            knot.set_pods("kv-0", "kv-1")
            two = await until_known(found, lambda snapshot: len(snapshot.members) == 2)
            assert [member.address for member in two.members] == ["kv-0.kv.example:7101", "kv-1.kv.example:7101"]

            knot.set_pods("kv-1", "kv-2")
            await until_known(found, lambda snapshot: ids(snapshot) == ["kv-1", "kv-2"])


async def test_server_that_is_killed_costs_no_member(knot: Knot) -> None:
    """Until it is back, what it told last holds, as stale; a zone that is empty then is no reason to forget anybody."""
    knot.set_pods("kv-0", "kv-1")
    with trio.fail_after(LIMIT_S):
        options = {"server": knot.address, "min_interval_s": 0.1, "max_interval_s": 0.5, "timeout_s": 0.5}
        async with DnsDiscovery(SERVICE, **options) as found:  # type: ignore[arg-type]  # one type for all values
            await until_known(found, lambda snapshot: len(snapshot.members) == 2)
            knot.stop()
            stale = await until_known(found, lambda snapshot: snapshot.is_stale)
            assert ids(stale) == ["kv-0", "kv-1"]

            # It comes back as its file says: without pods.
            knot.start()
            await trio.sleep(1)
            assert await found.members() == stale
            knot.set_pods("kv-0", "kv-1")
            fresh = await until_known(found, lambda snapshot: not snapshot.is_stale)
            assert fresh.members == stale.members


async def test_hosts_are_looked_up_one_by_one(knot: Knot) -> None:
    """As where containers have names and no service: who has an address is a member, at that address."""
    with trio.fail_after(LIMIT_S):
        hosts = [f"n{number}.{ZONE}" for number in (1, 2, 3)]
        async with DnsDiscovery(hosts=hosts, port=7101, server=knot.address, min_interval_s=0.1) as found:
            knot.update(lambda message: message.replace("n1", 1, "A", "10.0.0.1"))
            knot.update(lambda message: message.replace("n3", 1, "AAAA", "fd00::3"))
            both = await until_known(found, lambda snapshot: len(snapshot.members) == 2)

    assert {member.node_id: member.address for member in both.members} == {
        "n1": "10.0.0.1:7101",
        "n3": "[fd00::3]:7101",
    }


class Nothing(StateMachine):
    def apply(self, index: LogIndex, command: bytes) -> bytes:
        return command

    def snapshot(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes) -> None:
        pass


async def test_pods_form_one_cluster_that_the_end_of_dns_does_not_end(knot: Knot) -> None:
    """Three nodes find each other by the records of their pods; the server is killed, and they commit all the same."""
    network = MemoryNetwork()

    def pod(name: str) -> Node:
        return Node(
            name,
            machine=Nothing(),
            transport=MemoryTransport(network, f"{name}.kv.example:7101"),
            storage=MemoryStorage(),
            discovery=DnsDiscovery(SERVICE, server=knot.address, min_interval_s=0.1, timeout_s=0.5),
            founding=Founding(expect=3),
        )

    with trio.fail_after(LIMIT_S):
        async with pod("kv-0") as first, pod("kv-1"), pod("kv-2"):
            knot.set_pods("kv-0", "kv-1", "kv-2")
            await first.propose(b"before")
            assert first.status().configuration.voters == {"kv-0", "kv-1", "kv-2"}

            knot.stop()
            await trio.sleep(2)
            assert (await first.propose(b"after")).result == b"after"
            assert first.status().configuration.voters == {"kv-0", "kv-1", "kv-2"}
