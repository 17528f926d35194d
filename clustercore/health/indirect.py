"""Asking a node by way of others before it is taken for unhealthy (SWIM, Das et al. 2002, section 3.1).

A node that cannot reach another does not know which of the two, or what lies between them, is at fault. So it asks a
few others to look: if one of them reaches the node, that is well, and reachable only in a roundabout way, which is a
warning. It costs nothing while all is well.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

import trio

from clustercore.health.failures import failure_of
from clustercore.interfaces.errors import ClusterError, MalformedMessage, ServiceError
from clustercore.interfaces.health import CheckOutcome, CheckResult, Probe
from clustercore.interfaces.retry_values import ErrorCategory
from clustercore.interfaces.transport import Service, ServiceTransport
from clustercore.interfaces.wire import encode_field, encode_varint, split_fields
from clustercore.raft.types import NodeId

__all__ = ["IndirectProbe", "peer_service"]

logger = logging.getLogger("clustercore.health")

_SERVICE = "clustercore.v1.PeerHealth"
_METHOD = f"{_SERVICE}/Probe"

# Nodes that are looked at for others at a time; further questions are refused. Anybody may ask, and each answer costs a
# question.
_MAX_OPEN = 16

_OUTCOMES = {CheckOutcome.OK: 1, CheckOutcome.WARN: 2, CheckOutcome.FAIL: 3, CheckOutcome.UNKNOWN: 4}
_BY_NUMBER = {number: outcome for outcome, number in _OUTCOMES.items()}


class IndirectProbe(Probe):
    """Asks a node directly, and if that fails some others to do so."""

    def __init__(
        self,
        direct: Probe,
        node_id: NodeId,
        *,
        transport: ServiceTransport,
        helpers: Callable[[NodeId], Sequence[tuple[NodeId, str]]],
        direct_s: float,
    ) -> None:
        """Ask with ``direct``, for at most ``direct_s`` seconds.

        Args:
            direct: Asks the node itself.
            node_id: The node.
            transport: What the others are asked with.
            helpers: Draws whom to ask about a node, and where each is reached.
            direct_s: Leaves the others their time, in seconds.
        """
        self._direct = direct
        self._node_id = node_id
        self._transport = transport
        self._helpers = helpers
        self._direct_s = direct_s

    async def check(self) -> CheckResult:
        """Ask once, by way of others if need be."""
        result = CheckResult(CheckOutcome.FAIL, f"no answer within {self._direct_s:g} s", ErrorCategory.TIMEOUT_ERROR)
        with trio.move_on_after(self._direct_s):
            try:
                result = await self._direct.check()
            except Exception as error:  # noqa: BLE001  # as in the checker: that is a failed check, and is kept
                result = failure_of(error)
        if result.outcome is not CheckOutcome.FAIL or result.is_decisive:
            return result
        helper = await self._reached_by()
        if helper is None:
            return result
        return CheckResult(CheckOutcome.WARN, f"reached by way of {helper} alone; from here: {result.detail}")

    async def _reached_by(self) -> NodeId | None:
        """Return another node that reaches it; None if none of those asked does. The checker's timeout ends it."""
        reached: list[NodeId] = []

        async def ask(helper: NodeId, address: str) -> None:
            try:
                answer = await self._transport.call(address, _METHOD, encode_field(1, self._node_id.encode()))
                outcome = _outcome_in(answer)
            except ClusterError as error:
                logger.debug("asking %s about %s: %s", helper, self._node_id, error)
                return
            if outcome in (CheckOutcome.OK, CheckOutcome.WARN):
                reached.append(helper)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for helper, address in self._helpers(self._node_id):
                nursery.start_soon(ask, helper, address)
        return reached[0] if reached else None


def peer_service(look: Callable[[NodeId], Awaitable[CheckResult]], *, limit_s: float) -> Service:
    """Return the service by which others have a node looked at: ``look``, for at most ``limit_s`` seconds."""
    room = trio.CapacityLimiter(_MAX_OPEN)

    async def probe(request: bytes) -> bytes:
        try:
            names = [value for number, _, value in split_fields(request) if number == 1 and isinstance(value, bytes)]
            node_id = NodeId(names[-1].decode())
        except (MalformedMessage, UnicodeDecodeError, IndexError) as exc:
            raise ServiceError(f"this names no node: {exc}") from exc
        result = CheckResult(CheckOutcome.FAIL, f"no answer within {limit_s:g} s")
        try:
            room.acquire_nowait()
        except trio.WouldBlock:
            return _answer(CheckResult(CheckOutcome.UNKNOWN, "too many questions at once"))
        try:
            with trio.move_on_after(limit_s):
                try:
                    result = await look(node_id)
                except Exception as error:  # noqa: BLE001  # a failed check, which is the answer
                    result = failure_of(error)
        finally:
            room.release()
        return _answer(result)

    return Service(_SERVICE, unary={"Probe": probe})


def _answer(result: CheckResult) -> bytes:
    return encode_varint(1 << 3) + encode_varint(_OUTCOMES[result.outcome]) + encode_field(2, result.detail.encode())


def _outcome_in(answer: bytes) -> CheckOutcome:
    number = next((value for number, _, value in split_fields(answer) if number == 1 and isinstance(value, int)), 0)
    return _BY_NUMBER.get(number, CheckOutcome.UNKNOWN)
