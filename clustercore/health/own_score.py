"""How much the checker may trust itself (Lifeguard, as in hashicorp/memberlist: local health awareness).

A checker whose own process starves, or whose own network is gone, sees everybody else ill. Each round in which it finds
a sign of that raises its score by one for each sign, each round without one lowers it by one. Its timeouts are longer
by as many times, and from ``FREEZES_AT`` on it takes nobody out.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["FREEZES_AT", "OwnScore", "Sign"]

# The score can be no worse: what has been wrong for a minute should not take longer to be forgiven.
MAX_SCORE = 7
# From here on nobody is taken out on this checker's word.
FREEZES_AT = 3


class Sign(StrEnum):
    """What speaks against the checker itself."""

    # Its event loop woke it much later than it asked for: the process or the machine starves.
    LOOP_LAG = "loop lag"
    # Every check of a round failed, of two nodes or more: it is rather alone than all others ill.
    ALL_FAIL = "all checks fail"
    # Discovery does not answer either.
    DISCOVERY = "discovery unreachable"


class OwnScore:
    """The score, and the signs of the last round."""

    def __init__(self) -> None:
        self.score = 0
        # Those that were found since the last round ended, and in the last round.
        self._found: set[Sign] = set()
        self.signs: frozenset[Sign] = frozenset()

    @property
    def is_frozen(self) -> bool:
        """Whether nobody may be taken out on this checker's word."""
        return self.score >= FREEZES_AT

    @property
    def timeout_factor(self) -> int:
        """By how many times the timeouts are longer."""
        return self.score + 1

    def note(self, sign: Sign) -> None:
        """Note a sign in this round."""
        self._found.add(sign)

    def end_round(self) -> None:
        """Count the round that ends now."""
        change = len(self._found) or -1
        self.score = min(max(self.score + change, 0), MAX_SCORE)
        self.signs = frozenset(self._found)
        self._found.clear()
