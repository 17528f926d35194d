"""Free loopback ports that stay free until the nodes take them."""

from __future__ import annotations

import socket
import sys

__all__ = ["PortReservation"]


class PortReservation:
    """So many different ports of 127.0.0.1, chosen by the system.

    A port that is merely known to have been free can be taken before its node listens there; and while a node is dead,
    by any outgoing connection, which gets its port from the same range (a client calling the dead node may even be
    given the very port it calls, and reach itself). On Linux a socket that is bound with SO_REUSEADDR, but does not
    listen, keeps a port from both, and lets another socket with SO_REUSEADDR listen on it; so it is held as long as the
    nodes live. Elsewhere, or with ``hold=False`` for transports that listen without SO_REUSEADDR, it is let go at once.
    """

    def __init__(self, count: int, *, hold: bool = True) -> None:
        self._sockets = [_bound() for _ in range(count)]
        self.ports: tuple[int, ...] = tuple(held.getsockname()[1] for held in self._sockets)
        if not hold or sys.platform != "linux":
            self.close()

    def close(self) -> None:
        """Let the ports go. Idempotent."""
        for held in self._sockets:
            held.close()
        self._sockets.clear()


def _bound() -> socket.socket:
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held
