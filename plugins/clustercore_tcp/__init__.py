"""A transport over plain TCP, or TLS: the fast one, and without a third-party dependency.

``frames`` says what is on the wire.
"""

from clustercore_tcp.transport import TcpTransport

__all__ = ["TcpTransport"]
