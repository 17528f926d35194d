"""Runs one rule of a kit on a faulty plugin, and makes sure that it is the rule that fails."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import Phase, settings
from trio.testing import MockClock

from clustercore.interfaces import ClusterError
from clustercore.testing.conformance import (
    Conformance,
    DiscoveryConformance,
    RecordStorageConformance,
    StorageConformance,
    TransportConformance,
    rules_of,
)

# Kits whose rules wait for nothing but tasks of the same program.
JUMPING = (DiscoveryConformance, TransportConformance)

# The same cases each time, and none of the work that makes a failure readable: it is wanted, and nobody reads it.
settings.register_profile(
    "planted", max_examples=500, deadline=None, derandomize=True, database=None, phases=[Phase.generate]
)

__all__ = ["Fault", "rules_without_fault", "run_rule"]


@attrs.frozen
class Fault:
    """One faulty plugin, and the rule of the kit that must catch it."""

    rule: str
    # What is wrong with the plugin.
    what: str
    # The kit, derived as the plugin's author would.
    kit: type[Conformance]
    # What gets out of the plugin, if it is neither an error of ours nor for the rule to raise.
    expects: type[Exception] = AssertionError

    def __str__(self) -> str:
        return f"{self.rule.removeprefix('test_')}-{self.what.replace(' ', '_')}"

    def assert_caught(self, folder: Path) -> None:
        """Run the rule; it must fail, for what it found and not for a mistake in the planted fault."""
        kit = self.kit()
        if isinstance(kit, StorageConformance | RecordStorageConformance):
            kit.folder = folder
        assert self.rule in rules_of(self.kit)
        assert self.rule not in kit.left_out()
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever the rule raises
            run_rule(kit, self.rule)
        for leaf in _leaves(caught.value):
            expected = (AssertionError, ClusterError, self.expects, pytest.fail.Exception, trio.TooSlowError)
            assert isinstance(leaf, expected), caught.value


def run_rule(kit: Conformance, rule: str) -> None:
    """Run one rule as pytest would. Where only tasks wait for each other, a clock that jumps makes the wait short."""
    test: Any = getattr(kit, rule)
    before = settings.get_current_profile_name()
    settings.load_profile("planted")
    try:
        if inspect.iscoroutinefunction(test):
            trio.run(test, clock=MockClock(autojump_threshold=0) if isinstance(kit, JUMPING) else None)
        else:
            test()
    finally:
        settings.load_profile(before)


def rules_without_fault(kit: type[Conformance], faults: Sequence[Fault]) -> list[str]:
    """Return the rules of a kit that no planted fault shows to be of use."""
    return sorted(set(rules_of(kit)) - {fault.rule for fault in faults})


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
