"""The catalogue of mutants: it can be read, each place it names is there, and the documentation knows all of it."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

from clustercore.interfaces import ConfigError
from clustercore.testing.invariants import PROPERTIES
from clustercore.testing.mutants.catalogue import (
    CatalogueError,
    Mutant,
    anchor_fault,
    chosen,
    default_folder,
    read_catalogue,
)
from tests.unit.docs_pages import ROOT, page
from tests.unit.repository import reads_repository

MUTANTS = read_catalogue(default_folder()) if (ROOT / "Makefile").exists() else []
FAULT = """
[[mutant]]
id = "{id}"
module = "{module}"
find = '''
{find}
'''
replace = '''
{replace}
'''
property = "a property"
hunt = "some.module:hunt"
source = "Raft §5"
why = "It is wrong."
"""


def test_catalogue_is_large_enough() -> None:
    """Each chapter of the protocol has some, and there are at least sixty."""
    assert not MUTANTS or len(MUTANTS) >= 60
    assert not MUTANTS or {mutant.chapter for mutant in MUTANTS} == {
        path.stem for path in default_folder().glob("*.toml")
    }


@reads_repository
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_place_of_each_mutant_is_there(mutant: Mutant) -> None:
    """Its text stands once in its module, so a change there tells which mutants to look at; and it still compiles."""
    assert anchor_fault(mutant) is None
    source = (ROOT / (mutant.module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    before, after = ast.parse(source), ast.parse(source.replace(mutant.find, mutant.replace))
    assert ast.dump(before) != ast.dump(after)


@reads_repository
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_hunt_of_each_mutant_is_there(mutant: Mutant) -> None:
    """What a mutant names as the place where it is looked for exists, and it says whose rule it breaks."""
    assert mutant.source
    assert mutant.why.endswith(".")
    if "::" in mutant.hunt:
        path, _, name = mutant.hunt.partition("::")
        functions = ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        assert name in {node.name for node in functions if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    else:
        module, _, name = mutant.hunt.partition(":")
        assert callable(getattr(import_module(module), name))


@reads_repository
@pytest.mark.parametrize("checked", [made.name for made in PROPERTIES])
def test_each_invariant_is_broken_by_a_mutant(checked: str) -> None:
    """A check that nothing has ever failed proves nothing."""
    assert checked in {mutant.property for mutant in MUTANTS}


@reads_repository
def test_documentation_names_each_mutant() -> None:
    """The matrix in the documentation is that of this catalogue; if not, run `clustercore mutants --write-docs`."""
    rows = [line.strip("| ").split(" | ") for line in page("docs/reference/mutants.md").splitlines() if "| `" in line]

    assert [row[0].strip("`") for row in rows] == [mutant.id for mutant in MUTANTS]
    for row, mutant in zip(rows, MUTANTS, strict=True):
        assert (row[1], row[2], row[-1]) == (mutant.why, mutant.property, mutant.source)


def write_catalogue(folder: Path, *faults: str) -> Path:
    """Write a catalogue of one file."""
    (folder / "some.toml").write_text("".join(faults), encoding="utf-8")
    return folder


def fault(id_: str = "one", find: str = "x = 1", replace: str = "x = 2", module: str = "clustercore.raft.types") -> str:
    """A table of a catalogue."""
    return FAULT.format(id=id_, find=find, replace=replace, module=module)


def test_catalogue_is_read_with_the_chapter_of_its_file(tmp_path: Path) -> None:
    """A mutant's text begins after the quotes and ends with its last line."""
    (mutant,) = read_catalogue(write_catalogue(tmp_path, fault()))

    assert (mutant.id, mutant.chapter, mutant.find, mutant.replace) == ("one", "some", "x = 1\n", "x = 2\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no list of mutants"),
        ("mutant = 3", "no list of mutants"),
        ("mutant = [", "cannot be read"),
        ("[[mutant]]\nid = 'one'", "mutant one: module is missing"),
        (fault() + "colour = 'red'\n", "colour"),
        (fault() + fault(), "two mutants of one name: ['one']"),
    ],
)
def test_broken_catalogue_is_told(tmp_path: Path, text: str, told: str) -> None:
    """The error names the file, and what is wrong in it."""
    with pytest.raises((CatalogueError, ConfigError)) as caught:
        read_catalogue(write_catalogue(tmp_path, text))

    assert told in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_empty_folder_is_no_catalogue(tmp_path: Path) -> None:
    """There must be a mutant, or all would be killed."""
    with pytest.raises(CatalogueError, match="holds no mutant"):
        read_catalogue(tmp_path)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (fault(module="clustercore.raft.nowhere"), "there is no module clustercore.raft.nowhere"),
        (fault(find="no such line"), "found 0 times"),
        (fault(find="@attrs.frozen", replace="@attrs.define"), "times in clustercore.raft.types"),
        (fault(find="NO_TERM = Term(0)", replace="NO_TERM = Term(0)"), "changes nothing"),
    ],
)
def test_place_that_is_not_there_is_told(tmp_path: Path, table: str, told: str) -> None:
    """So is one that is there more than once, and a fault that is none."""
    (mutant,) = read_catalogue(write_catalogue(tmp_path, table))

    assert told in str(anchor_fault(mutant))


def test_only_some_are_chosen(tmp_path: Path) -> None:
    """By their names, in the catalogue's order; a name that none has is an error."""
    mutants = read_catalogue(write_catalogue(tmp_path, fault("one"), fault("two")))

    assert chosen(mutants, []) == mutants
    assert [mutant.id for mutant in chosen(mutants, ["two"])] == ["two"]
    with pytest.raises(CatalogueError, match="no mutant is called three"):
        chosen(mutants, ["one", "three"])


def test_without_a_checkout_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installed clustercore has no tests beside it."""

    class Spec:
        origin = str(tmp_path / "site-packages" / "clustercore" / "__init__.py")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: Spec())

    with pytest.raises(CatalogueError, match=r"is no checkout\. Clone"):
        default_folder()
