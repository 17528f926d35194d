"""Every conflict resolver that ships keeps the ConflictResolver contract."""

from __future__ import annotations

from clustercore.interfaces import ConflictResolver
from clustercore.testing.conformance import ConflictResolverConformance
from clustercore_lww import (
    FunctionResolver,
    LastWriteWins,
    LatticeResolver,
    MaxResolver,
    MinResolver,
    UnionResolver,
)

# All are tried hard, and the one that nearly everybody has hardest.
FEWER = 0.1


class TestLastWriteWins(ConflictResolverConformance):
    def make(self) -> ConflictResolver:
        return LastWriteWins()


class TestMax(ConflictResolverConformance):
    share_of_cases = FEWER
    values = (b"1", b"2", b" 2", b"10", b"-1", b"1.5", b"x", b"9007199254740993", b"9007199254740992")

    def make(self) -> ConflictResolver:
        return MaxResolver()


class TestMin(ConflictResolverConformance):
    share_of_cases = FEWER
    values = TestMax.values

    def make(self) -> ConflictResolver:
        return MinResolver()


class TestUnion(ConflictResolverConformance):
    share_of_cases = FEWER
    values = (b"[]", b'["a"]', b'["b","a"]', b'[ "a" ]', b"[1,[2]]", b'{"a":1}', b'[{"b":1,"a":2}]')

    def make(self) -> ConflictResolver:
        return UnionResolver()


class TestLattice(ConflictResolverConformance):
    share_of_cases = FEWER
    values = (b'"NEW"', b'"RUNNING"', b'"DONE"', b'"ABORTED"', b' "DONE"', b'"UNHEARD"', b"3")

    def make(self) -> ConflictResolver:
        return LatticeResolver({"NEW": ["RUNNING"], "RUNNING": ["DONE", "ABORTED"], "DONE": ["ABORTED"], "ABORTED": []})


class TestFunction(ConflictResolverConformance):
    share_of_cases = FEWER
    values = (b"", b"a", b"ba", b"ab", b"c", b"cc")

    def make(self) -> ConflictResolver:
        return FunctionResolver(lambda one, other: bytes(sorted({*one, *other})))
