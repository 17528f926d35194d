"""The errors that only the key-value store has, under clustercore's root."""

from __future__ import annotations

from clustercore.interfaces import ClusterError

__all__ = ["MalformedSnapshot", "WatchFellBehind"]


class MalformedSnapshot(ClusterError, ValueError):
    """A snapshot is damaged, or of a version that this program cannot read. The state is as it was before."""


class WatchFellBehind(ClusterError):
    """Changes may have been missed, because they are no longer held. Scan, then watch after the scan's applied index.

    Every change up to and including ``revision`` was told, or was not asked for. The node that says so can tell the
    changes after ``oldest_revision``.
    """

    def __init__(self, revision: int, oldest_revision: int) -> None:
        super().__init__(
            f"the watch fell behind: it was told the changes up to revision {revision}, and only those after "
            f"revision {oldest_revision} are still held; scan, then watch after the scan's applied index"
        )
        self.revision = revision
        self.oldest_revision = oldest_revision
