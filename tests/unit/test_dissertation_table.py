"""The page that maps the dissertation to the code names every section, and only modules and tests that exist."""

from __future__ import annotations

import ast
import re

import pytest

from tests.unit.docs_pages import ROOT, page
from tests.unit.repository import reads_repository

pytestmark = reads_repository

PAGE = "docs/explanation/raft.md"

# The dissertation's table of contents, chapters 3, 4, 5, 6, 9 and 10.
SECTIONS = [
    *["3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "3.6.1", "3.6.2", "3.6.3", "3.7", "3.8", "3.9", "3.10", "3.11"],
    *["4.1", "4.2", "4.2.1", "4.2.2", "4.2.3", "4.2.4", "4.3", "4.4", "4.5"],
    *["5.1", "5.1.1", "5.1.2", "5.1.3", "5.2", "5.3", "5.3.1", "5.3.2", "5.3.3", "5.4", "5.4.1", "5.4.2", "5.5"],
    *["6.1", "6.2", "6.3", "6.4", "6.4.1", "6.5"],
    *["9.1", "9.2", "9.3", "9.4", "9.5", "9.6", "9.7"],
    *["10.1", "10.1.1", "10.2", "10.2.1", "10.2.2", "10.3", "10.4"],
]


def rows() -> list[list[str]]:
    """Return the rows of all tables of the page: section, what it says, modules, tests."""
    found = re.findall(r"^\| ([\d.]+) \|([^|]*)\|([^|]*)\|([^|]*)\|$", page(PAGE), re.MULTILINE)
    return [[cell.strip() for cell in row] for row in found]


def test_table_has_every_section_once_and_in_order() -> None:
    """No section of those chapters is passed over."""
    assert [row[0] for row in rows()] == SECTIONS


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_row_names_modules_and_tests_or_says_why_not(row: list[str]) -> None:
    """A section has modules and tests that exist, or the word "none" and, unless it is a conclusion, the reason."""
    _, says, modules, tests = row
    named = re.findall(r"`([\w/]+\.py)`", modules)
    for name in named:
        assert (ROOT / "clustercore" / name).exists() or (ROOT / name).exists(), name
    if not named:
        assert modules.startswith(("none: ", "as ")) or (says, modules) == ("conclusion", "none")

    checks = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", tests)
    for path, function in checks:
        file = ROOT / path if path.startswith("benchmarks/") else ROOT / "tests" / path
        tree = ast.parse(file.read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert not function or function in defined, f"{path} has no {function}"
    assert checks or tests == "none"
    assert bool(checks) == bool(named) or modules.startswith(("none: ", "as "))
