"""What of an exception group a node's user is to see."""

from __future__ import annotations

import trio

from clustercore.interfaces.errors import ClusterError
from clustercore.interfaces.groups import leaves_of

__all__ = ["sole_error"]


def sole_error(group: BaseExceptionGroup[BaseException], body_error: BaseException | None) -> BaseException | None:
    """Return the one error a group is about; None if it is about several that do not come from the node.

    What the body raised is one error, be it a group itself. Cancellation is none: it may come at any time, and so
    beside one.
    """
    errors = _errors_in(group)
    if body_error is not None and errors and errors == _errors_in(body_error):
        return body_error
    if errors and (len(errors) == 1 or all(isinstance(error, ClusterError) for error in errors)):
        return errors[0]
    return None


def _errors_in(error: BaseException) -> list[BaseException]:
    return [leaf for leaf in leaves_of(error) if not isinstance(leaf, trio.Cancelled)]
