"""The page of a trace: one file that needs no other, whatever texts are in the trace."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import attrs
import pytest
from hypothesis import given

from clustercore.testing.trace import Event, Trace, TraceHeader, render_page
from clustercore.testing.trace.events import EVENTS
from tests.unit.testing.traces import HEADER, TEN_EVENTS, VIOLATED, events, headers


class Page(HTMLParser):
    """What a browser finds in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.texts: dict[str, str] = {}
        self._id = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)
        self._id = found.get("id") or ""
        if self._id:
            self.ids.append(self._id)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action") and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        self.texts[self._id] = self.texts.get(self._id, "") + text


@given(header=headers(), found=events())
def test_page_holds_any_trace(header: TraceHeader, found: list[Event]) -> None:
    """Whatever texts a trace has, they end no element, and the script gets them as they are."""
    page = Page(render_page(Trace(header, tuple(found))))

    assert page.open == []
    data = json.loads(page.texts["trace"])
    assert data["title"] == header.title
    assert data["nodes"] == list(header.nodes)
    assert [event["event"] for event in data["events"]] == [event.kind for event in found]


def test_page_needs_nothing_else() -> None:
    """No address leads out of the page: neither in its elements nor in its style or script."""
    text = render_page(Trace(HEADER, (*TEN_EVENTS, VIOLATED)))

    assert Page(text).addresses == ["data:,"]
    assert re.findall(r"https?:|@import|url\(|//\w+\.|import\(|fetch\(|XMLHttpRequest", text) == []


def test_page_escapes_what_it_is_called() -> None:
    """A title is text in the head as well, and marks in it are not filled in."""
    text = render_page(Trace(attrs.evolve(HEADER, title="</title><!--@script@--> & co"), ()))

    assert "<title>&lt;/title&gt;&lt;!--@script@--&gt; &amp; co - clustercore trace</title>" in text


def test_ids_are_unique_and_all_that_the_script_asks_for_is_there() -> None:
    """Each element that the script looks up by id exists once."""
    text = render_page(Trace(HEADER, TEN_EVENTS))
    ids = Page(text).ids

    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'byId\("([\w-]+)"\)', text)) <= set(ids)


def test_colours_exist_in_both_schemes() -> None:
    """What is drawn has a colour of its own in the dark as well."""
    light, dark = render_page(Trace(HEADER, ())).split("@media (prefers-color-scheme: dark)")[:2]
    names = [set(re.findall(r"(--[\w-]+): ", part.partition("}")[0])) for part in (light.split(":root {")[1], dark)]

    assert names[0] == names[1]
    assert {f"--t{term}" for term in range(9)} <= names[0]


@pytest.mark.parametrize("kind", EVENTS)
def test_page_has_words_for_every_event(kind: str) -> None:
    """The script tells each kind of event in words of its own."""
    assert re.search(rf'case "{kind}":', render_page(Trace(HEADER, ())))
