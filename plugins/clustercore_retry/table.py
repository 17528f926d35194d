"""The tables that the policy goes by, as data: limits for each category, and rules that find the category.

Nothing else in the plugin names a status or an error. ``clustercore retry table`` and docs/reference/retry.md show
these very objects, and the tests have a case for each row.
"""

from __future__ import annotations

from collections.abc import Iterator

from clustercore.interfaces import CategoryLimits, ErrorCategory
from clustercore_retry.rule import RetryRule

__all__ = ["CATEGORY_DEFAULTS", "DEFAULT_RULE", "NOT_ERRORS", "RULES", "SAME_NAMES", "WRAPPERS"]

_C = ErrorCategory
_NETWORK, _TIMEOUT, _SERVER, _CLIENT = _C.NETWORK_ERROR, _C.TIMEOUT_ERROR, _C.SERVER_ERROR, _C.CLIENT_ERROR
_LIMIT, _AUTH, _VALIDATION, _UNKNOWN = _C.RATE_LIMIT_ERROR, _C.AUTH_ERROR, _C.VALIDATION_ERROR, _C.UNKNOWN_ERROR


def _limits(category: ErrorCategory, retries: int, base_s: float, cap_s: float, jitter: float = 1.0) -> CategoryLimits:
    return CategoryLimits(category=category, max_retries=retries, base_delay_s=base_s, max_delay_s=cap_s, jitter=jitter)


# Full jitter spreads callers that failed together best (AWS, "Exponential backoff and jitter"). A rate limit's wait
# keeps half: one that is almost nothing would meet the same limit.
CATEGORY_DEFAULTS: tuple[CategoryLimits, ...] = (
    _limits(_NETWORK, 5, 0.05, 5.0),
    _limits(_TIMEOUT, 3, 0.1, 5.0),
    _limits(_SERVER, 3, 0.1, 10.0),
    _limits(_CLIENT, 1, 0.1, 1.0),
    _limits(_LIMIT, 5, 1.0, 30.0, jitter=0.5),
    _limits(_AUTH, 0, 0.0, 0.0),
    _limits(_VALIDATION, 0, 0.0, 0.0),
    _limits(_UNKNOWN, 1, 0.5, 5.0),
)


# --- By gRPC status --------------------------------------------------------------------------------------------------


def _grpc(
    category: ErrorCategory,
    status: str,
    *,
    message: str | None = None,
    has_hint: bool | None = None,
    is_retried: bool = True,
    is_certainly_undone: bool = False,
) -> RetryRule:
    return RetryRule(
        category=category,
        grpc_status=status,
        message=message,
        has_hint=has_hint,
        is_retried=is_retried,
        is_certainly_undone=is_certainly_undone,
    )


_GRPC = (
    # A refused stream was not processed (RFC 9113 section 8.7); without a connection nothing was sent.
    _grpc(_NETWORK, "UNAVAILABLE", message="REFUSED_STREAM|failed to connect", is_certainly_undone=True),
    _grpc(_NETWORK, "UNAVAILABLE"),
    _grpc(_TIMEOUT, "DEADLINE_EXCEEDED"),
    _grpc(_SERVER, "INTERNAL"),
    _grpc(_SERVER, "UNKNOWN"),
    _grpc(_CLIENT, "ABORTED"),
    # By the server: what the caller cancels itself is no error (NOT_ERRORS).
    _grpc(_CLIENT, "CANCELLED"),
    _grpc(_CLIENT, "NOT_FOUND", is_retried=False),
    _grpc(_CLIENT, "ALREADY_EXISTS", is_retried=False),
    _grpc(_CLIENT, "FAILED_PRECONDITION", is_retried=False),
    _grpc(_CLIENT, "OUT_OF_RANGE", is_retried=False),
    # One status for two things: a message that is too large stays so, and a quota is worth coming back to only if the
    # server says when (the rule of OTLP).
    _grpc(_VALIDATION, "RESOURCE_EXHAUSTED", message="larger than|too large|max(imum)? (message )?size"),
    _grpc(_LIMIT, "RESOURCE_EXHAUSTED", has_hint=True),
    _grpc(_LIMIT, "RESOURCE_EXHAUSTED", is_retried=False),
    _grpc(_AUTH, "UNAUTHENTICATED"),
    _grpc(_AUTH, "PERMISSION_DENIED"),
    _grpc(_VALIDATION, "INVALID_ARGUMENT"),
    _grpc(_VALIDATION, "UNIMPLEMENTED"),
    _grpc(_VALIDATION, "DATA_LOSS"),
)


# --- By HTTP status --------------------------------------------------------------------------------------------------


def _http(category: ErrorCategory, *statuses: int | tuple[int, int], is_retried: bool = True) -> Iterator[RetryRule]:
    for status in statuses:
        yield RetryRule(category=category, http_status=status, is_retried=is_retried)


_HTTP = (
    *_http(_UNKNOWN, (300, 399)),
    *_http(_VALIDATION, 400, 405, 406, (410, 417), 422),
    *_http(_AUTH, 401, 403, 407),
    *_http(_TIMEOUT, 408),
    # A conflict, the wrong server, a lock, too early: another attempt may find it otherwise.
    *_http(_CLIENT, 409, 421, 423, 425),
    *_http(_LIMIT, 429),
    # The 4xx that have no row of their own: not found, above all.
    *_http(_CLIENT, (400, 499), is_retried=False),
    *_http(_SERVER, (500, 599)),
)


# --- By type ---------------------------------------------------------------------------------------------------------


def _types(
    category: ErrorCategory, package: str, names: str, *, is_retried: bool = True, is_certainly_undone: bool = False
) -> Iterator[RetryRule]:
    for name in names.split():
        yield RetryRule(
            category=category,
            error_type=f"{package}:{name}",
            is_retried=is_retried,
            is_certainly_undone=is_certainly_undone,
        )


_TYPES = (
    # clustercore's own say what is known: docs/reference/errors.md.
    *_types(_NETWORK, "clustercore", "PeerUnreachable NotLeader", is_certainly_undone=True),
    # Waiting would only make the queue longer: whoever asks for less at once is served.
    *_types(_LIMIT, "clustercore", "QueueFull", is_retried=False, is_certainly_undone=True),
    *_types(_CLIENT, "clustercore", "Superseded", is_retried=False),
    *_types(_NETWORK, "clustercore", "LinkClosed TransportError"),
    *_types(_TIMEOUT, "clustercore", "PeerTimeout OutcomeUnknown"),
    *_types(_SERVER, "clustercore", "ProposalRefused", is_certainly_undone=True),
    *_types(_SERVER, "clustercore", "StorageError StateMachineError", is_retried=False),
    *_types(_CLIENT, "clustercore", "TransferFailed", is_certainly_undone=True),
    *_types(_CLIENT, "clustercore", "TooStale"),
    *_types(_CLIENT, "clustercore", "NodeStopped NeverApplied", is_retried=False, is_certainly_undone=True),
    # The same session and token find the same again, and the same result is too large again.
    *_types(_CLIENT, "clustercore", "ResultLost SessionExpired TokenSettled", is_retried=False),
    *_types(_VALIDATION, "clustercore", "InvalidCommand ConfigError PluginError ServiceError MalformedEntry"),
    # Trio. A closed resource or a busy one is the caller's own doing.
    *_types(_NETWORK, "trio", "BrokenResourceError"),
    *_types(_TIMEOUT, "trio", "TooSlowError"),
    *_types(_VALIDATION, "trio", "ClosedResourceError BusyResourceError"),
    # TLS. These have an errno, but from a table of their own.
    *_types(_AUTH, "ssl", "SSLCertVerificationError"),
    *_types(_NETWORK, "ssl", "SSLError"),
    # getaddrinfo, for codes without a row.
    *_types(_NETWORK, "socket", "gaierror", is_certainly_undone=True),
    # The standard library.
    *_types(_NETWORK, "builtins", "ConnectionRefusedError", is_certainly_undone=True),
    *_types(_NETWORK, "builtins", "ConnectionError EOFError"),
    *_types(_TIMEOUT, "builtins", "TimeoutError"),
    *_types(_NETWORK, "http", "IncompleteRead RemoteDisconnected BadStatusLine"),
    # HTTP, HTTP/2, gRPC and DNS libraries.
    *_types(_NETWORK, "httpx", "ConnectError ProxyError", is_certainly_undone=True),
    *_types(_NETWORK, "httpx", "NetworkError RemoteProtocolError"),
    *_types(_TIMEOUT, "httpx", "ConnectTimeout PoolTimeout", is_certainly_undone=True),
    *_types(_TIMEOUT, "httpx", "TimeoutException"),
    *_types(_SERVER, "httpx", "DecodingError"),
    *_types(_VALIDATION, "httpx", "LocalProtocolError UnsupportedProtocol InvalidURL TooManyRedirects"),
    *_types(_NETWORK, "h11", "RemoteProtocolError"),
    *_types(_VALIDATION, "h11", "LocalProtocolError"),
    *_types(_NETWORK, "h2", "StreamClosedError ProtocolError"),
    *_types(_NETWORK, "grpclib", "StreamTerminatedError"),
    *_types(_SERVER, "grpclib", "ProtocolError"),
    *_types(_TIMEOUT, "dns", "Timeout", is_certainly_undone=True),
    *_types(_SERVER, "dns", "NoNameservers", is_certainly_undone=True),
    *_types(_VALIDATION, "dns", "NXDOMAIN NoAnswer YXDOMAIN"),
    # Wrong in the program or in what it was given. After the others, some of which derive from these.
    *_types(_VALIDATION, "builtins", "ValueError TypeError LookupError AttributeError NameError NotImplementedError"),
)


# --- By the operating system's codes ---------------------------------------------------------------------------------


def _errnos(category: ErrorCategory, names: str, *, is_certainly_undone: bool = False) -> Iterator[RetryRule]:
    for name in names.split():
        yield RetryRule(category=category, errno_name=name, is_certainly_undone=is_certainly_undone)


_ERRNOS = (
    # Of connect alone: nothing was sent.
    *_errnos(_NETWORK, "ECONNREFUSED EADDRNOTAVAIL", is_certainly_undone=True),
    # "Unreachable" can also come over an established connection, from a router.
    *_errnos(_NETWORK, "ECONNRESET ECONNABORTED EPIPE ENOTCONN ESHUTDOWN ENETRESET"),
    *_errnos(_NETWORK, "EHOSTUNREACH ENETUNREACH EHOSTDOWN ENETDOWN ENOBUFS"),
    *_errnos(_TIMEOUT, "ETIMEDOUT"),
    *_errnos(_VALIDATION, "EINVAL EBADF ENOTSOCK EAFNOSUPPORT EACCES EPERM ENOENT EISDIR ENOTDIR EMSGSIZE"),
)


def _resolver(category: ErrorCategory, *codes: str) -> Iterator[RetryRule]:
    # Whoever has no address has sent nothing.
    for code in codes:
        yield RetryRule(category=category, resolver_code=code, is_certainly_undone=True)


_RESOLVER = (
    *_resolver(_NETWORK, "EAI_AGAIN", "EAI_FAIL"),
    *_resolver(_VALIDATION, "EAI_NONAME", "EAI_NODATA", "EAI_FAMILY", "EAI_SERVICE", "EAI_SOCKTYPE", "EAI_BADFLAGS"),
)


# --- By text, when there is nothing else -----------------------------------------------------------------------------

# The least retryable first: a text that fits two should not be tried again too often. Text proves nothing, so none of
# these says that a call is undone.
_MESSAGES = tuple(
    RetryRule(category=category, message=pattern, name=f"text: {category.value}")
    for category, pattern in (
        (
            _AUTH,
            r"unauthori[sz]ed|unauthenticated|permission denied|access denied|forbidden|invalid (token|credentials)",
        ),
        (_VALIDATION, r"invalid argument|malformed|bad request|message too large|unsupported"),
        (_LIMIT, r"too many requests|rate limit|throttl|quota exceeded"),
        (_SERVER, r"internal (server )?error|bad gateway|service unavailable"),
        (_TIMEOUT, r"timed?[ -]?out|deadline exceeded|too slow"),
        (_NETWORK, r"connection (was )?(refused|reset|aborted|closed|lost)|broken pipe|unreachable|no route to host"),
    )
)

# In the order in which they are consulted: an error's codes come before its types, and of the rules for types the one
# for the nearest base class counts.
RULES: tuple[RetryRule, ...] = (*_GRPC, *_HTTP, *_ERRNOS, *_RESOLVER, *_TYPES, *_MESSAGES)

DEFAULT_RULE = RetryRule(category=_UNKNOWN, name="anything else")

# Exceptions that are passed on unseen: the caller's own cancellation, and failures of the program rather than of the
# call, which another attempt would only hide.
NOT_ERRORS: frozenset[str] = frozenset(
    {
        "builtins:AssertionError",
        "builtins:MemoryError",
        "builtins:RecursionError",
        "clustercore:InvariantError",
        "concurrent:CancelledError",
        "grpc:FutureCancelledError",
    }
)

# Packages whose exceptions are called as another's are: what is underneath httpx, and the continuation of both.
SAME_NAMES: dict[str, str] = {"httpx2": "httpx", "httpcore": "httpx", "httpcore2": "httpx"}

# Exceptions that only wrap another, which is looked at in their place: their cause, else their context.
WRAPPERS: frozenset[str] = frozenset({"urllib:URLError", "tenacity:RetryError"})
