"""What only the static discovery does: it checks the configuration it was given."""

from __future__ import annotations

import pytest

from clustercore.interfaces import ConfigError, Member, NodeId
from clustercore_static import StaticDiscovery


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"": "host:1"}, "node id ''"),
        ({5: "host:1"}, "node id 5"),
        ({"a": ""}, "members.a = ''"),
        ({"a": 7001}, "members.a = 7001"),
        ({"a": "host:1", "b": "host:1"}, "members.b = 'host:1': members.a has this address"),
        (["host:1"], "members = ['host:1']"),
    ],
)
def test_static_discovery_names_what_is_wrong(members: object, message: str) -> None:
    """A wrong configuration raises ConfigError with the key, the value and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        StaticDiscovery(members)  # type: ignore[arg-type]  # What a configuration file may hold.

    assert message in str(caught.value)


async def test_static_discovery_checks_what_is_registered() -> None:
    """Another member's address is refused and nothing changes; a member may register its own again."""
    async with StaticDiscovery({"a": "host:1"}) as discovery:
        before = await discovery.members()

        with pytest.raises(
            ConfigError, match="node 'b' is at 'host:1', and members has node 'a' there; give it that id"
        ):
            await discovery.register(Member(NodeId("b"), "host:1"))
        with pytest.raises(ConfigError):
            await discovery.register(Member(NodeId("b"), ""))
        await discovery.register(Member(NodeId("a"), "host:1"))

        assert await discovery.members() == before


async def test_static_discovery_may_be_empty() -> None:
    """A table without members is a beginning: nodes of this process register themselves."""
    async with StaticDiscovery({}) as discovery:
        await discovery.register(Member(NodeId("a"), "host:1"))

        assert (await discovery.members()).members == (Member(NodeId("a"), "host:1"),)
        assert (await discovery.members()).source == "static"
