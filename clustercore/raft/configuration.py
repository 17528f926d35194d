"""The one encoding of a configuration, in the log and in snapshots: the protobuf message of that name.

Which configuration counts, and when another may follow, is for ``membership`` to say.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from clustercore.raft.entry import Entry, EntryKind
from clustercore.raft.protobuf import BYTES, bytes_field, read_fields, varint_field
from clustercore.raft.types import Configuration, LogIndex, NodeId, Server

__all__ = ["MalformedConfiguration", "configurations_in", "decode_configuration", "encode_configuration"]


class MalformedConfiguration(ValueError):
    """The bytes are not an encoded configuration."""


def encode_configuration(configuration: Configuration) -> bytes:
    """Return the bytes of ``clustercore.v1.Configuration``; equal ones of the same index have equal bytes."""
    parts = [bytes_field(1, configuration.cluster_id.encode())] if configuration.cluster_id else []
    parts += [bytes_field(2, _encode_server(server)) for server in configuration.servers]
    parts += [bytes_field(3, voter.encode()) for voter in sorted(configuration.old_voters)]
    parts.append(varint_field(4, configuration.index))
    return b"".join(parts)


def decode_configuration(encoded: bytes) -> Configuration:
    """Read a configuration, as any protobuf writer may have written it.

    Raises: MalformedConfiguration if the bytes are none, or name a node twice or not at all.
    """
    servers: list[Server] = []
    old_voters: set[NodeId] = set()
    cluster_id, index = "", 0
    try:
        for number, wire_type, value in read_fields(encoded):
            if number == 4 and isinstance(value, int):
                index = value
            if wire_type != BYTES or not isinstance(value, bytes):
                continue
            if number == 1:
                cluster_id = value.decode()
            elif number == 2:
                servers.append(_decode_server(value))
            elif number == 3:
                old_voters.add(NodeId(value.decode()))
        configuration = Configuration.with_servers(servers, old_voters=frozenset(old_voters), cluster_id=cluster_id)
        return attrs.evolve(configuration, index=LogIndex(index))
    except ValueError as error:
        raise MalformedConfiguration(f"this is no configuration: {error}") from error


def configurations_in(entries: Iterable[Entry]) -> list[tuple[LogIndex, Configuration]]:
    """Return the configurations among entries, each with its entry's index.

    Raises: MalformedConfiguration if one cannot be read.
    """
    return [
        (entry.index, attrs.evolve(decode_configuration(entry.command), index=entry.index))
        for entry in entries
        if entry.kind is EntryKind.CONFIGURATION
    ]


def _encode_server(server: Server) -> bytes:
    return b"".join(
        (
            bytes_field(1, server.node_id.encode()),
            varint_field(2, server.is_voter),
            varint_field(3, server.is_promoted),
            bytes_field(4, server.address.encode()) if server.address else b"",
            bytes_field(5, server.incarnation.encode()) if server.incarnation else b"",
            varint_field(6, server.is_leaving),
        )
    )


def _decode_server(encoded: bytes) -> Server:
    texts = {1: "", 4: "", 5: ""}
    flags = {2: False, 3: False, 6: False}
    for number, _, value in read_fields(encoded):
        if isinstance(value, bytes):
            if number in texts:
                texts[number] = value.decode()
        elif number in flags:
            flags[number] = bool(value)
    if not texts[1]:
        raise MalformedConfiguration("a server in it has no node id")
    return Server(NodeId(texts[1]), flags[2], flags[3], texts[4], texts[5], flags[6])
