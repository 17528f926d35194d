"""What retry policies and their callers exchange: categories, classifications, decisions and statistics.

All of it is data. A policy's tables are made of these values, so that the command line, the documentation and the tests
read the very objects that decide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum

import attrs

from clustercore.interfaces.errors import ConfigError

__all__ = [
    "CategoryLimits",
    "CategoryStatistics",
    "Classification",
    "ErrorCategory",
    "ErrorStatistics",
    "LimitChange",
    "RetryCall",
    "RetryDecision",
    "RetryEvent",
    "RetryTable",
    "RuleRow",
    "StopReason",
    "TargetStatistics",
]


class ErrorCategory(StrEnum):
    """What went wrong, as far as trying again is concerned. From the most to the least worth a retry."""

    # No connection, or it broke.
    NETWORK_ERROR = "NETWORK_ERROR"
    # Connected, but one attempt was not answered in time.
    TIMEOUT_ERROR = "TIMEOUT_ERROR"
    # The server failed, by its own word; every HTTP 5xx.
    SERVER_ERROR = "SERVER_ERROR"
    # The server asks for fewer requests.
    RATE_LIMIT_ERROR = "RATE_LIMIT_ERROR"
    # The state of things refused the request; it may be another one in a moment. Most HTTP 4xx.
    CLIENT_ERROR = "CLIENT_ERROR"
    # Nothing that is known.
    UNKNOWN_ERROR = "UNKNOWN_ERROR"
    # Who asks is not known, or may not.
    AUTH_ERROR = "AUTH_ERROR"
    # The request is wrong, and will be as wrong the next time.
    VALIDATION_ERROR = "VALIDATION_ERROR"


class StopReason(StrEnum):
    """Why an error is not tried again."""

    # It is no error of the call: cancellation, the interpreter's or the program's own failure.
    NOT_AN_ERROR = "not an error"
    # Its category, or the rule that classified it, allows no retry.
    NEVER = "never retried"
    # The call is not idempotent, and may have been carried out.
    NOT_IDEMPOTENT = "not idempotent"
    # The category's retries are used up.
    CATEGORY_LIMIT = "category limit"
    # The retries of the whole call are used up.
    TOTAL_LIMIT = "total limit"
    # The call's deadline comes before the next attempt would.
    DEADLINE = "deadline"
    # The server said not to try again, or only after longer than is worth waiting.
    SERVER_HINT = "server hint"
    # The target has had its share of retries; its budget refills with time.
    BUDGET = "budget"
    # A retry further out does it.
    NESTED = "nested"


@attrs.frozen(kw_only=True)
class RetryCall:
    """What a policy must know of a call to decide about its errors.

    Raises: ConfigError if ``timeout_s`` is not above 0.
    """

    # Whom it asks. Budgets, server hints and what is learned are kept by it; "" is a target like any other.
    target: str = ""
    # What it asks for, for the statistics.
    operation: str = ""
    # Whether carrying it out twice is as good as once.
    is_idempotent: bool = False
    # For all attempts and the waits between them, from the first attempt on. A Trio deadline that is earlier counts.
    timeout_s: float = math.inf

    def __attrs_post_init__(self) -> None:
        """Check the range."""
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s is {self.timeout_s}; it must be above 0 seconds")


@attrs.frozen(kw_only=True)
class CategoryLimits:
    """How errors of one category are retried.

    The wait before retry ``n + 1`` is drawn evenly from ``[(1 - jitter) * d, d]``, where ``d`` is
    ``min(max_delay_s, base_delay_s * 2 ** n)``.
    """

    category: ErrorCategory
    # Retries, that is attempts after the first. 0 for never.
    max_retries: int
    base_delay_s: float
    max_delay_s: float
    # From 0, always the same wait, to 1, anything down to none.
    jitter: float

    def __attrs_post_init__(self) -> None:
        """Check the ranges."""
        if self.max_retries < 0:
            raise ConfigError(f"{self.category}: max_retries is {self.max_retries}; it must be at least 0")
        if not 0 <= self.base_delay_s <= self.max_delay_s < math.inf:
            raise ConfigError(
                f"{self.category}: base_delay_s is {self.base_delay_s} and max_delay_s {self.max_delay_s}; they must "
                "be finite, at least 0, and the base at most the maximum"
            )
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"{self.category}: jitter is {self.jitter}; it must be from 0 to 1")


@attrs.frozen(kw_only=True)
class Classification:
    """What an error is, and which rule says so."""

    # None if it is no error of the call (cancellation, say): it is passed on, and counted nowhere.
    category: ErrorCategory | None
    # The rule's name, as the policy's table has it.
    rule: str
    # Whether errors of this rule are tried again at all, within the limits of the category.
    is_retried: bool
    # Whether the call certainly had no effect: it was never sent, or refused before anything was done. Only then is
    # a call that is not idempotent tried again.
    is_certainly_undone: bool = False
    # How long the server asks to wait, in seconds; None if it does not say. Infinite: it asks not to try again.
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return f"{self.category or 'not an error'} by the rule {self.rule!r}"


@attrs.frozen(kw_only=True)
class RetryDecision:
    """What to do about an error. Exactly one of ``delay_s`` and ``stop`` is set."""

    classification: Classification
    # Try again after so long.
    delay_s: float | None = None
    # Do not try again, because of this.
    stop: StopReason | None = None


@attrs.frozen(kw_only=True)
class RetryEvent:
    """One decision, for a hook that logs or measures."""

    call: RetryCall
    error: Exception
    decision: RetryDecision
    # The number of the attempt that failed, from 1.
    attempt: int


# --- Tables ----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class RuleRow:
    """One rule of a policy's classification, in words."""

    # Unique in its table.
    name: str
    # Which errors it is for.
    when: str
    category: ErrorCategory
    is_retried: bool
    is_certainly_undone: bool


@attrs.frozen
class RetryTable:
    """All that a policy goes by: limits for each category, and rules, the first that fits being the one that counts."""

    limits: tuple[CategoryLimits, ...]
    rules: tuple[RuleRow, ...]


# --- Statistics ------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class CategoryStatistics:
    """Errors of one category, in one operation on one target."""

    target: str
    operation: str
    category: ErrorCategory
    # Attempts that ended with such an error.
    errors: int
    # Retries that were made after one, and how many of them succeeded.
    retries: int
    retry_successes: int
    # How many calls succeeded with their first retry, their second, and so on.
    successes_by_retry: tuple[int, ...]
    # How often it was not tried again, by reason.
    stops: Mapping[StopReason, int]
    # Waited in all, in seconds.
    delay_s: float

    @property
    def retry_success_rate(self) -> float | None:
        """The share of retries that succeeded; None without any."""
        return self.retry_successes / self.retries if self.retries else None


@attrs.frozen(kw_only=True)
class TargetStatistics:
    """One target, whatever is asked of it."""

    target: str
    # First attempts that have ended, and how many of them succeeded.
    first_attempts: int
    first_successes: int
    retries: int
    # What is left of its budget, in tokens, and what it holds when full.
    budget_level: float
    budget_capacity: float
    # How long it asks all its callers to wait still, in seconds.
    hold_s: float
    # What is in force for it now: the policy's table, or less where it was lowered.
    limits: tuple[CategoryLimits, ...]


@attrs.frozen(kw_only=True)
class LimitChange:
    """A change of what is in force for one category of one target's errors."""

    target: str
    category: ErrorCategory
    old: CategoryLimits
    new: CategoryLimits
    # The numbers that it was made for, in words.
    evidence: str
    # When, by the policy's clock.
    at_s: float


@attrs.frozen
class ErrorStatistics:
    """Everything counted since the policy was made, for the targets that it still remembers."""

    categories: tuple[CategoryStatistics, ...]
    targets: tuple[TargetStatistics, ...]
    # The latest changes, oldest first.
    changes: tuple[LimitChange, ...] = ()

    def of(self, category: ErrorCategory, target: str | None = None) -> CategoryStatistics:
        """Return the sums for a category: of one target, or of all."""
        found = [
            counted for counted in self.categories if counted.category is category and target in (None, counted.target)
        ]
        length = max((len(counted.successes_by_retry) for counted in found), default=0)
        stops: dict[StopReason, int] = {}
        for counted in found:
            for reason, number in counted.stops.items():
                stops[reason] = stops.get(reason, 0) + number
        return CategoryStatistics(
            target=target or "",
            operation="",
            category=category,
            errors=sum(counted.errors for counted in found),
            retries=sum(counted.retries for counted in found),
            retry_successes=sum(counted.retry_successes for counted in found),
            successes_by_retry=tuple(
                sum(counted.successes_by_retry[number] for counted in found if number < len(counted.successes_by_retry))
                for number in range(length)
            ),
            stops=stops,
            delay_s=sum(counted.delay_s for counted in found),
        )
