"""For whom a node waits: said once when it changes, and again at a slow pace for as long as it lasts.

A node that waits does so for as long as it takes, so whoever looks at its log later must find it there, and whoever
asks for its status must be told.
"""

from __future__ import annotations

import logging

import trio

__all__ = ["Waiting"]

logger = logging.getLogger("clustercore")

# Said again after so long, then twice as long, and so on.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 300.0


class Waiting:
    """What keeps one node from taking part, in words."""

    def __init__(self, who: str, level: int = logging.INFO) -> None:
        """Wait for nothing.

        Args:
            who: What each line begins with.
            level: At which something is logged the first time. What is said again is a warning.
        """
        self._who = who
        self._level = level
        # Empty while the node waits for nothing.
        self.text = ""
        self._pause_s = _FIRST_PAUSE_S
        self._due_at = 0.0

    def say(self, text: str) -> None:
        """Note what the node waits for; log it if that is news, or was last said long enough ago."""
        now = trio.current_time()
        if text != self.text:
            self.text, self._pause_s = text, _FIRST_PAUSE_S
            logger.log(self._level, "%s %s", self._who, text)
        elif now >= self._due_at:
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            logger.warning("%s %s", self._who, text)
        else:
            return
        self._due_at = now + self._pause_s

    def end(self) -> None:
        """Wait for nothing any more."""
        self.text = ""
