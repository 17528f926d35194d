"""Where mutants are looked for. A hunt tries one world after the other, and yields what came of each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import pytest

from clustercore.testing.protocol.runs import run_seed
from clustercore.testing.trace.events import Violated
from clustercore.testing.trace.failures import with_violation
from clustercore.testing.violation import PropertyViolated

__all__ = ["Finding", "campaign", "nodes", "test"]


@attrs.frozen
class Finding:
    """What came of one world."""

    # The property that broke, by its name; empty if none did.
    property: str = ""
    text: str = ""
    # What happened in that world until then.
    events: int = 0

    @classmethod
    def of(cls, error: BaseException, events: int) -> Finding:
        """Name what a run raised: by its own name if it has one, else by the check that raised it."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        told = with_violation([], error)[-1]
        assert isinstance(told, Violated)
        name = told.name if isinstance(error, AssertionError) else type(error).__name__
        return cls(getattr(error, "name", None) or name, told.text.partition("\n")[0], events)


def campaign(order: Mapping[str, Any]) -> Iterator[Finding]:
    """Random worlds and schedules over cores, with healing after each."""
    for seed in range(order["seeds"]):
        run = run_seed(seed)
        text = str(run.error).partition("\n")[0] or repr(run.error)
        yield Finding(run.violated or "", text if run.error is not None else "", run.events)


def nodes(order: Mapping[str, Any]) -> Iterator[Finding]:
    """Random worlds of whole nodes under faults."""
    # Only this hunt needs it, and importing it costs as much as some hunts take.
    from clustercore.testing.simulation.level import NodeLevel

    level = NodeLevel()
    for seed in range(max(1, order["seeds"] // 30)):
        found = level.run(seed)
        names = (found.violated or "").split(", ")
        for name in names:
            yield Finding(name, found.text.partition("\n")[0], found.events if name is names[0] else 0)


class _Failures:
    """A pytest plugin that remembers by what tests failed."""

    def __init__(self, name: str, claim: str) -> None:
        self._name = name
        self._claim = claim
        self.found: list[Finding] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        report = yield
        if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
            finding = Finding.of(call.excinfo.value, 0)
            error: BaseException = call.excinfo.value
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            is_named = isinstance(error, PropertyViolated)
            if isinstance(error, AssertionError) and not is_named and item.name.partition("[")[0] == self._name:
                # A test is of one property: what it asserts.
                finding = attrs.evolve(finding, property=self._claim)
            self.found.append(finding)
        return report


def test(order: Mapping[str, Any]) -> Iterator[Finding]:
    """Run one test of this repository. Its property is broken if it fails by what it asserts."""
    os.environ["HYPOTHESIS_PROFILE"] = "hunt"
    failures = _Failures(order["test"].rpartition("::")[2], order["property"])
    # The mutant is in place before pytest begins, so what is imported by then is not rewritten: that is no error here.
    imported = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
    arguments = ["-q", "-p", "no:cacheprovider", "-W", imported, "--hypothesis-seed=0", order["test"]]
    code = pytest.main(arguments, plugins=[failures])
    sys.stderr.write(f"pytest: {code}\n")
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"{order['test']} could not be run: {code!r}")
    yield from failures.found or [Finding()]
