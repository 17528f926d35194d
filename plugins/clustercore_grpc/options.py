"""The limits of a transport, checked once, where the configuration comes in."""

from __future__ import annotations

import math

import attrs

from clustercore.interfaces import ConfigError

__all__ = ["Options", "split_address"]

# A message must fit the four-byte length of a gRPC frame; more than this in one piece is no longer a message.
MAX_MESSAGE_BYTES = 1 << 30


@attrs.frozen
class Options:
    """What a user may set, in the units used inside."""

    host: str
    port: int
    timeout_s: float
    keepalive_time_s: float
    keepalive_timeout_s: float
    max_message_bytes: int

    @classmethod
    def checked(
        cls, listen: str, timeout: float, keepalive_time_ms: int, keepalive_timeout_ms: int, max_message_bytes: int
    ) -> Options:
        """Check the values as they came from a user.

        Raises: ConfigError, naming the option, its value and what is allowed.
        """
        if not isinstance(listen, str):
            raise ConfigError(f"listen = {listen!r}: expected a string, host:port")
        try:
            host, port = split_address(listen)
        except ValueError as exc:
            raise ConfigError(f"listen = {listen!r}: {exc}") from None
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise ConfigError(f"timeout = {timeout!r}: expected a number of seconds")
        if not (math.isfinite(timeout) and timeout > 0):
            raise ConfigError(f"timeout = {timeout!r}: expected a number of seconds above 0, and finite")
        _check_int("keepalive_time_ms", keepalive_time_ms, 10, 86_400_000)
        _check_int("keepalive_timeout_ms", keepalive_timeout_ms, 10, 86_400_000)
        _check_int("max_message_bytes", max_message_bytes, 1024, MAX_MESSAGE_BYTES)
        return cls(host, port, timeout, keepalive_time_ms / 1000, keepalive_timeout_ms / 1000, max_message_bytes)


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} = {value!r}: expected a whole number from {low} to {high}")


def split_address(address: str) -> tuple[str, int]:
    """Split "host:port", or "[host]:port" for IPv6.

    Raises: ValueError, saying what is wrong.
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("expected host:port; an IPv6 host goes in brackets, as in [::1]:7000")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ValueError("expected host:port with a port from 0 to 65535")
    return host, int(port)
