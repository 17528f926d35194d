"""Tasks of a block, and what is inside nested exception groups."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from clustercore.interfaces.groups import background_tasks, leaves_of, unwrap_group


def test_leaves_are_listed_in_order_whatever_the_nesting() -> None:
    """The very errors come out, depth first, and groups do not."""
    first, second, third, fourth = (ValueError(number) for number in range(4))
    nested = BaseExceptionGroup("", [first, ExceptionGroup("", [ExceptionGroup("", [second, third])]), fourth])

    assert leaves_of(nested) == [first, second, third, fourth]


@pytest.mark.parametrize("error", [ValueError("one"), KeyboardInterrupt()])
def test_leaf_of_an_error_is_the_error(error: BaseException) -> None:
    """What is no group is its own only leaf."""
    assert leaves_of(error) == [error]


def test_unwrapping_stops_at_several() -> None:
    """One error comes out of however many groups; several stay together, in their own group."""
    one = ValueError("one")
    several = ExceptionGroup("", [one, ValueError("another")])

    assert unwrap_group(one) is one
    assert unwrap_group(ExceptionGroup("", [ExceptionGroup("", [one])])) is one
    assert unwrap_group(ExceptionGroup("", [several])) is several


async def test_tasks_end_with_the_block() -> None:
    """They are cancelled and have ended when the block is left."""
    has_ended = False

    async def last() -> None:
        nonlocal has_ended
        try:
            await trio.sleep_forever()
        finally:
            has_ended = True

    async with background_tasks() as nursery:
        nursery.start_soon(last)
        await trio.testing.wait_all_tasks_blocked()

    assert has_ended


OWN = KeyError("own")


@pytest.mark.parametrize("error", [OWN, ExceptionGroup("several", [OWN, ValueError("another")])])
@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_error_of_the_block_leaves_as_it_is(error: Exception, is_cancelled: bool) -> None:
    """In no group of the tasks', without one as its context, and not lost when all is cancelled."""

    async def fail() -> None:
        async with background_tasks() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.testing.wait_all_tasks_blocked()
            if is_cancelled:
                scope.cancel()
            raise error

    with trio.CancelScope() as scope, pytest.raises(type(error)) as caught:
        await fail()

    assert caught.value is error
    assert caught.value.__context__ is None


async def test_error_of_a_task_cancels_the_block() -> None:
    """It leaves in a group, as from any nursery, together with what the block raises by then."""

    async def fail() -> None:
        raise KeyError("of the task")

    async def block() -> None:
        async with background_tasks() as nursery:
            nursery.start_soon(fail)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("of the block")

    with pytest.raises(BaseExceptionGroup) as caught:
        await block()

    assert {type(leaf) for leaf in leaves_of(caught.value)} == {KeyError, ValueError}
