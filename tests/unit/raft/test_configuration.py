"""Configurations as values, and their one encoding."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustercore.raft.configuration import MalformedConfiguration, decode_configuration, encode_configuration
from clustercore.raft.protobuf import bytes_field, varint_field
from clustercore.raft.types import Configuration, LogIndex, NodeId, Server

NAMES = st.text("abcdefgä-", min_size=1, max_size=5).map(NodeId)


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    """Draw a configuration of up to six servers, joint or not."""
    names = draw(st.lists(NAMES, max_size=6, unique=True))
    servers = [
        Server(
            name,
            is_voter=draw(st.booleans()),
            is_promoted=draw(st.booleans()),
            address=draw(st.sampled_from(["", "127.0.0.1:7001"])),
            incarnation=draw(st.sampled_from(["", "f00d"])),
        )
        for name in names
    ]
    old_voters = frozenset(draw(st.lists(NAMES, max_size=3)))
    return Configuration.with_servers(servers, old_voters=old_voters, cluster_id=draw(st.sampled_from(["", "c1"])))


def test_configuration_knows_who_counts() -> None:
    """Voters, learners and old voters are told apart; whoever gets the log is in the order of the names."""
    joint = Configuration.of("bc", learners="ad", old_voters="ae")

    assert joint.is_joint
    assert joint.voters == {"b", "c"}
    assert joint.learners == {"a", "d"}
    assert joint.all_voters == {"a", "b", "c", "e"}
    assert joint.peers_of(NodeId("b")) == ("a", "c", "d", "e")
    assert joint.get(NodeId("c")) == Server(NodeId("c"))
    assert joint.get(NodeId("e")) is None
    assert not Configuration.of("abc").is_joint


def test_configuration_names_each_node_once() -> None:
    """Two servers of one name are refused, and the name is told."""
    with pytest.raises(ValueError, match="node 'a' is named twice"):
        Configuration.of("ab", learners="a")


@pytest.mark.slow
@given(configurations())
def test_configuration_survives_its_encoding(configuration: Configuration) -> None:
    """Reading what was written gives the same value, derived fields included."""
    decoded = decode_configuration(encode_configuration(configuration))

    assert decoded == configuration
    assert (decoded.voters, decoded.learners) == (configuration.voters, configuration.learners)


def test_encoding_of_a_configuration_is_what_it_was() -> None:
    """The bytes are on disk and on the wire: they never change for the same value."""
    servers = [Server(NodeId("b"), address="x:1", incarnation="i"), Server(NodeId("a"), False, is_promoted=True)]
    configuration = Configuration.with_servers(servers, old_voters=frozenset({NodeId("c")}), cluster_id="k")

    assert encode_configuration(configuration).hex(" ") == (
        "0a 01 6b 12 05 0a 01 61 18 01 12 0d 0a 01 62 10 01 22 03 78 3a 31 2a 01 69 1a 01 63"
    )


def test_index_of_a_configuration_is_written_down_if_it_has_one() -> None:
    """In a snapshot it says since when its members count. They are the same members without it."""
    configuration = Configuration.of("a", cluster_id="k")
    with_index = attrs.evolve(configuration, index=LogIndex(300))

    encoded = encode_configuration(with_index)

    assert encoded == encode_configuration(configuration) + varint_field(4, 300)
    assert decode_configuration(encoded).index == 300
    assert decode_configuration(encode_configuration(configuration)).index == 0
    assert with_index == configuration


def test_foreign_encoding_is_read_and_unknown_fields_are_passed_over() -> None:
    """A later version's fields do not keep this one from reading, at either level, and order does not matter."""
    server = varint_field(2, 1) + varint_field(9, 7) + bytes_field(10, b"later") + bytes_field(1, b"a")
    encoded = varint_field(12, 3) + bytes_field(13, b"later") + bytes_field(2, server) + bytes_field(1, b"k")

    assert decode_configuration(encoded) == Configuration.of("a", cluster_id="k")


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        (b"\x0a\x05ab", "wants 5 bytes"),
        (bytes_field(2, varint_field(2, 1)), "has no node id"),
        (bytes_field(2, bytes_field(1, b"a")) * 2, "named twice"),
        (bytes_field(1, b"\xff"), "utf-8"),
        (b"\x80" * 11, "longer than 10 bytes"),
    ],
)
def test_malformed_configuration_is_refused_with_the_reason(encoded: bytes, text: str) -> None:
    """Bytes that are no configuration never become one."""
    with pytest.raises(MalformedConfiguration, match=text):
        decode_configuration(encoded)
