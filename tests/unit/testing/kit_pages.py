"""The page that lists the rules of the kits, made from the kits.

``python -c 'from tests.unit.testing.kit_pages import write; write()'`` writes it anew after a rule has changed.
"""

from __future__ import annotations

from clustercore.testing import conformance
from clustercore.testing.conformance import Conformance, rules_of
from tests.unit.repository import ROOT

__all__ = ["KITS", "PAGE", "page_of_rules", "write"]

PAGE = ROOT / "docs" / "reference" / "conformance.md"
KITS: list[type[Conformance]] = [
    kit
    for name in conformance.__all__
    if isinstance(kit := getattr(conformance, name), type) and issubclass(kit, Conformance) and kit is not Conformance
]
_HEAD = """\
# Rules of the kits

What the tests of `clustercore.testing.conformance` demand of a plugin. [Test a plugin](../how-to/test-a-plugin.md) says
how to run them. This page is made from the tests' docstrings.
"""


def page_of_rules() -> str:
    """Return the page: a table for each kit, with the rules that are not its base's."""
    parts = [_HEAD]
    for kit in KITS:
        bases = [base for base in KITS if base is not kit and issubclass(kit, base)]
        inherited = {name for base in bases for name in rules_of(base)}
        parts.append(f"## {kit.__name__}\n")
        if bases:
            parts.append(f"All rules of `{bases[0].__name__}`, and:\n")
        rows = [f"| `{name}` | {text} |" for name, text in rules_of(kit).items() if name not in inherited]
        parts.append("\n".join(["| rule | what it demands |", "| --- | --- |", *rows]) + "\n")
    return "\n".join(parts)


def write() -> None:
    """Write the page."""
    PAGE.write_text(page_of_rules(), encoding="utf-8")
