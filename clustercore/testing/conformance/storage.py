"""The Storage contract, rule by rule: see ``clustercore.interfaces.storage``."""

from __future__ import annotations

from clustercore.testing.conformance.storage_crashes import CrashRules
from clustercore.testing.conformance.storage_log import LogRules
from clustercore.testing.conformance.storage_snapshots import SnapshotRules

__all__ = ["StorageConformance"]


class StorageConformance(CrashRules, SnapshotRules, LogRules):
    """Derive from it, and say in ``make`` how the storage is made.

    ``is_in_folder`` and ``syncs_in_python`` are there to be overridden where what they say is not so. For a storage
    that keeps its content elsewhere, ``crashes_during`` can say what a crash leaves.
    """
