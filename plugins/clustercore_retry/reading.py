"""Reading foreign objects, whose attributes may be code that fails: classification must not fail with them."""

from __future__ import annotations

import logging

__all__ = ["read"]

_logger = logging.getLogger(__name__)


def read(holder: object, name: str, *, call: bool = False) -> object:
    """Return an attribute, or with ``call`` what it returns; None if it is absent or fails."""
    if holder is None:
        return None
    try:
        found: object = getattr(holder, name, None)
        return found() if call and callable(found) else found
    except Exception:
        _logger.warning("%s of a %s cannot be read", name, type(holder).__name__, exc_info=True)
        return None
