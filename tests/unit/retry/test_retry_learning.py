"""What the policy learns: fewer retries where they do not help, and all of them again once there is reason to."""

from __future__ import annotations

import json
import math
from random import Random

import pytest

from clustercore.interfaces import ConfigError, ErrorCategory, LimitChange, RetryCall, StopReason
from clustercore_retry import BudgetConfig, CategoryRetryPolicy

C = ErrorCategory
CALL = RetryCall(target="a", is_idempotent=True)
# So large that it never decides anything here.
PLENTY = BudgetConfig(capacity=1e9, initial=1e9)


class HandClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Setting:
    """A policy, its clock, and every change it told."""

    def __init__(self, *, auto_adjust: bool = False) -> None:
        self.clock = HandClock()
        self.told: list[LimitChange] = []
        self.policy = CategoryRetryPolicy(
            auto_adjust=auto_adjust, budget=PLENTY, clock=self.clock, rng=Random(1), on_change=self.told.append
        )

    def retries(self, number: int, *, success: bool) -> None:
        """Record retries after timeouts."""
        for _ in range(number):
            self.policy.record_retry(TimeoutError(), success, CALL)

    def first_attempts(self, number: int) -> None:
        """Let calls succeed at once."""
        for _ in range(number):
            self.policy.begin(CALL, is_nested=False).succeeded()

    def step(self, after_s: float = 30.0) -> tuple[LimitChange, ...]:
        """Let time pass, and adjust."""
        self.clock.now += after_s
        return self.policy.auto_adjust_configs()

    @property
    def in_force(self) -> tuple[int, float]:
        """Retries and first wait after a timeout."""
        (target,) = self.policy.get_error_statistics().targets
        (row,) = (row for row in target.limits if row.category is C.TIMEOUT_ERROR)
        return row.max_retries, row.base_delay_s

    def lower_to_nothing(self) -> None:
        """Let retries fail for as long as it takes."""
        for _ in range(3):
            self.retries(50, success=False)
            self.step()
        assert self.in_force == (0, 0.4)


def test_retries_that_never_help_are_made_less_and_slower() -> None:
    """Fifty failed retries take one retry and half the pace; the change tells what it was made for."""
    setting = Setting()
    setting.retries(50, success=False)

    (change,) = setting.step()

    assert (change.target, change.category, change.at_s) == ("a", C.TIMEOUT_ERROR, 30)
    assert (change.old.max_retries, change.new.max_retries) == (3, 2)
    assert (change.old.base_delay_s, change.new.base_delay_s) == (0.1, 0.2)
    assert change.evidence == "0 of 50 retries succeeded"
    assert setting.told == [change] == list(setting.policy.get_error_statistics().changes)


@pytest.mark.parametrize(("failed", "succeeded"), [(19, 0), (34, 0), (45, 5), (0, 50)])
def test_too_little_evidence_lowers_nothing(failed: int, succeeded: int) -> None:
    """Few outcomes, or a share of successes that may well be above a tenth, change nothing."""
    setting = Setting()
    setting.retries(failed, success=False)
    setting.retries(succeeded, success=True)

    assert setting.step() == ()
    assert setting.in_force == (3, 0.1)


def test_failing_calls_alone_lower_and_raise_nothing() -> None:
    """It goes by retries: that first attempts fail is no evidence about them."""
    setting = Setting()
    for _ in range(500):
        setting.policy.begin(CALL, is_nested=False).failed(ValueError(), math.inf)

    assert setting.step() == ()


def test_one_step_is_made_at_a_time() -> None:
    """Thirty seconds are between two steps, with evidence of their own."""
    setting = Setting()
    setting.retries(50, success=False)
    assert len(setting.step()) == 1

    assert setting.step() == ()
    setting.retries(50, success=False)
    assert len(setting.step(after_s=0)) == 1
    setting.retries(50, success=False)
    assert setting.step(after_s=29) == ()
    assert len(setting.step(after_s=1)) == 1


def test_old_evidence_is_forgotten() -> None:
    """What is older than five minutes counts no more."""
    setting = Setting()
    setting.retries(50, success=False)

    assert setting.step(after_s=301) == ()


def test_retries_that_help_are_raised_again_up_to_the_table_and_no_further() -> None:
    """Successes undo what failures did, step by step, and stop at the table."""
    setting = Setting()
    setting.lower_to_nothing()
    for retries, wait_s in [(1, 0.1 / 0.75), (2, 0.1), (3, 0.1), (3, 0.1)]:
        setting.retries(50, success=True)
        setting.step()
        assert setting.in_force == (retries, wait_s)


def test_healthy_target_gets_its_retries_back_without_any_retry() -> None:
    """After an outage nothing fails, so there is nothing to retry: first attempts that succeed are evidence enough."""
    setting = Setting()
    setting.lower_to_nothing()

    for _ in range(3):
        setting.first_attempts(50)
        (change,) = setting.step()
        assert change.evidence == "50 of 50 first attempts succeeded, and no retry failed"

    assert setting.in_force == (3, 0.1)


def test_first_attempts_are_no_evidence_while_retries_fail() -> None:
    """A target that answers most calls, but none of those tried again, does not get its retries back by the others."""
    setting = Setting()
    setting.lower_to_nothing()
    for _ in range(10):
        setting.first_attempts(15)
        setting.retries(1, success=False)

    assert setting.step() == ()


def test_probe_is_made_where_no_retry_is_left() -> None:
    """One retry in thirty seconds, so that a target whose retries help again is found out; a withdrawn one is none."""
    setting = Setting()
    setting.lower_to_nothing()

    def ask() -> StopReason | None:
        return setting.policy.begin(CALL, is_nested=False).failed(TimeoutError(), math.inf).stop

    assert [ask(), ask()] == [None, StopReason.CATEGORY_LIMIT]
    setting.clock.now += 30
    operation = setting.policy.begin(CALL, is_nested=False)
    assert operation.failed(TimeoutError(), math.inf).stop is None
    operation.withdrawn()
    assert [ask(), ask()] == [None, StopReason.CATEGORY_LIMIT]


def test_policy_learns_while_in_use() -> None:
    """By default nobody has to ask for it."""
    setting = Setting(auto_adjust=True)

    setting.retries(50, success=False)

    assert setting.in_force == (2, 0.2)


def test_targets_and_categories_learn_apart() -> None:
    """What one target's timeouts teach changes neither another target nor another category."""
    setting = Setting()
    setting.policy.record_retry(TimeoutError(), True, RetryCall(target="b"))
    setting.retries(50, success=False)
    setting.step()

    lowered = [
        (target.target, row.category)
        for target in setting.policy.get_error_statistics().targets
        for row, table in zip(target.limits, setting.policy.table().limits, strict=True)
        if row != table
    ]
    assert lowered == [("a", C.TIMEOUT_ERROR)]


def test_frozen_policy_changes_nothing_until_thawed() -> None:
    """Evidence goes on being gathered, and counts afterwards."""
    setting = Setting()
    setting.policy.freeze()
    setting.retries(50, success=False)
    assert setting.step() == ()

    setting.policy.thaw()

    assert len(setting.step(after_s=0)) == 1


def test_reset_puts_the_table_in_force_again() -> None:
    """At once, with an event for what it changed and none for what it did not."""
    setting = Setting()
    setting.lower_to_nothing()
    setting.told.clear()

    setting.policy.reset()
    setting.policy.reset()

    assert setting.in_force == (3, 0.1)
    assert [(change.category, change.evidence) for change in setting.told] == [(C.TIMEOUT_ERROR, "reset")]


def test_what_was_learned_outlives_the_process() -> None:
    """Through JSON and back, in another policy; what is not lowered is not written."""
    setting, later = Setting(), Setting()
    setting.lower_to_nothing()
    exported = setting.policy.export_limits()
    assert exported == {"a": {"TIMEOUT_ERROR": {"max_retries": 0, "pace": 0.25}}}

    later.policy.import_limits(json.loads(json.dumps(exported)))

    assert later.in_force == (0, 0.4)
    assert [change.evidence for change in later.told] == ["imported"]
    assert later.policy.export_limits() == exported


def test_import_keeps_within_the_table() -> None:
    """A file cannot allow more than the table does, nor make AUTH retried."""
    setting = Setting()
    more = {"max_retries": 99, "pace": 9.0}

    setting.policy.import_limits({"a": {"TIMEOUT_ERROR": more, "AUTH_ERROR": more}})

    assert setting.in_force == (3, 0.1)
    assert setting.told == []


@pytest.mark.parametrize(
    "wrong",
    [{"SPAM": {"max_retries": 1, "pace": 1}}, {"TIMEOUT_ERROR": {"pace": 1}}, {"TIMEOUT_ERROR": {"max_retries": "x"}}],
    ids=["category", "missing", "text"],
)
def test_import_of_what_is_wrong_changes_nothing(wrong: dict[str, dict[str, float]]) -> None:
    """The error names target, category and what is allowed; what was right in the same file is not taken either."""
    setting = Setting()
    right = {"TIMEOUT_ERROR": {"max_retries": 0.0, "pace": 1.0}}

    with pytest.raises(ConfigError, match=r"b: .*expected one of NETWORK_ERROR"):
        setting.policy.import_limits({"a": right, "b": wrong})

    assert setting.policy.get_error_statistics().targets == ()


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ({"max_total_retries": -1}, "max_total_retries is -1; it must be at least 0"),
        ({"max_hint_s": math.nan}, "max_hint_s is nan; it must be at least 0"),
        ({"max_targets": 0}, "max_targets is 0; it must be at least 1"),
    ],
    ids=["total", "hint", "targets"],
)
def test_option_out_of_range_is_refused(option: dict[str, int], complaint: str) -> None:
    """The text names it, its value and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        CategoryRetryPolicy(**option)  # type: ignore[arg-type]

    assert str(caught.value) == complaint


def test_category_is_given_limits_once() -> None:
    """Two rows for one category would leave open which counts."""
    row = CategoryRetryPolicy().table().limits[0]

    with pytest.raises(ConfigError, match="limits has two rows for NETWORK_ERROR; give one"):
        CategoryRetryPolicy(limits=[row, row])


@pytest.mark.parametrize(
    ("number", "complaint"),
    [
        ({"refill_per_s": 0}, "refill_per_s is 0; it must be above 0"),
        ({"success_deposit": -1}, "success_deposit is -1; it must be at least 0"),
        ({"capacity": 10, "initial": 1}, "capacity is 10; it must be at least the cost of a retry (14.0)"),
        ({"initial": 501}, "initial is 501; it must be from 0 to capacity (500.0)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_budget_out_of_range_is_refused(number: dict[str, float], complaint: str) -> None:
    """A budget that never refills, or is too small for one retry, is a mistake."""
    with pytest.raises(ConfigError) as caught:
        BudgetConfig(**number)

    assert str(caught.value) == complaint
