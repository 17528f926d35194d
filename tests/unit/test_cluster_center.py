"""The page that maps what the original system did to tests names tests that exist."""

from __future__ import annotations

import ast
import re

import pytest

from tests.unit.docs_pages import ROOT, page
from tests.unit.repository import reads_repository

pytestmark = reads_repository

PAGE = "docs/reference/cluster-center.md"
ROWS = [
    (what.strip(), test.strip())
    for line in page(PAGE).splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| what", "| pitfall"))
    for what, test in [line.strip("|").split("|")]
]


@pytest.mark.parametrize(("what", "test"), ROWS)
def test_row_names_a_test_that_exists(what: str, test: str) -> None:
    """Each row names one function or class of tests, as pytest would."""
    match = re.fullmatch(r"`(tests/[\w/]+\.py)::(\w+)`", test)
    assert match, f"{what}: {test}"
    path, name = match.groups()
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }


def test_page_has_both_functions_the_pitfalls_and_the_commands() -> None:
    """No section is empty."""
    assert len(ROWS) >= 20
    assert [line for line in page(PAGE).splitlines() if line.startswith("## ")] == [
        "## Conflict resolution",
        "## Incremental sync",
        "## What users of other systems met",
        "## See for yourself",
    ]
