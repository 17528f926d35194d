"""Conflict resolvers: the last write wins, or values are merged. Import ``clustercore.interfaces`` and no more."""

from clustercore_lww.function import FunctionResolver
from clustercore_lww.last_write import LWW_RULES, LastWriteWins
from clustercore_lww.lattice import LatticeResolver
from clustercore_lww.numbers import MaxResolver, MinResolver
from clustercore_lww.union import UnionResolver

__all__ = [
    "LWW_RULES",
    "FunctionResolver",
    "LastWriteWins",
    "LatticeResolver",
    "MaxResolver",
    "MinResolver",
    "UnionResolver",
]
