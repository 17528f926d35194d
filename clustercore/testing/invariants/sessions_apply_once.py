"""A command of a session is applied once, however often it is in the log (thesis §6.3)."""

from __future__ import annotations

from clustercore.raft.types import LogIndex
from clustercore.testing.invariants.facts import Facts, Invariant, World

__all__ = ["SessionsApplyOnce"]


class SessionsApplyOnce(Invariant):
    """Every machine that applies a command of a session does so for the same entry, the first that holds it."""

    name = "sessions apply once"
    source = "thesis §6.3"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        # By session and sequence number: the entry for which a machine was given the command.
        self._applied: dict[tuple[int, int], LogIndex] = {}

    def applied_once(self, world: World, session_id: int, sequence: int, index: LogIndex) -> None:
        """Compare with the entries for which the same command was applied, here or elsewhere."""
        known = self._applied.setdefault((session_id, sequence), index)
        if known != index:
            self.fail(f"command {sequence} of session {session_id} is applied at {known} and at {index}")
