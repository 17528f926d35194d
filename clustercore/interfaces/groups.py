"""Tasks that live as long as a block, and the exception groups that come of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import overload

import trio

__all__ = ["background_tasks", "leaves_of", "unwrap_group"]


def leaves_of(error: BaseException) -> list[BaseException]:
    """Return what is in nested groups, in order; an error that is no group is its own only leaf.

    Trio copies groups as they leave nurseries, but not what is in them, so leaves can be compared by identity.
    """
    leaves: list[BaseException] = []
    # No recursion: an error that another program made may be nested deeper than that goes.
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseExceptionGroup):
            waiting.extend(reversed(each.exceptions))
        else:
            leaves.append(each)
    return leaves


@overload
def unwrap_group(error: Exception) -> Exception: ...
@overload
def unwrap_group(error: BaseException) -> BaseException: ...
def unwrap_group(error: BaseException) -> BaseException:
    """Return the one error that a group is about, however many groups are around it; several stay a group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


@asynccontextmanager
async def background_tasks() -> AsyncIterator[trio.Nursery]:
    """Open a nursery whose tasks are cancelled when the block ends, however that is.

    For an object that has tasks while it is entered: ``async with`` it, or enter it in ``__aenter__`` and leave it in
    ``__aexit__``. What the block raises leaves as it is, in no group, unless a task raised something as well. What a
    task raises cancels the block, and leaves in a group.
    """
    body_error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as error:
                body_error = error
                raise
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if body_error is None or _errors_in(group) != _errors_in(body_error):
            raise
    if body_error is not None:
        # Outside the except clause, so that the error does not get the group it was in as its context.
        raise body_error


def _errors_in(error: BaseException) -> list[BaseException]:
    # Cancellation is none: it may come at any time, and so beside one.
    return [leaf for leaf in leaves_of(error) if not isinstance(leaf, trio.Cancelled)]
