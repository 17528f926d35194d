"""What kind of failure an exception of a check is."""

from __future__ import annotations

import trio

from clustercore.interfaces.errors import LinkClosed, MalformedMessage, PeerTimeout, PeerUnreachable, ServiceError
from clustercore.interfaces.health import CheckOutcome, CheckResult
from clustercore.interfaces.retry_values import ErrorCategory

__all__ = ["failure_of"]

_CATEGORIES: tuple[tuple[type[BaseException], ErrorCategory], ...] = (
    (PeerTimeout, ErrorCategory.TIMEOUT_ERROR),
    (trio.TooSlowError, ErrorCategory.TIMEOUT_ERROR),
    (PeerUnreachable, ErrorCategory.NETWORK_ERROR),
    (LinkClosed, ErrorCategory.NETWORK_ERROR),
    (OSError, ErrorCategory.NETWORK_ERROR),
    (trio.BrokenResourceError, ErrorCategory.NETWORK_ERROR),
    (ServiceError, ErrorCategory.CLIENT_ERROR),
    (MalformedMessage, ErrorCategory.SERVER_ERROR),
)


def failure_of(error: BaseException) -> CheckResult:
    """Return the failed check that an exception is."""
    category = next((each for kind, each in _CATEGORIES if isinstance(error, kind)), ErrorCategory.UNKNOWN_ERROR)
    return CheckResult(CheckOutcome.FAIL, str(error) or type(error).__name__, category)
