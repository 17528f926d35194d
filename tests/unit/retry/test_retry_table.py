"""The two tables, row by row: what is retried how often, and which error is what."""

from __future__ import annotations

import ssl
from importlib import import_module

import pytest
import trio

from clustercore import interfaces
from clustercore.interfaces import CategoryLimits, ErrorCategory, RetryCall
from clustercore_retry import CATEGORY_DEFAULTS, RULES, BudgetConfig, CategoryRetryPolicy, RetryRule
from clustercore_retry.table import DEFAULT_RULE, SAME_NAMES
from tests.unit.retry.samples import grpc_error, http_error, named, sample_of

IDEMPOTENT = RetryCall(is_idempotent=True)

# What a user reads in the requirements: retries after the first attempt, and whether there are any.
AT_MOST = {
    "NETWORK_ERROR": 5,
    "TIMEOUT_ERROR": 3,
    "SERVER_ERROR": 3,
    "CLIENT_ERROR": 1,
    "RATE_LIMIT_ERROR": 5,
    "AUTH_ERROR": 0,
    "VALIDATION_ERROR": 0,
    "UNKNOWN_ERROR": 1,
}
# An error of each category, which is retried if any is.
OF_CATEGORY = {
    "NETWORK_ERROR": grpc_error("UNAVAILABLE"),
    "TIMEOUT_ERROR": grpc_error("DEADLINE_EXCEEDED"),
    "SERVER_ERROR": http_error(500),
    "CLIENT_ERROR": http_error(409),
    "RATE_LIMIT_ERROR": http_error(429),
    "AUTH_ERROR": http_error(401),
    "VALIDATION_ERROR": ValueError("bad"),
    "UNKNOWN_ERROR": Exception("never heard of"),
}

# What each rule must say: independent of the table, so that a row that is changed by mistake is noticed.
EXPECTED_GRPC = {
    "OK": "UNKNOWN_ERROR",
    "CANCELLED": "CLIENT_ERROR",
    "UNKNOWN": "SERVER_ERROR",
    "INVALID_ARGUMENT": "VALIDATION_ERROR",
    "DEADLINE_EXCEEDED": "TIMEOUT_ERROR",
    "NOT_FOUND": "CLIENT_ERROR never",
    "ALREADY_EXISTS": "CLIENT_ERROR never",
    "PERMISSION_DENIED": "AUTH_ERROR",
    "RESOURCE_EXHAUSTED": "RATE_LIMIT_ERROR never",
    "FAILED_PRECONDITION": "CLIENT_ERROR never",
    "ABORTED": "CLIENT_ERROR",
    "OUT_OF_RANGE": "CLIENT_ERROR never",
    "UNIMPLEMENTED": "VALIDATION_ERROR",
    "INTERNAL": "SERVER_ERROR",
    "UNAVAILABLE": "NETWORK_ERROR",
    "DATA_LOSS": "VALIDATION_ERROR",
    "UNAUTHENTICATED": "AUTH_ERROR",
}
EXPECTED_HTTP = {
    302: "UNKNOWN_ERROR",
    400: "VALIDATION_ERROR",
    401: "AUTH_ERROR",
    402: "CLIENT_ERROR never",
    403: "AUTH_ERROR",
    404: "CLIENT_ERROR never",
    405: "VALIDATION_ERROR",
    406: "VALIDATION_ERROR",
    407: "AUTH_ERROR",
    408: "TIMEOUT_ERROR",
    409: "CLIENT_ERROR",
    410: "VALIDATION_ERROR",
    417: "VALIDATION_ERROR",
    418: "CLIENT_ERROR never",
    421: "CLIENT_ERROR",
    422: "VALIDATION_ERROR",
    423: "CLIENT_ERROR",
    425: "CLIENT_ERROR",
    429: "RATE_LIMIT_ERROR",
    451: "CLIENT_ERROR never",
    **dict.fromkeys([500, 501, 502, 503, 504, 505, 511, 520, 599], "SERVER_ERROR"),
}


def said(policy: CategoryRetryPolicy, error: BaseException) -> str:
    """Return what the policy says of an error, as the lists above write it."""
    found = policy.explain(error)
    never = "" if found.is_retried or not AT_MOST[str(found.category)] else " never"
    return f"{found.category}{never}"


@pytest.mark.parametrize("category", ErrorCategory)
def test_category_is_retried_as_often_as_the_table_says(category: ErrorCategory) -> None:
    """An error of each category is tried again exactly so many times after the first attempt, and no more."""
    policy = CategoryRetryPolicy(max_total_retries=100, auto_adjust=False, budget=BudgetConfig(initial=500))

    granted = [policy.should_retry(OF_CATEGORY[category], count, IDEMPOTENT) for count in range(8)]

    assert granted == [count < AT_MOST[category] for count in range(8)]


@pytest.mark.parametrize("row", CATEGORY_DEFAULTS, ids=lambda row: row.category.value)
def test_category_delays_begin_and_end_as_the_table_says(row: CategoryLimits) -> None:
    """No wait is longer than the row's next doubling, nor than its cap; and waits are spread below it by the jitter."""
    policy = CategoryRetryPolicy()
    error = OF_CATEGORY[row.category]

    for count in (0, 1, 2, 5, 60, 100_000):
        longest = min(row.max_delay_s, row.base_delay_s * 2.0 ** min(count, 100))
        drawn = [policy.get_retry_delay(error, count) for _ in range(200)]
        assert all(longest * (1 - row.jitter) <= delay <= longest for delay in drawn)
        assert not longest or max(drawn) - min(drawn) > longest * row.jitter / 2


def test_every_category_has_one_row() -> None:
    """The table has the eight categories, each once."""
    assert sorted(row.category for row in CATEGORY_DEFAULTS) == sorted(ErrorCategory)
    assert {row.category.value: row.max_retries for row in CATEGORY_DEFAULTS} == AT_MOST


@pytest.mark.parametrize("rule", [*RULES, DEFAULT_RULE], ids=lambda rule: rule.name)
def test_rule_fires_for_its_error(rule: RetryRule) -> None:
    """Each row of the classification is reached: an error made for it is explained by its name, with what it says."""
    error = sample_of(rule)
    if error is None:
        pytest.skip("this platform has no such code")

    found = CategoryRetryPolicy().explain(error)

    assert found.rule == rule.name
    assert (found.category, found.is_retried) == (rule.category, rule.is_retried)
    assert found.is_certainly_undone is rule.is_certainly_undone


@pytest.mark.parametrize("status", EXPECTED_GRPC)
def test_grpc_status_is_what_it_should_be(status: str) -> None:
    """Each gRPC status has its category."""
    assert said(CategoryRetryPolicy(), grpc_error(status)) == EXPECTED_GRPC[status]


@pytest.mark.parametrize("status", EXPECTED_HTTP)
def test_http_status_is_what_it_should_be(status: int) -> None:
    """Each HTTP status has its category; every 5xx is the server's failure."""
    assert said(CategoryRetryPolicy(), http_error(status)) == EXPECTED_HTTP[status]


@pytest.mark.parametrize("status", range(500, 600))
def test_http_5xx_is_the_servers_failure_also_with_a_hint(status: int) -> None:
    """A Retry-After changes when a 5xx is tried again, not what it is."""
    found = CategoryRetryPolicy().explain(http_error(status, retry_after="3"))

    assert (found.category, found.retry_after_s) == (ErrorCategory.SERVER_ERROR, 3.0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(), "NETWORK_ERROR"),
        (ConnectionResetError(), "NETWORK_ERROR"),
        (BrokenPipeError(), "NETWORK_ERROR"),
        (trio.BrokenResourceError(), "NETWORK_ERROR"),
        (trio.TooSlowError(), "TIMEOUT_ERROR"),
        (TimeoutError(), "TIMEOUT_ERROR"),
        (ssl.SSLCertVerificationError(1, "expired"), "AUTH_ERROR"),
        (ssl.SSLEOFError(8, "EOF"), "NETWORK_ERROR"),
        (KeyError("k"), "VALIDATION_ERROR"),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "bad"), "VALIDATION_ERROR"),
        (interfaces.PeerUnreachable("no"), "NETWORK_ERROR"),
        (interfaces.PeerTimeout("late"), "TIMEOUT_ERROR"),
        (interfaces.InvalidCommand("no"), "VALIDATION_ERROR"),
        (interfaces.StorageFull("no space"), "SERVER_ERROR never"),
        (Exception("what?"), "UNKNOWN_ERROR"),
    ],
    ids=repr,
)
def test_python_error_is_what_it_should_be(error: Exception, expected: str) -> None:
    """Python's, Trio's and our own errors have their categories; a TLS code is no code of the operating system."""
    assert said(CategoryRetryPolicy(), error) == expected


@pytest.mark.parametrize("package", SAME_NAMES)
def test_package_with_the_same_names_is_classified_alike(package: str) -> None:
    """httpcore and the continuations are read as httpx is."""
    network = named(f"{package}:NetworkError")
    policy = CategoryRetryPolicy()

    assert policy.explain(named(f"{package}:ReadError", network)()).rule == "httpx.NetworkError"
    assert policy.explain(named(f"{package}:ConnectError", network)()).is_certainly_undone


def test_types_that_the_table_names_exist() -> None:
    """Whatever of the named libraries is installed has the exceptions that the table names."""
    homes = {
        "clustercore": ["clustercore.interfaces"],
        "h2": ["h2.exceptions"],
        "grpclib": ["grpclib.exceptions"],
        "h11": ["h11"],
        "httpx": ["httpx"],
        "dns": ["dns.exception", "dns.resolver"],
        "http": ["http.client"],
        "socket": ["socket"],
        "ssl": ["ssl"],
        "trio": ["trio"],
        "builtins": ["builtins"],
    }
    for rule in RULES:
        if not isinstance(rule.error_type, str):
            continue
        package, _, name = rule.error_type.partition(":")
        try:
            modules = [import_module(home) for home in homes[package]]
        except ModuleNotFoundError:
            continue
        assert any(hasattr(module, name) for module in modules), rule.error_type
