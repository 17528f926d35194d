"""A transport in JSON over HTTP/1.1: the one whose words a person can read, and whose status ``curl`` can ask for."""

from clustercore_http.transport import HttpTransport

__all__ = ["HttpTransport"]
