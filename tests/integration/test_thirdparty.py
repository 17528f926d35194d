"""Somebody else's transport, installed as anybody would install it, has the rights of a shipped one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from clustercore.testing.conformance import TransportConformance, rules_of
from tests.unit.docs_pages import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# Far beyond what any step takes: it only ends one that hangs.
LIMIT_S = 120

KIT = """
from clustercore.testing.conformance import TransportConformance
from somebodys_transport import LinesTransport

class TestLinesTransport(TransportConformance):
    def make(self):
        return LinesTransport()

    def make_at(self, address):
        return LinesTransport(listen=address)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of a fresh virtual environment in which the distribution is installed.

    What this environment holds, that one sees too: so nothing has to come from an index.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True, timeout=LIMIT_S)
    python = folder / "venv" / "bin" / "python"
    (own,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (own / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    # A copy: building leaves files behind.
    source = shutil.copytree(ROOT / "tests" / "thirdparty", folder / "source")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-index", "--no-deps", "--no-build-isolation", str(source)], check=True, timeout=LIMIT_S)
    return str(python)


def run(folder: Path, *command: str) -> str:
    """Run a command; return what it printed. Nothing of this checkout is on its path but what is installed."""
    done = subprocess.run(
        command,
        cwd=folder,
        timeout=LIMIT_S,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"MPLCONFIGDIR": str(folder)},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_thirdparty_transport_is_short() -> None:
    """Eighty lines are enough."""
    lines = (ROOT / "tests" / "thirdparty" / "somebodys_transport.py").read_text(encoding="utf-8").splitlines()

    assert len(lines) <= 80


def test_thirdparty_transport_is_listed(python: str, tmp_path: Path) -> None:
    """``clustercore plugins`` shows it beside those that ship."""
    printed = run(tmp_path, python, "-m", "clustercore.cli", "plugins")

    assert "somebodys" in printed
    assert "somebodys-transport" in printed
    assert "tcp" in printed


def test_thirdparty_transport_passes_the_kit(python: str, tmp_path: Path) -> None:
    """Every rule of the contract holds for it."""
    (tmp_path / "test_lines.py").write_text(KIT)

    printed = run(tmp_path, python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path))

    assert f"{len(rules_of(TransportConformance))} passed" in printed


def test_thirdparty_transport_carries_a_cluster_and_shows_in_the_benchmark(python: str, tmp_path: Path) -> None:
    """Three processes commit over it, and its figures stand beside those of the others."""
    figures = tmp_path / "figures.json"
    script = str(ROOT / "benchmarks" / "compare_transports.py")
    quick = ["--rounds", "1", "--seconds", "0.01", "--payloads", "64", "--transports", "somebodys", "tcp"]

    printed = run(tmp_path, python, script, *quick, "--json", str(figures))

    rows = json.loads(figures.read_text(encoding="utf-8"))["rows"]
    cells = {(row["mode"], row["outstanding"]) for row in rows if row["transport"] == "somebodys"}
    # It carries no calls of services.
    assert cells == {("stream", 1), ("stream", 64), ("commit", 1), ("commit", 64)}
    assert "somebodys" in printed
