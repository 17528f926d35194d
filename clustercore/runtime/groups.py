"""Exception groups, which Trio nests as deep as nurseries are nested."""

from __future__ import annotations

__all__ = ["leaves_of"]


def leaves_of(error: BaseException) -> list[BaseException]:
    """Return what is in nested groups, in order; an error that is no group is its own only leaf.

    Trio copies groups as they leave nurseries, but not what is in them, so leaves can be compared by identity.
    """
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in leaves_of(inner)]
