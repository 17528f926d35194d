"""How what a run broke is named."""

from __future__ import annotations

from clustercore.testing.violation import PropertyViolated, what_broke

LOST = PropertyViolated("acknowledged is kept", "it is not")
STALE = PropertyViolated("linearizability", "a read is stale")


def test_one_property_is_named_whatever_is_around_it() -> None:
    """Nurseries put groups around errors."""
    assert what_broke(LOST) == ("acknowledged is kept", "it is not")
    assert what_broke(ExceptionGroup("", [ExceptionGroup("", [LOST])])) == ("acknowledged is kept", "it is not")


def test_checks_that_fail_at_once_are_all_named_issue_4() -> None:
    """A campaign once called that an ExceptionGroup. Which task was first does not show."""
    both = "acknowledged is kept: it is not\nlinearizability: a read is stale"

    for errors in ([LOST, STALE], [STALE, LOST], [STALE, ExceptionGroup("", [LOST, STALE])]):
        assert what_broke(ExceptionGroup("", errors)) == ("acknowledged is kept, linearizability", both)


def test_error_that_is_no_property_is_named_by_its_kind() -> None:
    """It is a bug of what ran, or of the test."""
    assert what_broke(ExceptionGroup("", [KeyError("k"), LOST])) == (
        "KeyError, acknowledged is kept",
        "KeyError: 'k'\nacknowledged is kept: it is not",
    )
