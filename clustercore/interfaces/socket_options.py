"""What a user may set of a transport over sockets, checked once, where the configuration comes in."""

from __future__ import annotations

import hmac
import math
from pathlib import Path

import attrs

from clustercore.interfaces.errors import ConfigError
from clustercore.interfaces.sockets import split_address
from clustercore.interfaces.tls import TlsFiles

__all__ = ["SocketOptions"]

# A message must fit a length of four bytes; more than this in one piece is no longer a message.
MAX_MESSAGE_BYTES = 1 << 30
MAX_TOKEN_BYTES = 1024
# A cluster's id is 32 characters; more is for those who choose their own.
MAX_CLUSTER_ID_BYTES = 128


@attrs.frozen
class SocketOptions:
    """The options that transports over sockets have in common, in the units used inside.

    A plugin takes them under these names, in its constructor, and passes them on to ``checked``. What they mean is in
    docs/reference/configuration.md.
    """

    host: str
    port: int
    timeout_s: float
    keepalive_time_s: float
    keepalive_timeout_s: float
    max_message_bytes: int
    # What a peer has to show, and is shown; empty if nothing.
    token: bytes = attrs.field(repr=False)
    # None for a transport in the clear.
    tls: TlsFiles | None
    # What is said of the cluster that is meant when a connection is opened; empty: nothing.
    cluster_id: str = ""

    @classmethod
    def checked(
        cls,
        *,
        listen: str,
        timeout: float,
        keepalive_time_ms: int,
        keepalive_timeout_ms: int,
        max_message_bytes: int,
        token: str,
        tls_certificate: Path | str,
        tls_key: Path | str,
        tls_authority: Path | str,
        cluster_id: str = "",
    ) -> SocketOptions:
        """Check the values as they came from a user.

        Raises: ConfigError, naming the option, its value and what is allowed.
        """
        host, port = _split_listen(listen)
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise ConfigError(f"timeout = {timeout!r}: expected a number of seconds")
        if not (math.isfinite(timeout) and timeout > 0):
            raise ConfigError(f"timeout = {timeout!r}: expected a number of seconds above 0, and finite")
        _check_int("keepalive_time_ms", keepalive_time_ms, 10, 86_400_000)
        _check_int("keepalive_timeout_ms", keepalive_timeout_ms, 10, 86_400_000)
        _check_int("max_message_bytes", max_message_bytes, 1024, MAX_MESSAGE_BYTES)
        if not _is_plain_text(cluster_id, MAX_CLUSTER_ID_BYTES):
            raise ConfigError(
                f"cluster_id = {cluster_id!r}: expected at most {MAX_CLUSTER_ID_BYTES} printable ASCII characters"
            )
        if not _is_plain_text(token, MAX_TOKEN_BYTES):
            # Not the value: it is a secret.
            raise ConfigError(f"token: expected at most {MAX_TOKEN_BYTES} printable ASCII characters")
        return cls(
            host,
            port,
            timeout,
            keepalive_time_ms / 1000,
            keepalive_timeout_ms / 1000,
            max_message_bytes,
            token.encode(),
            TlsFiles.checked(tls_certificate, tls_key, tls_authority),
            cluster_id,
        )

    def is_token(self, token: bytes) -> bool:
        """Compare without telling by the time it takes how much of it is right."""
        return hmac.compare_digest(token, self.token)


def _split_listen(listen: object) -> tuple[str, int]:
    if not isinstance(listen, str):
        raise ConfigError(f"listen = {listen!r}: expected a string, host:port")
    try:
        return split_address(listen)
    except ValueError as exc:
        raise ConfigError(f"listen = {listen!r}: {exc}") from None


def _is_plain_text(text: object, max_bytes: int) -> bool:
    return isinstance(text, str) and text.isascii() and text.isprintable() and len(text) <= max_bytes


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} = {value!r}: expected a whole number from {low} to {high}")
