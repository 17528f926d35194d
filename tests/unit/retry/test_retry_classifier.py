"""Classification beyond the table: user rules, an error's own category, groups, wrappers, and what is passed on."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import math
import urllib.error
from collections.abc import Callable
from datetime import timedelta
from email.message import Message
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from clustercore.interfaces import ConfigError, ErrorCategory, InvariantError, PeerUnreachable
from clustercore_retry import CategoryRetryPolicy, RetryRule
from clustercore_retry.hints import parse_pushback, parse_retry_after
from tests.unit.retry.samples import grpc_error, http_error, named

C = ErrorCategory


class Busy(Exception):
    """An error that knows what it is."""

    category = C.RATE_LIMIT_ERROR
    retry_after_s = 2.5
    is_certainly_undone = True


def explained(error: BaseException, *rules: RetryRule) -> tuple[ErrorCategory | None, str]:
    """Return category and rule of an error."""
    found = CategoryRetryPolicy(rules=rules).explain(error)
    return found.category, found.rule


# --- What is passed on -----------------------------------------------------------------------------------------------


def cancelled() -> BaseException:
    """Return a real Cancelled."""
    caught: list[BaseException] = []

    async def catch() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as error:
                caught.append(error)
                raise

    trio.run(catch)
    return caught[0]


@pytest.mark.parametrize(
    "make",
    [
        cancelled,
        KeyboardInterrupt,
        SystemExit,
        GeneratorExit,
        asyncio.CancelledError,
        concurrent.futures.CancelledError,
        MemoryError,
        RecursionError,
        AssertionError,
        lambda: InvariantError("ours"),
        lambda: grpc_error("CANCELLED", "Locally cancelled by application!"),
        lambda: BaseExceptionGroup("", [ValueError(), cancelled()]),
        lambda: BaseExceptionGroup("", [ConnectionResetError(), BaseExceptionGroup("", [KeyboardInterrupt()])]),
        lambda: ExceptionGroup("", [ConnectionResetError(), AssertionError()]),
    ],
    ids=[
        "trio",
        *["KeyboardInterrupt", "SystemExit", "GeneratorExit", "asyncio", "futures"],
        *["MemoryError", "RecursionError", "AssertionError", "InvariantError"],
        *["grpc", "group", "deep group", "group of exceptions"],
    ],
)
def test_what_is_no_error_is_never_classified(make: Callable[[], BaseException]) -> None:
    """Cancellation and the program's own failure have no category, are not retried, and are counted nowhere."""
    policy = CategoryRetryPolicy(rules=[RetryRule(category=C.NETWORK_ERROR, when=lambda _: True)])
    error = make()

    assert policy.explain(error).category is None
    assert not policy.should_retry(error, 0)
    assert policy.get_retry_delay(error, 0) == 0
    policy.record_retry(error, success=False)
    assert policy.get_error_statistics().categories == ()


# --- Before the table ------------------------------------------------------------------------------------------------


def test_user_rule_comes_before_the_table_and_the_errors_own_category() -> None:
    """A user's rule decides first, then ``error.category``, then the table."""
    rule = RetryRule(category=C.CLIENT_ERROR, error_type=Busy, name="ours")

    assert explained(Busy(), rule) == (C.CLIENT_ERROR, "ours")
    assert explained(Busy()) == (C.RATE_LIMIT_ERROR, "error.category")


def test_errors_own_category_brings_its_hint_and_its_effect() -> None:
    """An error that has a category says also when to come back, and whether the call had no effect."""
    found = CategoryRetryPolicy().explain(Busy())

    assert (found.retry_after_s, found.is_certainly_undone) == (2.5, True)


@pytest.mark.parametrize(("category", "expected"), [("TIMEOUT_ERROR", C.TIMEOUT_ERROR), ("spam", C.UNKNOWN_ERROR)])
def test_errors_own_category_may_be_text(category: str, expected: ErrorCategory) -> None:
    """Text counts if it is the name of a category; another library's word is none."""
    error = Exception()
    error.category = category  # type: ignore[attr-defined]

    assert explained(error)[0] is expected


def test_most_specific_user_rule_wins() -> None:
    """More conditions beat fewer, a nearer class a farther one, and of equals the first."""
    general = RetryRule(category=C.UNKNOWN_ERROR, when=lambda _: True, name="general")
    far = RetryRule(category=C.SERVER_ERROR, error_type=OSError, name="far")
    near = RetryRule(category=C.CLIENT_ERROR, error_type=ConnectionError, name="near")
    again = RetryRule(category=C.AUTH_ERROR, error_type="builtins:ConnectionError", name="again")
    both = RetryRule(category=C.TIMEOUT_ERROR, error_type=OSError, errno_name="ECONNRESET", name="both")
    error = ConnectionResetError(errno.ECONNRESET, "reset")

    assert explained(error, general, far, near, again, both)[1] == "both"
    assert explained(error, general, far, near, again)[1] == "near"
    assert explained(error, general, far)[1] == "far"
    assert explained(ValueError(), general, far)[1] == "general"


@pytest.mark.parametrize(
    ("rule", "fits", "fails"),
    [
        (RetryRule(category=C.CLIENT_ERROR, grpc_status="ABORTED"), grpc_error("ABORTED"), grpc_error("INTERNAL")),
        (RetryRule(category=C.CLIENT_ERROR, http_status=500), http_error(500), http_error(501)),
        (RetryRule(category=C.CLIENT_ERROR, http_status=(500, 502)), http_error(502), ValueError()),
        (RetryRule(category=C.CLIENT_ERROR, errno_name="EAGAIN"), OSError(errno.EAGAIN, ""), OSError(errno.EPERM, "")),
        (RetryRule(category=C.CLIENT_ERROR, errno_name="EWOULDBLOCK"), OSError(errno.EAGAIN, ""), ValueError()),
        (RetryRule(category=C.CLIENT_ERROR, errno_name="ENOSUCHCODE"), None, OSError(errno.EAGAIN, "")),
        (RetryRule(category=C.CLIENT_ERROR, message="fla+ky"), ValueError("FLAAKY"), ValueError("sound")),
        (RetryRule(category=C.CLIENT_ERROR, has_hint=True), http_error(503, Retry_After="1"), http_error(503)),
        (RetryRule(category=C.CLIENT_ERROR, has_hint=False), http_error(503), http_error(503, Retry_After="1")),
        (RetryRule(category=C.CLIENT_ERROR, when=lambda e: bool(e.args)), ValueError("x"), ValueError()),
    ],
    ids=lambda value: value.name if isinstance(value, RetryRule) else repr(value),
)
def test_user_rule_fits_what_meets_its_conditions(rule: RetryRule, fits: Exception | None, fails: Exception) -> None:
    """Each kind of condition is looked at."""
    if fits is not None:
        assert explained(fits, rule)[1] == rule.name
    assert explained(fails, rule)[1] != rule.name


@pytest.mark.parametrize(
    ("conditions", "complaint"),
    [
        ({}, "a rule for CLIENT_ERROR has no condition; give it at least one"),
        ({"grpc_status": "BUSY"}, "grpc_status is 'BUSY'; it must be one of OK, CANCELLED"),
        ({"http_status": 99}, "http_status is 99; it must be within 100 to 599"),
        ({"http_status": (500, 400)}, "http_status is (500, 400); it must be within 100 to 599, the first one lower"),
        ({"error_type": "acme.Flaky"}, "error_type is 'acme.Flaky'; it must be like 'httpx:ConnectError'"),
        ({"message": "("}, "message is '('; it must be a regular expression"),
    ],
)
def test_rule_that_cannot_be_met_is_refused(conditions: dict[str, object], complaint: str) -> None:
    """A mistake in a rule is told when it is made, with what is allowed."""
    with pytest.raises(ConfigError) as caught:
        RetryRule(category=C.CLIENT_ERROR, **conditions)  # type: ignore[arg-type]

    assert str(caught.value).startswith(complaint)


def test_condition_that_fails_is_not_met() -> None:
    """Classification raises nothing, not even what a user's condition raises."""
    rule = RetryRule(category=C.CLIENT_ERROR, when=lambda error: error.nothing, name="broken")  # type: ignore[attr-defined]

    assert explained(ValueError(), rule)[0] is C.VALIDATION_ERROR


class Hostile(Exception):
    """Fails wherever it is touched."""

    def __getattribute__(self, name: str) -> object:
        if name.startswith("__"):
            return super().__getattribute__(name)
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_classification_is_total() -> None:
    """An error whose attributes and text cannot be read is unknown, and nothing is raised."""
    assert explained(Hostile()) == (C.UNKNOWN_ERROR, "anything else")


# --- Groups and wrappers ---------------------------------------------------------------------------------------------


def test_group_is_what_its_least_retryable_error_is() -> None:
    """One error that will not go away is enough; the call is undone only if all say so; the longest hint counts."""
    policy = CategoryRetryPolicy()
    refused, late = ConnectionRefusedError(), TimeoutError()

    mixed = policy.explain(ExceptionGroup("", [refused, ExceptionGroup("", [late]), http_error(429, retry_after="9")]))
    hopeless = policy.explain(ExceptionGroup("", [late, ValueError(), refused]))

    assert (mixed.category, mixed.retry_after_s) == (C.RATE_LIMIT_ERROR, 9)
    assert mixed.rule == "group of 3: HTTP 429"
    assert not mixed.is_certainly_undone
    assert hopeless.category is C.VALIDATION_ERROR


def test_group_of_one_is_what_its_error_is() -> None:
    """A group that only a nursery made changes nothing."""
    group = ExceptionGroup("", [ExceptionGroup("", [ConnectionRefusedError()])])

    assert CategoryRetryPolicy().explain(group) == CategoryRetryPolicy().explain(ConnectionRefusedError())


def test_wrapper_is_looked_through_and_others_are_not() -> None:
    """Only the exceptions that are known to wrap another are what their cause is."""

    def raised(outer: Exception, cause: Exception) -> Exception:
        outer.__cause__ = cause
        return outer

    wrapper = named("acme:CallFailed")
    policy = CategoryRetryPolicy(wrappers=["acme:CallFailed"])

    assert policy.explain(raised(wrapper(), ConnectionRefusedError())).rule == "ConnectionRefusedError"
    assert policy.explain(raised(wrapper(), TimeoutError())).category is C.TIMEOUT_ERROR
    assert policy.explain(raised(named("acme:Other")(), TimeoutError())).category is C.UNKNOWN_ERROR
    assert policy.explain(raised(urllib.error.URLError("x"), TimeoutError())).category is C.TIMEOUT_ERROR
    assert policy.explain(wrapper()).category is C.UNKNOWN_ERROR


def test_wrappers_in_a_circle_end() -> None:
    """A chain of causes that leads back to its start is classified all the same."""
    one, other = named("acme:CallFailed")(), named("acme:CallFailed")()
    one.__cause__, other.__cause__ = other, one

    assert CategoryRetryPolicy(wrappers=["acme:CallFailed"]).explain(one).category is C.UNKNOWN_ERROR


# --- The libraries' own errors ---------------------------------------------------------------------------------------


def test_grpclib_errors_are_read() -> None:
    """grpclib's GRPCError is classified by its status, with a RetryInfo among its details."""
    info = SimpleNamespace(retry_delay=SimpleNamespace(seconds=1, nanos=500_000_000))
    found = CategoryRetryPolicy().explain(GRPCError(Status.RESOURCE_EXHAUSTED, "quota", [info]))

    assert (found.category, found.retry_after_s) == (C.RATE_LIMIT_ERROR, 1.5)
    timed = GRPCError(Status.UNAVAILABLE, "x", [SimpleNamespace(retry_delay=timedelta(seconds=3))])
    assert CategoryRetryPolicy().explain(timed).retry_after_s == 3
    assert explained(GRPCError(Status.UNAVAILABLE, "down")) == (C.NETWORK_ERROR, "gRPC UNAVAILABLE")


class RpcFailed(grpc.RpcError):
    """As grpcio raises it: the status is behind methods."""

    def __init__(self, status: grpc.StatusCode, details: str, **trailers: str | bytes) -> None:
        super().__init__()
        self._status, self._details = status, details
        self._trailers = tuple((name.replace("_", "-"), value) for name, value in trailers.items())

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailers


# A google.rpc.Status with a RetryInfo of 2.25 s, as protobuf encodes it.
RETRY_INFO = b"\n\x07\x08\x02\x10\x80\xe5\x9aw"
ANY = b"\n\x28type.googleapis.com/google.rpc.RetryInfo\x12\x09" + RETRY_INFO
DETAILS = b"\x08\x08\x12\x04slow\x1a" + bytes([len(ANY)]) + ANY


def test_grpcio_errors_are_read() -> None:
    """grpcio's RpcError is classified by ``code()`` and ``details()``, with pushback and RetryInfo in its trailers."""
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    policy = CategoryRetryPolicy()

    refused = policy.explain(RpcFailed(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses"))
    assert (refused.category, refused.is_certainly_undone) == (C.NETWORK_ERROR, True)
    assert policy.explain(RpcFailed(exhausted, "Sent message larger than max")).category is C.VALIDATION_ERROR
    assert policy.explain(RpcFailed(exhausted, "", grpc_retry_pushback_ms="70")).retry_after_s == 0.07
    assert policy.explain(RpcFailed(exhausted, "", grpc_status_details_bin=DETAILS)).retry_after_s == 2.25
    assert policy.explain(RpcFailed(exhausted, "", grpc_status_details_bin=b"\xff\xff\x01")).retry_after_s is None
    assert policy.explain(RpcFailed(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")).category is None


def test_urllib_errors_are_read() -> None:
    """urllib's HTTPError, whose status is called ``code``, is classified by it, with the hint in its headers."""
    headers = Message()
    headers["Retry-After"] = "4"
    with urllib.error.HTTPError("http://a", 503, "busy", headers, None) as error:
        found = CategoryRetryPolicy().explain(error)

    assert (found.category, found.retry_after_s) == (C.SERVER_ERROR, 4)


@pytest.mark.parametrize(
    "error",
    [SimpleNamespace(code=404), SimpleNamespace(status=500), SimpleNamespace(status_code=True)],
    ids=repr,
)
def test_numbers_that_are_no_http_status_are_not_read_as_one(error: SimpleNamespace) -> None:
    """``code`` and ``status`` mean many things; only beside headers they are HTTP's."""
    made = Exception()
    vars(made).update(vars(error))

    assert explained(made)[0] is C.UNKNOWN_ERROR


def test_peer_unreachable_is_certainly_undone() -> None:
    """Our own errors say what is known of the effect."""
    assert CategoryRetryPolicy().explain(PeerUnreachable("x")).is_certainly_undone


# --- Hints -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", 0), ("250", 0.25), (b"1000", 1), ("-1", math.inf), ("soon", math.inf), ("", math.inf), ("1" * 40, math.inf)],
)
def test_pushback_is_parsed(value: str | bytes, expected: float) -> None:
    """Milliseconds; negative or unreadable means not to retry."""
    assert parse_pushback(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("9" * 30, math.inf),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0),
        ("Wed, 21 Oct 2026 07:28:30", 30),
        ("-5", None),
        ("later", None),
        ("", None),
    ],
)
def test_retry_after_is_parsed(value: str, expected: float | None) -> None:
    """Seconds, or a date, which counts from the answer's own; what is neither says nothing."""
    assert parse_retry_after(value, "Wed, 21 Oct 2026 07:28:00 GMT") == expected


def test_retry_after_date_without_the_answers_own_counts_from_now() -> None:
    """Long past is no wait."""
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT", "never") == 0


@pytest.mark.parametrize("retry_after_s", [-1, True, "4", None])
def test_own_hint_that_is_no_time_says_nothing(retry_after_s: object) -> None:
    """``retry_after_s`` counts if it is a number of at least 0."""
    error = Exception()
    error.retry_after_s = retry_after_s  # type: ignore[attr-defined]

    assert CategoryRetryPolicy().explain(error).retry_after_s is None
