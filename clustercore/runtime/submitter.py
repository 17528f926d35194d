"""From one command to its outcome: waiting for room, for a leader and for the commit, each of them cancellable."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import trio

from clustercore.interfaces.errors import ClusterError, OutcomeUnknown, ProposalRefused
from clustercore.interfaces.values import Applied
from clustercore.raft.entry import EntryKind
from clustercore.raft.types import NodeId
from clustercore.runtime.proposals import Group, GroupResult, Proposals

__all__ = ["Fate", "Submitter"]


@attrs.define(eq=False)
class Fate:
    """What is known of a command after one or several attempts to have it appended."""

    # An attempt that is not the one under way may be in a log, or come to be.
    may_be_appended: bool = False
    # When the last attempt was handed to the engine (Trio's clock).
    tried_at: float = -math.inf


class Submitter:
    """Hands single commands to the engine and waits for what becomes of them."""

    def __init__(self, node_id: NodeId, proposals: Proposals, propose: Callable[[Group], None]) -> None:
        self._node_id = node_id
        self._proposals = proposals
        self._propose = propose

    async def submit(
        self,
        kind: EntryKind,
        command: bytes,
        *,
        forward: bool = True,
        give_up_s: float | None = None,
        fate: Fate | None = None,
    ) -> Applied:
        """Have a command of a kind appended, and wait until it is applied on the leader. ``fate`` notes what is known.

        Arguments, cancellation and errors are those of ``Node.propose``, except that nothing is validated.
        """
        fate = fate if fate is not None else Fate()
        give_up_at = math.inf if give_up_s is None else trio.current_time() + give_up_s
        with trio.move_on_at(give_up_at) as patience:
            await self._proposals.wait_room()
        if patience.cancelled_caught:
            raise self._refused("no room", give_up_s)
        done = trio.Event()
        answers: list[GroupResult] = []

        def take(result: GroupResult) -> None:
            answers.append(result)
            done.set()

        group = Group((command,), on_done=take, may_forward=forward, kinds=bytes([kind]))
        fate.tried_at = trio.current_time()
        self._propose(group)
        try:
            with trio.move_on_at(give_up_at) as patience:
                await done.wait()
            if patience.cancelled_caught:
                if self._proposals.withdraw(group):
                    raise self._refused("no leader", give_up_s)
                # On its way already: only its answer tells what became of it.
                group.is_given_up = True
                await done.wait()
        except trio.Cancelled:
            # An answer that came at the last moment tells more, but nobody gets it.
            group.is_given_up = not self._proposals.withdraw(group)
            fate.may_be_appended |= group.is_given_up
            raise
        answer = answers[0]
        fate.may_be_appended |= isinstance(answer, OutcomeUnknown)
        if isinstance(answer, ClusterError):
            raise answer
        return answer[0]

    def _refused(self, reason: str, waited_s: float | None) -> ProposalRefused:
        return ProposalRefused(
            f"node {self._node_id!r} had {reason} for the command within {waited_s} s; nothing was done"
        )
