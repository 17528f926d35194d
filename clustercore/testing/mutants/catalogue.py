"""Mutants as data: what each changes in the source, which property it breaks, and where that is looked for.

A catalogue is a folder of TOML files, each a list of tables ``[[mutant]]`` with the fields of ``Mutant``. A mutant
names its place by the text that stands there. The text must occur once in its module, so that a change of the source
says which mutants to look at again.
"""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Sequence
from pathlib import Path

import attrs

from clustercore.interfaces import ClusterError
from clustercore.runtime.structure import construct

__all__ = ["CatalogueError", "Mutant", "anchor_fault", "chosen", "default_folder", "read_catalogue"]


class CatalogueError(ClusterError):
    """A catalogue of mutants is not there, or cannot be read; the text names the file and says what to do."""


@attrs.frozen(kw_only=True)
class Mutant:
    """One fault, made in one place of one module."""

    # Short, in words with hyphens; unique in the catalogue.
    id: str
    # What it is about: the name of its file.
    chapter: str
    # The dotted name of the module that is changed.
    module: str
    # The text that stands there, and what stands there instead. Whole lines, with their indentation.
    find: str
    replace: str
    # The property that it breaks, by the name under which the check reports it.
    property: str
    # Where that is looked for: a function ``package.module:name``, or a test ``path/to/test_file.py::test_name``.
    hunt: str
    # Where the rule that it breaks stands, and who has broken it before.
    source: str
    # One line: what goes wrong with it.
    why: str


def default_folder() -> Path:
    """Return the folder of this project's own catalogue.

    Raises: CatalogueError if clustercore was not imported from a checkout of its repository.
    """
    spec = importlib.util.find_spec("clustercore")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parents[1] / "tests" / "mutants" / "catalogue"
    if not folder.is_dir():
        raise CatalogueError(
            f"the catalogue of mutants stands beside the tests, and {folder} is not there: this clustercore is no "
            "checkout. Clone the repository, run `make venv` in it, and then `.venv/bin/clustercore mutants`"
        )
    return folder


def read_catalogue(folder: Path) -> list[Mutant]:
    """Read all mutants of a catalogue, in the order of its files.

    Raises: CatalogueError; ConfigError for a mutant that has not just the fields of one.
    """
    found: list[Mutant] = []
    for path in sorted(folder.glob("*.toml")):
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8")).get("mutant")
        except (OSError, ValueError) as error:
            raise CatalogueError(f"{path} cannot be read: {error}") from error
        if not isinstance(tables, list):
            raise CatalogueError(f"{path} is no list of mutants: it has no [[mutant]]")
        for number, table in enumerate(tables, start=1):
            where = f"{path}: mutant {table.get('id', number)}"
            found.append(construct(Mutant, table, where, given={"chapter": path.stem}))
    if not found:
        raise CatalogueError(f"{folder} holds no mutant")
    twice = sorted({mutant.id for mutant in found if sum(other.id == mutant.id for other in found) > 1})
    if twice:
        raise CatalogueError(f"{folder} has two mutants of one name: {twice}")
    return found


def anchor_fault(mutant: Mutant) -> str | None:
    """Say what is wrong with the place that a mutant names; None if it is there, once, and the fault changes it."""
    spec = importlib.util.find_spec(mutant.module)
    if spec is None or spec.origin is None:
        return f"{mutant.id}: there is no module {mutant.module}"
    count = Path(spec.origin).read_text(encoding="utf-8").count(mutant.find)
    if count != 1:
        return f"{mutant.id}: its text is found {count} times in {mutant.module}"
    if mutant.find == mutant.replace:
        return f"{mutant.id}: it changes nothing"
    return None


def chosen(mutants: Sequence[Mutant], ids: Sequence[str]) -> list[Mutant]:
    """Return the mutants of these names, or all without any.

    Raises: CatalogueError for a name that none has.
    """
    unknown = sorted(set(ids) - {mutant.id for mutant in mutants})
    if unknown:
        raise CatalogueError(f"no mutant is called {', '.join(unknown)}; `clustercore mutants --list` shows all")
    return [mutant for mutant in mutants if not ids or mutant.id in ids]
