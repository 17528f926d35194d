"""The least that can be asked of a node: does it accept a connection."""

from __future__ import annotations

import math

from clustercore.interfaces.health import CheckOutcome, CheckResult, Probe
from clustercore.interfaces.sockets import dial
from clustercore.interfaces.tls import TlsFiles

__all__ = ["TcpProbe"]


class TcpProbe(Probe):
    """Whether a TCP connection is accepted. The kernel accepts it also for a process that is frozen."""

    def __init__(self, address: str, *, tls: TlsFiles | None = None) -> None:
        """Connect to ``address`` ("host:port"), with the handshake of TLS if its files are given."""
        self._address = address
        self._tls = tls

    async def check(self) -> CheckResult:
        """Connect once, and hang up."""
        # The checker's timeout ends it.
        connection = await dial(self._address, timeout_s=math.inf, tls=self._tls)
        connection.close()
        return CheckResult(CheckOutcome.OK, "accepts connections")
