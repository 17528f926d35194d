"""What holds for all kits: they need nothing before they are asked for, and their samples leave out nothing."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from typing import get_args

import pytest

from clustercore.interfaces import Message
from clustercore.testing.conformance import Conformance, rules_of
from clustercore.testing.conformance.messages import REQUESTS, RESPONSES
from clustercore.testing.conformance.traps import watched
from tests.unit.repository import reads_repository
from tests.unit.testing.kit_pages import KITS, PAGE, page_of_rules


def test_testing_needs_no_test_framework() -> None:
    """``import clustercore.testing`` imports neither pytest nor what else only the kits need."""
    program = """if True:
        import sys
        import clustercore.testing
        assert not {"pytest", "pytest_trio", "hypothesis"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", program], check=True)


def test_samples_have_every_kind_of_message() -> None:
    """The kit of transports sends one of each kind that there is."""
    assert {type(message) for message in REQUESTS + RESPONSES} == set(get_args(Message))


@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.__name__)
def test_rules_say_what_they_demand(kit: type[Conformance]) -> None:
    """Each rule of a kit is one sentence or two."""
    rules = rules_of(kit)

    assert rules
    assert all(text.endswith(".") and len(text) > 20 for text in rules.values())


@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.__name__)
def test_kit_is_collected_by_no_one(kit: type[Conformance]) -> None:
    """Importing a kit into a test file runs nothing: only classes that are derived from it are called Test."""
    assert not kit.__name__.startswith("Test")


def test_collection_of_garbage_is_no_question_of_the_machine() -> None:
    """What the garbage collector calls back while a machine runs is not held against it, and collects again after."""

    def look_at_the_clock(phase: str, info: dict[str, int]) -> None:
        time.perf_counter()

    gc.callbacks.append(look_at_the_clock)
    try:
        with watched() as found:
            kept: list[list[int]] = [[] for _ in range(5000)]
    finally:
        gc.callbacks.remove(look_at_the_clock)

    assert len(kept) == 5000
    assert found == []
    assert gc.isenabled()


@reads_repository
def test_page_of_rules_is_what_the_kits_say() -> None:
    """docs/reference/conformance.md lists every rule as its docstring says it; ``kit_pages`` tells how to write it."""
    assert PAGE.read_text(encoding="utf-8") == page_of_rules()
