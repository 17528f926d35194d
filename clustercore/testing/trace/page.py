"""A trace as one page of HTML that needs nothing else: no network, no other file.

The page is put together from the files in ``assets``; the events are in it as JSON, and its script draws them.
"""

from __future__ import annotations

import html
import json
from importlib.resources import files

from clustercore.testing.trace.codec import encode_event
from clustercore.testing.trace.file import Trace

__all__ = ["render_page"]

_ASSETS = files("clustercore.testing.trace") / "assets"
# In the order in which one builds on the other.
_SCRIPTS = ("model.js", "diagram.js", "panels.js", "main.js")


def render_page(trace: Trace) -> str:
    """Return the page for a trace: HTML that any current browser shows as it is.

    ``#step=N`` behind its address shows the moment after the first N events.
    """
    header = trace.header
    data = {
        "title": header.title,
        "level": header.level,
        "nodes": header.nodes,
        "seed": header.seed,
        "options": header.options,
        "replay": header.replay,
        "hash": trace.hash,
        "events": [encode_event(event) for event in trace.events],
    }
    parts = {
        "title": html.escape(header.title or "trace"),
        "style": _asset("page.css"),
        "script": '"use strict";\n' + "\n".join(map(_asset, _SCRIPTS)),
        "data": _script_safe(json.dumps(data, separators=(",", ":"))),
    }
    page = _asset("page.html")
    before, *rest = page.split("<!--@")
    # One pass: what is put in is not searched for further marks.
    return before + "".join(parts[name] + after for name, _, after in (part.partition("@-->") for part in rest))


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _script_safe(text: str) -> str:
    """Return JSON that does not end the element it stands in, whatever its texts are."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
