"""The pages of the documentation as tests see them: fenced blocks, tables and links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.unit.repository import ROOT

__all__ = ["PAGES", "ROOT", "Block", "blocks", "commands", "page", "prose", "table"]

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@attrs.frozen
class Block:
    """One fenced block."""

    page: Path
    # Its number among the blocks of its page, from 1.
    number: int
    language: str
    # What follows the language: the file that the block is, for blocks after it. Mostly empty.
    file_name: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}"


def page(name: str) -> str:
    """Return a page's text."""
    return (ROOT / name).read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """Return a page's text without its fenced blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def blocks(path: Path, *languages: str) -> list[Block]:
    """Return the blocks of a page in some languages, in order."""
    found = []
    for number, match in enumerate(_FENCE.finditer(path.read_text(encoding="utf-8")), start=1):
        language, _, file_name = match["info"].strip().partition(" ")
        if language in languages:
            found.append(Block(path, number, language, file_name, match["text"]))
    return found


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the command lines of a page, split into words: all lines of ``sh``, those after a ``$`` of ``console``."""
    for block in blocks(path, "sh", "console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if block.language == "console":
                if not line.startswith("$ "):
                    continue
                line = line.removeprefix("$ ")
            if words := shlex.split(line, comments=True):
                yield words


def table(name: str, first_column: str) -> list[list[str]]:
    """Return the cells of the page's one table whose first heading is this, without the code quotes around a cell."""
    lines = page(name).splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith(f"| {first_column} |")]
    assert len(heads) == 1, f"{name} has {len(heads)} tables that begin with {first_column!r}"
    rows = []
    for line in lines[heads[0] + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [[re.sub(r"^`([^`]*)`$", r"\1", cell) for cell in row] for row in rows]
