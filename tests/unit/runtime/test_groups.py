"""What is inside nested exception groups."""

from __future__ import annotations

import pytest

from clustercore.runtime.groups import leaves_of


def test_leaves_are_listed_in_order_whatever_the_nesting() -> None:
    """The very errors come out, depth first, and groups do not."""
    first, second, third, fourth = (ValueError(number) for number in range(4))
    nested = BaseExceptionGroup("", [first, ExceptionGroup("", [ExceptionGroup("", [second, third])]), fourth])

    assert leaves_of(nested) == [first, second, third, fourth]


@pytest.mark.parametrize("error", [ValueError("one"), KeyboardInterrupt()])
def test_leaf_of_an_error_is_the_error(error: BaseException) -> None:
    """What is no group is its own only leaf."""
    assert leaves_of(error) == [error]
