"""The page of a trace in a real browser: it draws, it moves with its step, and it says nothing on its console."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.image import imread

from clustercore.testing.protocol.runs import draw_run
from clustercore.testing.protocol.tracing import TracedRun, trace_run
from clustercore.testing.trace import Trace, TraceHeader, render_page
from clustercore.testing.trace.events import AppliedUpTo, Event, Started
from tests.unit.testing.traces import HEADER, TEN_EVENTS, VIOLATED

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

Colours = npt.NDArray[np.int64]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is here (Debian: apt-get install chromium)"),
]

# Far beyond what a page takes: it only ends a browser that hangs.
LIMIT_S = 60
SCHEMES = {"light": 1, "dark": 0}
# Colours of the style.
PAPER = {"light": 0xFFFFFF, "dark": 0x14181F}
BAD = 0xD11F2F


@pytest.fixture(scope="module")
def long_run() -> TracedRun:
    """A run of more than a thousand events with crashes, losses and snapshots."""
    found = next(
        run
        for run in (trace_run(*draw_run(seed, 800)) for seed in range(100))
        if len(run.header.nodes) == 3 and {"crashed", "compacted", "dropped"} <= {event.kind for event in run.events}
    )
    assert found.run.error is None
    assert len(found.events) > 1000
    return found


class Browser:
    """Chromium without a window, in a profile of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _run(self, page: Path, *options: str, fragment: str, scheme: str) -> str:
        assert CHROMIUM is not None
        done = subprocess.run(
            [
                CHROMIUM,
                "--headless=new",
                # As root, in a container, there is no sandbox to be had; the page is our own.
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--hide-scrollbars",
                "--force-device-scale-factor=1",
                "--window-size=1400,900",
                f"--user-data-dir={self._folder / 'profile'}",
                f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
                "--virtual-time-budget=3000",
                "--enable-logging=stderr",
                *options,
                page.as_uri() + fragment,
            ],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Uncaught" in line]
        assert said == []
        assert done.returncode == 0, done.stderr
        return done.stdout

    def dom(self, page: Path, fragment: str = "", scheme: str = "light") -> str:
        """Return the document as the script left it."""
        return self._run(page, "--dump-dom", fragment=fragment, scheme=scheme)

    def picture(self, page: Path, fragment: str = "", scheme: str = "light") -> Colours:
        """Return the picture by row and column, each point as one number 0xRRGGBB."""
        path = self._folder / "picture.png"
        self._run(page, f"--screenshot={path}", fragment=fragment, scheme=scheme)
        points = np.rint(np.asarray(imread(path))[:, :, :3] * 255).astype(np.int64)
        found: Colours = points[:, :, 0] << 16 | points[:, :, 1] << 8 | points[:, :, 2]
        return found


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    """A browser that has nothing of another test."""
    return Browser(tmp_path)


def data_of(dom: str) -> dict[str, str]:
    """Return what the script tells of itself at the root element."""
    root = re.search(r"<html[^>]*>", dom)
    assert root is not None
    found = dict(re.findall(r'data-(\w+)="([^"]*)"', root[0]))
    assert found["ready"] == "true"
    return found


def text_of(dom: str, element: str) -> str:
    """Return the text of an element by its id, without markup."""
    match = re.search(rf'<(\w+) id="{element}"[^>]*>(.*?)</\1>', dom, re.DOTALL)
    assert match is not None
    return unescape(re.sub(r"<[^>]+>", " ", match[2]))


def write_page(folder: Path, header: TraceHeader, events: tuple[Event, ...]) -> Path:
    """Write a page."""
    path = folder / "page.html"
    path.write_text(render_page(Trace(header, events)), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("count", [0, 10, 1000])
def test_page_draws(browser: Browser, long_run: TracedRun, count: int, scheme: str, tmp_path: Path) -> None:
    """With no event, ten and a thousand, in light and dark, there is a picture in the scheme's colours."""
    header, events = (HEADER, TEN_EVENTS[:count]) if count <= 10 else (long_run.header, tuple(long_run.events))
    page = write_page(tmp_path, header, events)

    dom = browser.dom(page, scheme=scheme)
    picture = browser.picture(page, scheme=scheme)

    assert data_of(dom)["step"] == str(len(events))
    assert all(name in text_of(dom, "states") for name in header.nodes)
    assert (re.search(r'id="nothing"[^>]*hidden', dom) is None) == (count == 0)
    # The paper of the scheme under the diagram, and on it lines, bands and letters; of nothing, only words.
    diagram = picture[120:400, 100:1000]
    colours, places = np.unique(diagram, return_counts=True)
    assert PAPER[scheme] in colours[np.argsort(places)[-3:]]
    assert len(colours) > (40 if count else 5)


def test_page_moves_with_its_step(browser: Browser, tmp_path: Path) -> None:
    """The address sets the step, and table and words are of that moment."""
    page = write_page(tmp_path, HEADER, TEN_EVENTS)

    seen = {step: browser.dom(page, f"#step={step}") for step in (0, 3, 4, 7, 8, 10, 99)}

    assert {step: data_of(dom)["step"] for step, dom in seen.items()} == {
        **{step: str(step) for step in seen},
        99: "10",
    }
    assert "Before the first event." in text_of(seen[0], "happened")
    assert "not started" in text_of(seen[0], "states")
    assert "is leader in term 1" in text_of(seen[3], "happened")
    assert "leader" in text_of(seen[3], "states")
    boxes = {step: re.findall(r'class="(entry[^"]*)"[^>]*>1:1', dom)[0] for step, dom in seen.items() if step >= 4}
    assert boxes == {
        4: "entry fresh",
        7: "entry durable",
        8: "entry durable committed",
        10: "entry durable",
        99: "entry durable",
    }
    assert "down" in text_of(seen[10], "states")


def test_page_begins_where_the_property_broke(browser: Browser, tmp_path: Path) -> None:
    """A violation is where the page opens, in red, in its own words and not as markup; before it, nothing is broken."""
    events = (*TEN_EVENTS, VIOLATED, AppliedUpTo(0.9, "n2", 0), Started(0.9, "n1", 1, None, 0, 0, 0))
    page = write_page(tmp_path, HEADER, events)

    dom = browser.dom(page)

    assert data_of(dom)["step"] == "11"
    assert text_of(dom, "broken") == f"Broken at step 11 on n1: {VIOLATED.name}\n{VIOLATED.text}"
    assert VIOLATED.name in text_of(dom, "verdict")
    assert (browser.picture(page) == BAD).sum() > 300
    assert re.search(r'id="broken"[^>]*hidden', browser.dom(page, "#step=10"))


def test_page_draws_only_what_is_in_view(browser: Browser, long_run: TracedRun, tmp_path: Path) -> None:
    """Of a long run a part is drawn, around the step, and the list holds a screenful of rows."""
    page = write_page(tmp_path, long_run.header, tuple(long_run.events))

    seen = {step: browser.dom(page, f"#step={step}") for step in (1, len(long_run.events) // 2)}

    views = [data_of(dom)["columns"] for dom in seen.values()]
    assert views[0] != views[1]
    for dom in seen.values():
        assert 0 < int(data_of(dom)["drawn"]) < len(long_run.events) / 4
        assert dom.count('class="row') < 80


def test_table_says_what_the_cores_knew(browser: Browser, long_run: TracedRun, tmp_path: Path) -> None:
    """The states that the page derives from the events are those that the cores had at the end."""
    page = write_page(tmp_path, long_run.header, tuple(long_run.events))

    dom = browser.dom(page)

    assert long_run.run.world is not None
    for name, node in long_run.run.world.nodes.items():
        row = re.search(rf'<tr[^>]*data-node="{name}"[^>]*>(.*?)</tr>', dom, re.DOTALL)
        assert row is not None
        cells = [unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row[1])]
        state = node.core.state
        role = state.role.value.replace("_", "-")
        vote, leader = state.voted_for or "-", state.leader_id or "-"
        assert cells[:5] == [name, role, str(state.current_term), vote, leader]
        assert cells[5:7] == [str(state.commit_index), str(state.last_applied)]
        boxes = re.findall(r'class="(entry[^"]*)"[^>]*>(\d+:\d+)<', row[1])
        shown = [(label, "committed" in kind, "durable" in kind) for kind, label in boxes if "snapshot" not in kind]
        held = state.log.slice(state.log.first_index, state.log.last_index)
        expected = [
            (f"{entry.index}:{entry.term}", entry.index <= state.commit_index, node.disk.holds(entry.index, entry.term))
            for entry in held
        ]
        assert shown == expected[len(expected) - len(shown) :]
        assert shown or not expected
