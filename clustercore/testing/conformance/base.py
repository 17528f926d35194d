"""What every kit is made of: a class whose tests are the rules of one contract.

A rule is a method called ``test_...``; the first sentence of its docstring says the rule, and the page
docs/reference/conformance.md lists it. A plugin's author derives a class from the kit, says how the plugin is made, and
pytest does the rest. Rules that wait are coroutines, and run by pytest-trio whether or not its ``trio_mode`` is on.
"""

from __future__ import annotations

import inspect
from typing import ClassVar

import pytest

__all__ = ["Conformance", "rules_of"]


class Conformance:
    """The base of every kit."""

    # Far beyond what any step takes, in seconds: it only ends a rule that hangs, and names it.
    limit_s: ClassVar[float] = 20.0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, member in vars(cls).items():
            if name.startswith("test_") and inspect.iscoroutinefunction(member):
                pytest.mark.trio(member)

    def left_out(self) -> dict[str, str]:
        """Return the rules that say nothing of this plugin, by the name of the test, each with the reason."""
        return {}

    @pytest.fixture(autouse=True)
    def _skip_what_is_left_out(self, request: pytest.FixtureRequest) -> None:
        """Skip before the rule runs: within its tasks the reason would be lost."""
        reason = self.left_out().get(request.function.__name__)
        if reason is not None:
            pytest.skip(reason)


def rules_of(kit: type[Conformance]) -> dict[str, str]:
    """Return the rules of a kit, those of its bases first: the name of each test, and what it demands."""
    rules: dict[str, str] = {}
    for part in reversed(kit.__mro__):
        for name, member in vars(part).items():
            if name.startswith("test_") and inspect.isfunction(member):
                rules[name] = (inspect.getdoc(member) or "").partition("\n\n")[0].replace("\n", " ")
    return rules
