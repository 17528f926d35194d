"""Members as text: a line for each in a file, or pairs in a variable. What is wrong is named by its place."""

from __future__ import annotations

from collections.abc import Iterable

from clustercore.interfaces import ConfigError, Member, MemberMetadata, NodeId

__all__ = ["parse_lines", "parse_pairs"]

# Where each part of the text was found, and the member it says.
Placed = list[tuple[str, Member]]


def parse_lines(text: str, where: str) -> tuple[Member, ...]:
    """Read a member from each line: its id, its address, and tags as ``name=value``, with spaces between.

    A line that is empty or begins with ``#`` says nothing.

    Args:
        text: All of a file.
        where: The file's name, for errors.

    Raises: ConfigError, naming the line.
    """
    placed: Placed = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if words and not words[0].startswith("#"):
            place = f"{where}:{number}"
            placed.append((place, _member_of(words, place)))
    return _checked(placed)


def parse_pairs(text: str, where: str) -> tuple[Member, ...]:
    """Read a member from each pair ``id=address``, with commas or spaces between.

    Args:
        text: The value of a variable.
        where: The variable's name, for errors.

    Raises: ConfigError, naming the pair.
    """
    placed: Placed = []
    for number, pair in enumerate(text.replace(",", " ").split(), start=1):
        place = f"{where}, pair {number}"
        node_id, equals, address = pair.partition("=")
        if not (node_id and equals and address):
            raise ConfigError(f"{place}: {pair!r}: expected an id and an address, such as 'n1=127.0.0.1:7001'")
        placed.append((place, Member(NodeId(node_id), address)))
    return _checked(placed)


def _member_of(words: list[str], place: str) -> Member:
    if len(words) < 2 or "=" in words[1]:
        raise ConfigError(f"{place}: {' '.join(words)!r}: expected an id and an address, such as 'n1 127.0.0.1:7001'")
    node_id, address, *tags = words
    pairs: dict[str, str] = {}
    for tag in tags:
        name, equals, value = tag.partition("=")
        if not name or not equals:
            raise ConfigError(f"{place}: {tag!r}: expected a tag, such as 'zone=north'")
        if name in pairs:
            raise ConfigError(f"{place}: {tag!r}: the tag {name!r} is given already")
        pairs[name] = value
    return Member(NodeId(node_id), address, MemberMetadata.from_mapping(pairs))


def _checked(placed: Iterable[tuple[str, Member]]) -> tuple[Member, ...]:
    """Refuse an id or an address that comes twice: it would be found out by a node that nobody reaches."""
    ids: dict[str, str] = {}
    addresses: dict[str, str] = {}
    for place, member in placed:
        if member.node_id in ids:
            raise ConfigError(f"{place}: node {member.node_id!r} is in {ids[member.node_id]} already")
        if member.address in addresses:
            raise ConfigError(
                f"{place}: {member.address!r} is the address in {addresses[member.address]} already; each node needs "
                "its own"
            )
        ids[member.node_id] = addresses[member.address] = place
    return tuple(member for _, member in placed)
