"""The tutorial of the Cluster Center: all commands of its page, in their order, say what the page says they do."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import attrs
import pytest

from clustercore.cli.demo.ports import PortReservation
from tests.unit.docs_pages import blocks
from tests.unit.repository import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PAGE = ROOT / "docs" / "tutorial" / "cluster-center.md"
# Generous: it only ends a command whose answer never comes to be what the page says.
LIMIT_S = 60.0
# In a terminal each, until they are stopped.
STAY = ("cluster_center.server", "cluster_center.fleet")


@attrs.frozen
class Step:
    """A command, and what it says: "..." stands for anything, also for several lines."""

    command: str
    output: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """What matches the output."""
        return re.compile(re.escape(self.output.strip()).replace(re.escape("..."), ".*"), re.DOTALL)


def steps() -> Iterator[Step]:
    """Yield the commands of the page."""
    for block in blocks(PAGE, "console"):
        for part in re.split(r"^\$ ", block.text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield Step(command, output)


def test_every_block_of_the_page_is_of_commands() -> None:
    """There is no code on the page that the next test does not run."""
    assert len(list(steps())) > 15
    assert PAGE.read_text(encoding="utf-8").count("\n```\n") == len(blocks(PAGE, "console"))


def test_commands_of_the_tutorial_do_what_the_page_says(tmp_path: Path) -> None:
    """As on the page, but for the ports, which have to be free, and the folder."""
    with ExitStack() as stack:
        ports = stack.enter_context(closing(PortReservation(3))).ports
        for number, step in enumerate(steps()):
            text = step.command.replace("/tmp/center", str(tmp_path))
            output = step.output
            for shown, port in zip(("7101", "7102", "7103"), ports, strict=True):
                text, output = text.replace(f":{shown}", f":{port}"), output.replace(f":{shown}", f":{port}")
            words = shlex.split(text)
            if words[0] == "cd":
                assert ROOT / words[1] == ROOT / "docs" / "examples"
            elif words[0] == "make":
                # Has tests of its own.
                continue
            elif words[:2] == ["python", "-m"] and words[2] in STAY:
                start(words, Step(text, output), tmp_path / f"{number}.out", stack)
            else:
                wait_said(words, Step(text, output))


def executable(words: list[str]) -> list[str]:
    """Return a command with the Python that runs this."""
    return [sys.executable, *(["-m", "clustercore.cli"] if words[0] == "clustercore" else []), *words[1:]]


def start(words: list[str], step: Step, path: Path, stack: ExitStack) -> None:
    """Start what stays until the end of the test, and wait until it says what the page says."""
    with path.open("wb") as out:
        process = subprocess.Popen(
            executable(words), cwd=ROOT / "docs" / "examples", stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    stack.callback(process.wait)
    stack.callback(process.kill)
    give_up_at = time.monotonic() + LIMIT_S
    while not step.pattern.search(path.read_text()):
        assert process.poll() is None, f"{step.command} ended:\n{path.read_text()}"
        assert time.monotonic() < give_up_at, f"{step.command} says\n{path.read_text()}"
        time.sleep(0.05)


def wait_said(words: list[str], step: Step) -> None:
    """Run a command again and again, as a reader would, until it says what the page says."""
    give_up_at = time.monotonic() + LIMIT_S
    while True:
        done = subprocess.run(
            executable(words), cwd=ROOT / "docs" / "examples", capture_output=True, text=True, timeout=LIMIT_S
        )
        if done.returncode == 0 and step.pattern.fullmatch(done.stdout.strip()):
            return
        # A command that changes something is not tried again: it is to do what it says at once.
        assert words[0] == "clustercore" or "Read" in words, f"{step.command}: {done.stdout}{done.stderr}"
        assert time.monotonic() < give_up_at, f"{step.command} says\n{done.stdout}{done.stderr}"
