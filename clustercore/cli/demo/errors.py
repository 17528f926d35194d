"""How a demo fails."""

from __future__ import annotations

from clustercore.interfaces import ClusterError

__all__ = ["DemoFailed"]


class DemoFailed(ClusterError):
    """The demo cannot go on, or shows what it should not. ``evidence`` is for the user to read, often a log's end."""

    def __init__(self, message: str, evidence: str = "") -> None:
        super().__init__(message)
        self.evidence = evidence
