"""The layers of clustercore, held by what its modules import.

import-linter's contracts in pyproject.toml (`make check`) draw the layers and follow imports through the whole
tree. Here stand the rules that are lists of what is allowed, and a proof that the contracts bite.
"""

import ast
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import attrs
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.repository import ROOT, reads_repository

pytestmark = reads_repository

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/__init__.py"))

# All that the core may import: values, containers and arithmetic. Nothing in it can wait, tell the time, draw a
# random number or reach outside the process.
RAFT_MAY_IMPORT = frozenset(
    {
        "__future__",
        "attrs",
        "bisect",
        "clustercore.raft",
        "collections",
        "enum",
        "itertools",
        "math",
        "operator",
        "struct",
        "typing",
        "zlib",
    }
)
# The core is handed a seeded generator and names its type; it never makes one.
RAFT_MAY_NAME = frozenset({"random"})


@attrs.frozen
class Import:
    """One module that a file imports."""

    module: str
    line: int
    # Under `if TYPE_CHECKING:`, so never executed.
    is_for_types: bool


def imports_of(path: Path) -> list[Import]:
    """Return what the file imports, wherever in it, in the order of its lines."""

    def walk(node: ast.AST, is_for_types: bool) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                for name in names:
                    yield Import(name.name, node.lineno, is_for_types)
            case ast.ImportFrom(level=0, module=str(module), names=names):
                for name in names:
                    # `from clustercore import raft` imports clustercore.raft as much as `import clustercore.raft`.
                    yield Import(f"{module}.{name.name}", node.lineno, is_for_types)
            case ast.ImportFrom():
                pytest.fail(f"{path}:{node.lineno}: a relative import hides its layer; write the whole name")
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=orelse):
                for statement in body:
                    yield from walk(statement, True)
                for statement in orelse:
                    yield from walk(statement, is_for_types)
            case _:
                for child in ast.iter_child_nodes(node):
                    yield from walk(child, is_for_types)

    return list(walk(ast.parse(path.read_bytes(), str(path)), False))


def is_within(module: str, packages: frozenset[str]) -> bool:
    """Return whether the module is one of the packages, or a name inside one."""
    return any(module == package or module.startswith(package + ".") for package in packages)


def modules_of(package: str) -> list[Path]:
    """Return the source files of an installed package, without generated ones."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return sorted(path for path in Path(spec.origin).parent.rglob("*.py") if "_proto" not in path.parts)


@pytest.mark.parametrize("path", modules_of("clustercore.raft"), ids=lambda path: path.name)
def test_raft_imports_only_what_is_pure(path: Path) -> None:
    """A module of the core imports from the allowed list, and names random.Random for types at most."""
    impure = [
        f"{path.name}:{found.line}: {found.module}"
        for found in imports_of(path)
        if not is_within(found.module, RAFT_MAY_IMPORT)
        and not (found.is_for_types and is_within(found.module, RAFT_MAY_NAME))
    ]

    assert impure == []


@pytest.mark.parametrize("package", [path.name for path in PLUGINS])
def test_plugin_sees_only_interfaces(package: str) -> None:
    """Of the framework, a shipped plugin imports clustercore.interfaces alone, as a third party's should."""
    foreign = [
        f"{path.name}:{found.line}: {found.module}"
        for path in modules_of(package)
        for found in imports_of(path)
        if is_within(found.module, frozenset({"clustercore"}))
        and not is_within(found.module, frozenset({"clustercore.interfaces"}))
    ]

    assert foreign == []


@pytest.mark.parametrize("package", ["clustercore", *(path.name for path in PLUGINS)])
def test_package_declares_what_it_imports(package: str) -> None:
    """Each distribution that a package imports is one of its own requirements: nothing is there by accident."""
    distributions = importlib.metadata.packages_distributions()
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    # The command and the kits are part of the framework, with an extra each. A plugin's extra is called as it is.
    own = ["cli", "testing"] if package == "clustercore" else [package.removeprefix("clustercore_")]
    needed = [*project["dependencies"], *chain.from_iterable(extras.get(name, []) for name in own)]
    declared = {canonicalize_name(Requirement(text).name) for text in needed}

    undeclared = [
        f"{path.name}:{found.line}: {found.module}"
        for path in modules_of(package)
        for found in imports_of(path)
        for top in [found.module.partition(".")[0]]
        if top not in sys.stdlib_module_names
        and not top.startswith("clustercore")
        and not declared & {canonicalize_name(name) for name in distributions.get(top, [])}
    ]

    assert undeclared == []


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on a copy of the repository, as `make check` does."""
    return subprocess.run(
        [Path(sysconfig.get_path("scripts")) / "lint-imports", "--no-cache", "--no-logo"],
        cwd=tree,
        # Before the paths of an editable install, which lead to the repository itself.
        env={"PYTHONPATH": f"{tree}:{tree / 'plugins'}"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of everything that import-linter reads, which it finds in order."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "pyproject.toml", tree)
    for folder in ("clustercore", "plugins"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    clean = lint_imports(tree)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    return tree


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("clustercore/raft/types.py", "import trio", "The core is pure"),
        ("clustercore/raft/types.py", "def wait() -> None:\n    import time", "The core is pure"),
        ("clustercore/raft/types.py", "import clustercore.interfaces", "Layers"),
        ("clustercore/interfaces/__init__.py", "import clustercore.runtime", "Layers"),
        ("clustercore/runtime/__init__.py", "import clustercore.cli", "Layers"),
        ("clustercore/cli/__init__.py", "import clustercore_grpc", "The framework imports no plugin"),
        (
            "plugins/clustercore_static/__init__.py",
            "import clustercore.raft",
            "Plugins see clustercore.interfaces",
        ),
        (
            "plugins/clustercore_grpc/__init__.py",
            "import clustercore_memory",
            "Plugins do not know each other",
        ),
    ],
)
def test_contracts_catch_a_planted_import(tree: Path, module: str, statement: str, contract: str) -> None:
    """An import that breaks a layer fails `make check`, and the report names the contract."""
    path = tree / module
    before = path.read_text(encoding="utf-8")
    path.write_text(f"{before}\n{statement}\n", encoding="utf-8")

    try:
        report = lint_imports(tree)
    finally:
        path.write_text(before, encoding="utf-8")

    broken = [line for line in report.stdout.splitlines() if line.endswith("BROKEN")]
    assert report.returncode == 1, report.stdout + report.stderr
    assert any(line.startswith(contract) for line in broken), report.stdout
