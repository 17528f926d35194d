"""Why a request to Consul came to nothing. None of these leaves the plugin: a discovery that is away is no error."""

from __future__ import annotations

__all__ = ["ConsulError", "ConsulRefused", "ConsulUnknown"]


class ConsulError(Exception):
    """No answer that can be used: no connection, no answer in time, no leader, an error, or nonsense.

    ``retry_after_s`` is how long Consul asks to be left alone, in seconds; None if it does not.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ConsulRefused(ConsulError):
    """The token does not allow it, also after the file with the token was read again."""


class ConsulUnknown(ConsulError):
    """The agent does not know the service or check that the request is about."""
