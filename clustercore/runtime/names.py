"""How long the names may be that nodes tell each other: of nodes, of clusters and of storages.

A peer is believed nothing before it has introduced itself, and what it says then is remembered, and logged. So that a
stranger fills neither memory nor logs with it, it is looked at first how much that is.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MAX_NAME_BYTES", "MAX_REFUSAL_CHARACTERS", "name_fault"]

# In UTF-8. As names of hosts and of files; the names of entities have the same limit.
MAX_NAME_BYTES = 255
# Of why a peer refuses a link: it is for people, and ours name two clusters and two addresses at the most.
MAX_REFUSAL_CHARACTERS = 2000


def name_fault(names: Mapping[str, str]) -> str:
    """Say which of some names, by what each is, is too long; empty if none is. It repeats nothing of the name."""
    for what, name in names.items():
        # A transport of text may bring halves of characters, which no UTF-8 has.
        size = len(name.encode(errors="surrogatepass"))
        if size > MAX_NAME_BYTES:
            return f"{what} has {size} bytes; at most {MAX_NAME_BYTES} are allowed"
    return ""
