"""Traces for the tests of what reads them."""

from __future__ import annotations

import hypothesis.strategies as st

from clustercore.testing.trace import Event, TraceHeader
from clustercore.testing.trace.events import (
    EVENTS,
    Appended,
    CommittedUpTo,
    Crashed,
    Delivered,
    EntriesWrite,
    EntryRef,
    OfficeChanged,
    Sent,
    Started,
    Violated,
    WriteDurable,
)

__all__ = ["HEADER", "TEN_EVENTS", "events", "headers"]

HEADER = TraceHeader("protocol", ("n1", "n2"), "two nodes", 7, {"max_append_entries": 1}, "python -m again")

_ENTRY = EntryRef(1, 1, "command", "x = 1")
TEN_EVENTS: tuple[Event, ...] = (
    Started(0.0, "n1", 1, None, 0, 0, 0),
    Started(0.0, "n2", 1, None, 0, 0, 0),
    OfficeChanged(0.5, "n1", "leader", 1, "n1", "n1"),
    Appended(0.5, "n1", (_ENTRY,)),
    EntriesWrite(0.5, "n1", 1, (_ENTRY,)),
    Sent(0.5, "n1", 1, "n2", "AppendEntriesRequest", 1, {"entries": "1:1"}),
    WriteDurable(0.6, "n1", 1),
    CommittedUpTo(0.6, "n1", 1),
    Delivered(0.7, "n2", 1, "n1"),
    Crashed(0.8, "n1"),
)
assert len(TEN_EVENTS) == 10
VIOLATED = Violated(0.8, "n1", "one & only <leader>", "</script><b>text</b>")

_names = st.text(max_size=5)
_counts = st.integers(0, 2**63)
_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_refs = st.lists(st.builds(EntryRef, _counts, _counts, _names, _names), max_size=3).map(tuple)


def events() -> st.SearchStrategy[list[Event]]:
    """Lists of any events with any values that the format takes, in the order of their time."""
    one = st.one_of([_of_kind(kind) for kind in EVENTS.values()])
    return st.lists(one, max_size=8).map(lambda found: sorted(found, key=lambda event: event.time))


def _of_kind(kind: type[Event]) -> st.SearchStrategy[Event]:
    for_type = {
        "float": st.floats(0, 1e9),
        "int": _counts,
        "int | None": st.none() | _counts,
        "bool": st.booleans(),
        "str": _names,
        "str | None": st.none() | _names,
        "tuple[int, ...]": st.lists(_counts, max_size=3).map(tuple),
        "tuple[str, ...]": st.lists(_names, max_size=3).map(tuple),
        "tuple[tuple[str, ...], ...]": st.lists(st.lists(_names, max_size=3).map(tuple), max_size=3).map(tuple),
        "tuple[EntryRef, ...]": _refs,
        "Mapping[str, Scalar]": st.dictionaries(_names, _scalars, max_size=3),
    }
    return st.builds(kind, **{field.name: for_type[str(field.type)] for field in kind.__attrs_attrs__})


def headers() -> st.SearchStrategy[TraceHeader]:
    """Any header."""
    names = st.lists(_names, max_size=4, unique=True).map(tuple)
    options = st.dictionaries(_names, st.recursive(_scalars, lambda inner: st.lists(inner, max_size=2)), max_size=3)
    return st.builds(TraceHeader, _names, names, _names, st.none() | st.integers(), options, _names)
