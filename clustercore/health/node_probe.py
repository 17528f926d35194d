"""Asking a clustercore node how it is, over whatever its transport is."""

from __future__ import annotations

from clustercore.interfaces.errors import LinkClosed
from clustercore.interfaces.health import CheckOutcome, CheckResult, Probe
from clustercore.interfaces.messages import StatusRequest, StatusResponse
from clustercore.interfaces.retry_values import ErrorCategory
from clustercore.interfaces.transport import Lane, Transport
from clustercore.interfaces.values import NodeStatus
from clustercore.raft.types import NodeId

__all__ = ["NodeProbe"]


class NodeProbe(Probe):
    """Asks a node for its status, which it answers in a turn of its consensus loop, on a link of its own.

    So a node is well if it takes a connection, its loop turns, and it says itself that it serves: see ``NodeHealth``.
    One that drains is a decisive failure; one that is slow, a warning; another node's answer, a failure.
    """

    def __init__(self, transport: Transport, address: str, node_id: str) -> None:
        """Ask the node ``node_id`` at ``address``, in the transport's form."""
        self._transport = transport
        self._address = address
        self._node_id = NodeId(node_id)

    async def check(self) -> CheckResult:
        """Ask once."""
        # A link of its own each time: to take a connection is part of what is asked.
        async with await self._transport.connect(self._address, Lane.CONTROL) as link:
            await link.send(StatusRequest())
            answer = await link.receive()
        if not isinstance(answer, StatusResponse):
            raise LinkClosed(f"{self._address} answered StatusRequest with {type(answer).__name__}")
        return self._judge(answer.status)

    def _judge(self, status: NodeStatus) -> CheckResult:
        if status.node_id != self._node_id:
            detail = f"node {status.node_id!r} answers at {self._address}"
            return CheckResult(CheckOutcome.FAIL, detail, ErrorCategory.VALIDATION_ERROR)
        if status.health.not_serving:
            return CheckResult(
                CheckOutcome.FAIL, status.health.not_serving, ErrorCategory.SERVER_ERROR, is_decisive=True
            )
        if status.health.degraded:
            return CheckResult(CheckOutcome.WARN, status.health.degraded)
        return CheckResult(CheckOutcome.OK, status.role.value)
