"""What only the discovery by DNS does: it turns records into members, and believes each answer for its time."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import dns.asyncresolver
import dns.message
import dns.resolver
import dns.rrset
import pytest
import trio

from clustercore.interfaces import ConfigError, DiscoverySnapshot, Member, NodeId
from clustercore_dns import DnsDiscovery
from clustercore_dns.lookup import Found
from tests.scripted_dns import ScriptedDns

SERVICE = "_raft._tcp.kv.example."


@pytest.fixture
def server() -> Iterator[ScriptedDns]:
    """A name server for one test."""
    with ScriptedDns() as server:
        yield server


def discovery(server: ScriptedDns, service: str = SERVICE, **how: Any) -> DnsDiscovery:
    """A discovery that asks it, very often."""
    options: dict[str, Any] = {"server": server.address, "min_interval_s": 0.01, "timeout_s": 0.3} | how
    return DnsDiscovery(service, **options)


async def after(found: DnsDiscovery, snapshot: DiscoverySnapshot) -> DiscoverySnapshot:
    """Wait for the next snapshot."""
    with trio.fail_after(20):
        return await found.changed(snapshot.version)


async def test_service_names_ids_and_addresses(server: ScriptedDns) -> None:
    """The id is the first label of the target, the address its name and the port of the record."""
    server.tell_service(SERVICE, {"kv-1.kv.example.": 7101, "kv-0.kv.example.": 7102})
    async with discovery(server, SERVICE.rstrip(".")) as found:
        snapshot = await found.members()

    assert snapshot.members == (
        Member(NodeId("kv-0"), "kv-0.kv.example:7102"),
        Member(NodeId("kv-1"), "kv-1.kv.example:7101"),
    )
    assert snapshot.source == "dns"


async def test_service_that_is_decidedly_not_there_is_nobody(server: ScriptedDns) -> None:
    """The target "." says so (RFC 2782), and is no member."""
    server.tell_service(SERVICE, {".": 0})
    async with discovery(server) as found:
        assert (await found.members()).members == ()


async def test_hosts_are_members_if_they_have_addresses(server: ScriptedDns) -> None:
    """Of A records the lowest, of AAAA records if there are none; one without an address is not there."""
    server.zone["n1.example.", "A"] = ["0 IN A 10.0.0.9", "0 IN A 10.0.0.1"]
    server.zone["n2.example.", "AAAA"] = ["0 IN AAAA fd00::2"]
    hosts = ["n1.example", "n2.example", "n3.example"]
    async with discovery(server, "", hosts=hosts, port=7101) as found:
        snapshot = await found.members()

    assert {member.node_id: member.address for member in snapshot.members} == {
        "n1": "10.0.0.1:7101",
        "n2": "[fd00::2]:7101",
    }


async def test_chain_of_names_is_followed(server: ScriptedDns) -> None:
    """A CNAME leads to the records, and the shorter time to live of the two holds."""

    def answer(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.answer += [
            dns.rrset.from_text("n1.example.", 7, "IN", "CNAME", "other.example."),
            dns.rrset.from_text("other.example.", 60, "IN", "A", "10.0.0.1"),
        ]
        return response

    server.script = answer
    found = discovery(server, "", hosts=["n1.example"], port=7101)
    assert await found._lookup.ask() == Found((Member(NodeId("n1"), "10.0.0.1:7101"),), 7)


@pytest.mark.parametrize("script", ["refuse", None], ids=["SERVFAIL", "silence"])
async def test_failure_keeps_the_last_members(server: ScriptedDns, script: str | None) -> None:
    """They are stale until there is an answer again; the log names the question."""
    server.tell_service(SERVICE, {"a.example.": 1})
    async with discovery(server) as found:
        good = await found.members()
        server.script = getattr(server, script) if script is not None else None
        stale = await after(found, good)
        assert (stale.members, stale.is_stale) == (good.members, True)

        server.script = server.answer_from_zone
        assert not (await after(found, stale)).is_stale


async def test_one_host_that_fails_leaves_all_as_they_were(server: ScriptedDns) -> None:
    """Half an answer is none: whom nobody could ask about is not gone."""
    server.zone["n1.example.", "A"] = ["0 IN A 10.0.0.1"]
    server.zone["n2.example.", "A"] = ["0 IN A 10.0.0.2"]
    async with discovery(server, "", hosts=["n1.example", "n2.example"], port=1) as found:
        good = await found.members()
        server.script = lambda query: (
            server.refuse(query) if "n2" in str(query.question[0]) else server.answer_from_zone(query)
        )
        assert (await after(found, good)).members == good.members


@pytest.mark.parametrize("kind", ["name", "records"])
async def test_negative_answer_keeps_the_last_members(server: ScriptedDns, kind: str) -> None:
    """NXDOMAIN, or a name without such records, once there was somebody."""
    server.tell_service(SERVICE, {"a.example.": 1})
    async with discovery(server) as found:
        good = await found.members()
        if kind == "name":
            server.zone.clear()
        else:
            server.zone[SERVICE, "SRV"] = []
        stale = await after(found, good)

    assert (stale.members, stale.is_stale) == (good.members, True)


async def test_answer_is_believed_for_its_time_within_bounds(server: ScriptedDns) -> None:
    """A little less, so that nodes ask at different moments; that nobody is there is believed for 5 s at most."""
    somebody = (Member(NodeId("a"), "a:1"),)
    found = discovery(server, min_interval_s=1.0, max_interval_s=30.0, rng=Random(1))
    for answer, longest in [
        (Found(somebody, 12), 12),
        (Found(somebody, 0), 1),
        (Found(somebody, 3600), 30),
        (Found((), 3600), 5),
        (Found((), 2), 2),
    ]:
        assert 0.9 * longest <= found._holds_s(answer) <= longest

    server.tell_service(SERVICE, {"a.example.": 1}, ttl_s=600)
    assert (await found._lookup.ask()).ttl_s == 600
    server.negative_ttl_s = 17
    server.zone.clear()
    assert await found._lookup.ask() == Found((), 17)


async def test_failures_are_asked_again_with_growing_pauses(server: ScriptedDns) -> None:
    """From the shortest interval to the longest, and from the start again after an answer."""
    found = discovery(server, min_interval_s=1.0, max_interval_s=4.0)
    server.script = server.refuse
    pauses = [await found._ask() for _ in range(4)]
    for pause, base_s in zip(pauses, (1, 2, 4, 4), strict=True):
        assert 0.8 * base_s <= pause <= 1.2 * base_s

    server.tell_service(SERVICE, {"a.example.": 1})
    assert await found._ask() <= 1
    server.script = server.refuse
    assert await found._ask() < 1.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either service"),
        ({"service": SERVICE, "hosts": ["a"], "port": 1}, "give either service"),
        ({"hosts": ["a"]}, "port = 0"),
        ({"hosts": ["a"], "port": 65536}, "port = 65536"),
        ({"service": "a..b"}, "'a..b' is no name of the DNS"),
        ({"service": SERVICE, "server": "ns.example:53"}, "server = 'ns.example:53': expected an IP address and port"),
        ({"service": SERVICE, "server": "10.0.0.1"}, "server = '10.0.0.1': expected an IP address and port"),
        ({"service": SERVICE, "timeout_s": 0}, "timeout_s = 0"),
        ({"service": SERVICE, "server": "fd00::10:53"}, "server = 'fd00::10:53'"),
        ({"service": SERVICE, "min_interval_s": 0}, "a back-off from 0 s"),
        ({"service": SERVICE, "max_interval_s": 0.5}, "to 0.5 s"),
    ],
)
def test_dns_discovery_names_what_is_wrong(options: dict[str, Any], message: str) -> None:
    """A wrong configuration raises ConfigError with the value and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        DnsDiscovery(**{"server": "127.0.0.1:53", **options})

    assert message in str(caught.value)


async def test_error_of_the_block_leaves_as_it_is(server: ScriptedDns) -> None:
    """It has nothing to do with the task that asks; nor is it lost when all is cancelled."""

    async def fail(*, is_cancelled: bool) -> None:
        with trio.CancelScope() as scope:
            async with discovery(server):
                if is_cancelled:
                    scope.cancel()
                raise KeyError("own")

    for is_cancelled in (False, True):
        with pytest.raises(KeyError):
            await fail(is_cancelled=is_cancelled)


async def test_machine_without_a_resolver_is_an_error_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration may be read elsewhere than where it is used; what is missing is told when it is needed."""

    def unconfigured(self: object, configure: bool = True) -> None:
        raise dns.resolver.NoResolverConfiguration

    found = DnsDiscovery(SERVICE)
    monkeypatch.setattr(dns.asyncresolver.Resolver, "__init__", unconfigured)

    with pytest.raises(ConfigError, match="server is not given, and this machine has no resolver configured"):
        await found.__aenter__()
