"""Asking about the members from outside: by operators, and by a node that is to be added or has lost its cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from clustercore.interfaces.errors import LinkClosed, PeerUnreachable, TransportError
from clustercore.interfaces.messages import ChangeMembers, MembersFailed, MembersRequest, MembersResponse, Message
from clustercore.interfaces.transport import Transport
from clustercore.raft.types import ChangeRefusal
from clustercore.runtime.remote_node import RemoteNode

__all__ = ["RemoteMembers"]


class RemoteMembers:
    """Asks the nodes at some addresses, one after the other, until one of them has found a leader."""

    def __init__(self, transport: Transport, addresses: Callable[[], Sequence[str]], *, timeout_s: float) -> None:
        """Ask nobody yet.

        Args:
            transport: What to connect with; it is open while this is used.
            addresses: Whom to ask; called for each question.
            timeout_s: How long one node may take, which may wait for the leader and that for a change.
        """
        self._transport = transport
        self._addresses = addresses
        self._timeout_s = timeout_s
        self._nodes: dict[str, RemoteNode] = {}
        # How often in a row each had no answer; below 0 for the one that told the members last, which a change goes to.
        self._misses: dict[str, int] = {}

    async def ask(self, request: MembersRequest | ChangeMembers) -> MembersResponse | MembersFailed:
        """Ask until one answers with members, or a refusal that no other would change.

        Cancellation: as ``MembersDesk.answer``.
        """
        failures: list[MembersFailed] = []
        for address in self._in_turn():
            answer = await self._ask_at(address, request)
            if isinstance(answer, MembersResponse):
                self._misses[address] = -1
                return answer
            failures.append(answer)
            self._misses[address] = max(0, self._misses.get(address, 0)) + 1
            # Another node would say the same of the change, or it may be under way.
            if answer.may_be_done or answer.reason is not ChangeRefusal.NOT_LEADER:
                break
        if not failures:
            return MembersFailed(0, ChangeRefusal.NOT_LEADER, "no address of a member is known")
        return attrs.evolve(failures[-1], detail="; ".join(dict.fromkeys(failure.detail for failure in failures)))

    async def aclose(self) -> None:
        """Close all links, and forget whom they led to: nodes come and go, and so do their addresses."""
        while self._nodes:
            _, node = self._nodes.popitem()
            await node.aclose()

    def _in_turn(self) -> list[str]:
        """Return where to ask: those first that had an answer, and last those that keep everybody waiting."""
        addresses = dict.fromkeys(self._addresses())
        self._misses = {address: misses for address, misses in self._misses.items() if address in addresses}
        return sorted(addresses, key=lambda address: self._misses.get(address, 0))

    async def _ask_at(self, address: str, request: MembersRequest | ChangeMembers) -> MembersResponse | MembersFailed:
        node = self._nodes.setdefault(address, RemoteNode(self._transport, address, timeout_s=self._timeout_s))
        try:
            answer = await node.ask(lambda number: attrs.evolve(request, request_id=number), _is_answer)
        except TransportError as error:
            may_be_done = isinstance(request, ChangeMembers) and not isinstance(error, PeerUnreachable)
            hint = "; if it is up, its version may know no such question" if isinstance(error, LinkClosed) else ""
            detail = f"{address}: {error}{hint}"
            return MembersFailed(0, ChangeRefusal.NOT_LEADER, detail, may_be_done=may_be_done)
        assert isinstance(answer, MembersResponse | MembersFailed)
        return answer


def _is_answer(answer: Message, number: int) -> bool:
    return isinstance(answer, MembersResponse | MembersFailed) and answer.request_id == number
