"""What is written into Consul, and what is read out of it."""

from __future__ import annotations

from typing import Any

import pytest

from clustercore.interfaces import ConfigError, Member, MemberMetadata, NodeId
from clustercore_consul import ConsulDiscovery
from clustercore_consul.catalog import CatalogEntry, newest_of, read_entries, to_registration
from clustercore_consul.errors import ConsulError
from clustercore_consul.options import ConsulOptions

TOLD = MemberMetadata("7f3a", "voter", 4, 2, {"zone": "n"})


def options_of(**options: Any) -> ConsulOptions:
    """Return checked options."""
    return ConsulDiscovery(**options)._options


def answer(registration: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """Return what Consul says of a registration."""
    service = {key: registration[key] for key in ("ID", "Tags", "Meta", "Address", "Port")}
    node = {"Node": "m1", "Address": "10.0.0.1"}
    return [{"Node": node, "Service": service | {"CreateIndex": 7}, "Checks": []} | more]


def entry(node_id: str = "a", **more: Any) -> CatalogEntry:
    """Return an instance that is well, registered by the node itself."""
    values: dict[str, Any] = {
        "member": Member(NodeId(node_id), "host:1"),
        "owner": "m1",
        "owner_address": "10.0.0.1",
        "service_id": "s",
        "registrar": NodeId(node_id),
        "status": "passing",
        "is_owner_lost": False,
        "create_index": 1,
    }
    return CatalogEntry(**(values | more))


def test_registration_has_all_that_consul_is_told() -> None:
    """Id, address for Consul's own DNS, metadata and tags under our prefix, the user's tags, and a TTL check."""
    options = options_of(service="fleet", tags=["blue"], ttl_s=15, deregister_after_s=90)

    body = to_registration(options, Member(NodeId("a"), "[::1]:7001", TOLD), NodeId("a"))

    assert body == {
        "ID": "fleet-a",
        "Name": "fleet",
        "Tags": ["clustercore.cluster=7f3a", "clustercore.role=voter", "clustercore.protocol=4", "blue"],
        "Meta": {
            "clustercore-node-id": "a",
            "clustercore-address": "[::1]:7001",
            "clustercore-registrar": "a",
            "clustercore-told-cluster_id": "7f3a",
            "clustercore-told-role": "voter",
            "clustercore-told-protocol_version": "4",
            "clustercore-told-oldest_protocol_version": "2",
            "clustercore-told-zone": "n",
        },
        "Address": "::1",
        "Port": 7001,
        "EnableTagOverride": False,
        "Checks": [
            {
                "CheckID": "fleet-a:ttl",
                "Name": "heartbeat",
                "TTL": "15000ms",
                "Status": "passing",
                "DeregisterCriticalServiceAfter": "90000ms",
            }
        ],
    }


def test_agent_may_ask_the_node() -> None:
    """The checks "grpc" and "http" say what to ask, how often and how long, and when it is critical for too long."""
    options = options_of(checks=["grpc", "http"], http_check="http://h/status", grpc_check_tls=True, check_interval_s=3)

    grpc, http = to_registration(options, Member(NodeId("a"), "h:7001"), NodeId("a"))["Checks"]

    common = {"Status": "passing", "DeregisterCriticalServiceAfter": "3600000ms"}
    common |= {"Interval": "3000ms", "Timeout": "2000ms"}
    assert grpc == common | {"CheckID": "clustercore-a:grpc", "Name": "grpc", "GRPC": "h:7001", "GRPCUseTLS": True}
    assert http == common | {"CheckID": "clustercore-a:http", "Name": "http", "HTTP": "http://h/status"}


@pytest.mark.parametrize("address", ["host:1", "[::1]:7001", "mem://a", "x" * 500])
@pytest.mark.parametrize(
    "tags", [{}, {"zone": "north"}, {"odd näme, ": "Prüfung\n=", "hex-": "x", "a" * 100: "b" * 512}]
)
def test_what_is_read_is_what_was_written(address: str, tags: dict[str, str]) -> None:
    """Whatever the names of tags and the form of the address, though Consul's metadata takes few characters."""
    member = Member(NodeId("a/b ö"), address, MemberMetadata("c", "learner", 4, 2, tags))

    body = to_registration(options_of(), member, NodeId("z"))
    (read,) = read_entries(answer(body))

    assert read.member == member
    assert (read.registrar, read.is_own, read.owner, read.owner_address) == ("z", False, "m1", "10.0.0.1")


@pytest.mark.parametrize(
    ("member", "complaint"),
    [
        (Member(NodeId("a"), "x" * 513), "clustercore-address has 513 bytes; Consul keeps up to 512"),
        (Member(NodeId("ö" * 257), "h:1"), "clustercore-node-id has 514 bytes"),
        (Member(NodeId("a"), "h:1", MemberMetadata(tags={"z" * 200: ""})), "the name of the tag .* is too long"),
        (
            Member(NodeId("a"), "h:1", MemberMetadata(tags={f"t{number}": "" for number in range(62)})),
            "node 'a' tells 65 things of itself; Consul keeps up to 64",
        ),
    ],
)
def test_what_consul_cannot_take_is_refused(member: Member, complaint: str) -> None:
    """Beyond Consul's limits a registration would fail for ever; so it is refused here, with the limit."""
    with pytest.raises(ConfigError, match=complaint):
        to_registration(options_of(), member, member.node_id)


def test_agents_ask_at_host_and_port_only() -> None:
    """A node at an address in another form cannot be asked by its agent."""
    with pytest.raises(ConfigError, match="node 'a' is at 'mem:a', and checks has 'grpc'"):
        to_registration(options_of(checks=["grpc"]), Member(NodeId("a"), "mem:a"), NodeId("a"))


def test_address_may_be_consuls_own() -> None:
    """Who was registered by other means has the service's address, or its machine's; without a port it has none."""
    service = {"ID": "s", "Meta": {"clustercore-node-id": "a"}, "Address": "", "Port": 5, "Tags": None}
    seen = []
    for change in ({}, {"Address": "h"}, {"Port": 0}):
        (read,) = read_entries(answer(service | change))
        seen.append((read.member.address, read.is_own, read.status))

    assert seen == [("10.0.0.1:5", True, "passing"), ("h:5", True, "passing"), ("", True, "passing")]


def test_worst_check_counts_and_a_lost_machine_is_known() -> None:
    """The machine's own check is one of them."""
    body = to_registration(options_of(), Member(NodeId("a"), "h:1"), NodeId("a"))
    seen = []
    for serf, ttl in (("passing", "warning"), ("passing", "critical"), ("critical", "passing")):
        checks = [{"CheckID": "serfHealth", "Status": serf}, {"CheckID": "x", "Status": ttl}]
        (read,) = read_entries(answer(body, Checks=checks))
        seen.append((read.status, read.is_well, read.is_owner_lost))

    assert seen == [("warning", True, False), ("critical", False, False), ("critical", False, True)]


@pytest.mark.parametrize("value", [{"a": 1}, [1], [{}], "text", 7, [{"Node": {}, "Service": {}}, None]])
def test_nonsense_is_no_answer(value: Any) -> None:
    """What is no list of services is an error of Consul, and of nobody else."""
    with pytest.raises(ConsulError, match="not as Consul's"):
        read_entries(value)


def test_one_entry_for_each_node() -> None:
    """What a node says itself counts, then what is well, then what is newer."""
    by_other = entry(registrar=NodeId("z"), create_index=9)
    ill, old, new = entry(status="critical", create_index=8), entry(), entry(create_index=2, owner="m2")
    for entries, chosen in (([by_other, ill], ill), ([ill, old], old), ([old, new], new), ([by_other], by_other)):
        for order in (entries, entries[::-1]):
            assert newest_of([*order, entry("b")]) == {"a": chosen, "b": entry("b")}
