"""The errors the protocol core itself can raise; ``clustercore.interfaces`` has the rest of the hierarchy."""

from __future__ import annotations

__all__ = ["ClusterError", "InvariantError"]


class ClusterError(Exception):
    """Root of all errors that clustercore raises on purpose."""


class InvariantError(ClusterError):
    """clustercore broke a rule of its own: a bug. The node halts rather than go on from a state it cannot trust."""
