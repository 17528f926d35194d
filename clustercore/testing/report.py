"""What a checked history is told as: a few lines for a terminal, and a page with the failing part drawn.

Both show the same: the order that got furthest, and what could come next but does not fit. The page is one file without
scripts and without anything from elsewhere, and follows the reader's choice of light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Generic, TypeVar

import attrs

from clustercore.testing.history import Operation, Outcome
from clustercore.testing.linearizability import MAX_STEPS, HistoryCheck, PartCheck, Verdict, check_history
from clustercore.testing.models import Model

__all__ = ["assert_linearizable", "describe_check", "render_check"]

State = TypeVar("State")
Input = TypeVar("Input")
Output = TypeVar("Output")

# How many operations of the order lead up to where it ends, in the text and on the page, and how many are drawn that
# are called later.
TOLD_BEFORE = 5
DRAWN_BEFORE = 16
DRAWN_AFTER = 4
# How many parts are told, and how many operations that could come next.
TOLD_PARTS = 3
TOLD_CANDIDATES = 20

# The drawing's measures, in pixels.
_LANE_HEIGHT = 30
_BAR_HEIGHT = 20
_EVENT_WIDTH = 26
_NAME_WIDTH = 110


def assert_linearizable(
    model: Model[State, Input, Output],
    operations: Iterable[Operation[Input, Output]],
    *,
    max_steps: int = MAX_STEPS,
    page: str | Path | None = None,
) -> None:
    """Check a history as ``check_history`` does, and fail a test with the failing part told.

    Args:
        model, operations, max_steps: See ``check_history``.
        page: Where to write the HTML page if the history is not certain to be linearizable.

    Raises: AssertionError if it is not linearizable, and if that is undecided.
    """
    check = check_history(model, operations, max_steps=max_steps)
    if check.is_linearizable:
        return
    text = describe_check(check)
    if page is not None:
        Path(page).write_text(render_check(check), encoding="utf-8")
        text = f"{text}\nDrawn in {page}"
    raise AssertionError(text)


def describe_check(check: HistoryCheck[State, Input, Output]) -> str:
    """Tell a checked history in a few lines: the verdict, and where each failing part (the first three) ends."""
    total = sum(len(part.operations) for part in check.parts)
    lines = [f"{check.verdict.value}: {total} operations on the {check.model.name}"]
    worst = [part for part in check.parts if part.verdict is check.verdict]
    if check.verdict is not Verdict.LINEARIZABLE:
        for part in worst[:TOLD_PARTS]:
            lines += _tell_part(check.model, part)
        if len(worst) > TOLD_PARTS:
            lines.append(f"... and {len(worst) - TOLD_PARTS} more parts")
    return "\n".join(lines)


def _tell_part(model: Model[State, Input, Output], part: PartCheck[State, Input, Output]) -> list[str]:
    lines = [_sentence(part)]
    first = max(len(part.order) - TOLD_BEFORE, 0)
    if first:
        lines.append(f"  {first} operations, then")
    for number, placed in enumerate(part.order[first:], start=first + 1):
        lines.append(f"  {number}. {_words(placed.operation)}; the state is {model.describe_state(placed.state)}")
    candidates = part.candidates
    lines += [
        f"  then? {_words(operation)}; {_objection(model, part, operation)}"
        for operation in candidates[:TOLD_CANDIDATES]
    ]
    if len(candidates) > TOLD_CANDIDATES:
        lines.append(f"  ... and {len(candidates) - TOLD_CANDIDATES} more")
    return lines


def _sentence(part: PartCheck[State, Input, Output]) -> str:
    """Say how the search of a part ended."""
    assert part.stuck is not None
    where = "the history" if part.partition is None else f"the part {part.partition!r}"
    size = f"{len(part.operations)} operations, {part.steps} steps"
    if part.verdict is Verdict.UNDECIDED:
        return f"{where} ({size}) was given up; raise max_steps. The best order so far ends before {_words(part.stuck)}"
    return f"{where} ({size}) has no order that includes {_words(part.stuck)}"


def _words(operation: Operation[Input, Output]) -> str:
    """Say what an operation was, and what came of it."""
    until = "on" if operation.outcome is Outcome.UNKNOWN else f"to {operation.returned_at:g}"
    came = f"-> {operation.output!r}" if operation.outcome is Outcome.ANSWERED else operation.outcome.value
    note = f" ({operation.note})" if operation.note else ""
    return f"{operation.client} {operation.input!r} {came} [{operation.called_at:g} {until}]{note}"


def _objection(
    model: Model[State, Input, Output], part: PartCheck[State, Input, Output], operation: Operation[Input, Output]
) -> str:
    """Say why an operation does not come next."""
    state = part.order[-1].state if part.order else model.initial_state
    if operation.outcome is Outcome.UNKNOWN:
        return "its outcome is unknown, and does not help"
    assert operation.output is not None or operation.outcome is Outcome.ANSWERED
    if model.describe_answer is None:
        return "the model refuses it, or what follows"
    answer = model.describe_answer(state, operation.input)
    if answer == repr(operation.output):
        return "possible, but nothing that follows fits" if operation is not part.stuck else "possible, but not reached"
    return f"the answer would be {answer}"


# --- Page -------------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --text: #1c2330; --back: #ffffff; --faint: #6b7484; --line: #d8dde6;
  --placed: #cfe3f7; --next: #fbe3b0; --stuck: #f6b8b4; --later: #e9ecf1; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ef; --back: #14181f; --faint: #98a2b3; --line: #333b48;
  --placed: #1f4468; --next: #6b4e12; --stuck: #8a2b27; --later: #2a303a; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 2rem auto;
  max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
code, td { font-family: ui-monospace, monospace; font-size: 13px; }
.drawing { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
svg { display: block; } svg text { font: 12px ui-monospace, monospace; fill: var(--text); }
svg line { stroke: var(--line); } svg line.bound { stroke: var(--text); stroke-dasharray: 4 3; }
rect { stroke: var(--faint); } rect.unknown { stroke-dasharray: 5 3; }
rect.placed { fill: var(--placed); } rect.next { fill: var(--next); } rect.later { fill: var(--later); }
rect.stuck { fill: var(--stuck); stroke-width: 2; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; font-weight: 600; }
th, td { border-bottom: 1px solid var(--line); padding: 3px 8px; vertical-align: top; overflow-wrap: anywhere; }
.key span { display: inline-block; padding: 0 8px; margin-right: 8px; border-radius: 3px; }
"""

_KEY = (
    ("placed", "placed; the number is its place in the order"),
    ("next", "could come next"),
    ("stuck", "had to come next, and fits nowhere"),
    ("later", "called later"),
)


def render_check(check: HistoryCheck[State, Input, Output]) -> str:
    """Return the page: the verdict, and a drawing and two tables for each part that is not linearizable."""
    total = sum(len(part.operations) for part in check.parts)
    name = escape(check.model.name)
    title = f"{check.verdict.value}: {total} operations on the {name}"
    parts = [part for part in check.parts if part.stuck is not None]
    body = "".join(_render_part(check.model, part) for part in parts)
    key = "".join(f'<span style="background: var(--{kind})">{escape(text)}</span>' for kind, text in _KEY)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{title}</h1><p>{len(check.parts)} parts, {len(parts)} of them shown. "
        f"{sum(part.steps for part in check.parts)} steps.</p>"
        + (f'<p class="key">{key} A dashed bar has no known end.</p>' if parts else "")
        + f"{body}</body></html>\n"
    )


def _render_part(model: Model[State, Input, Output], part: PartCheck[State, Input, Output]) -> str:
    window = _Window.around(part)
    heading = "The history" if part.partition is None else f"Part {part.partition!r}"
    return (
        f"<section><h2>{escape(heading)}: {part.verdict.value}</h2><p><code>{escape(_sentence(part))}</code></p>"
        f'<div class="drawing">{_draw(window)}</div>'
        f"<h3>The order that got furthest</h3>{_order_table(model, part, window)}"
        f"<h3>What could come next</h3>{_candidates_table(model, part)}</section>"
    )


@attrs.frozen
class _Window(Generic[State, Input, Output]):
    """The operations of a part that are drawn, and where: all times become columns of equal width."""

    part: PartCheck[State, Input, Output]
    # How many operations of the order come before it.
    skipped: int
    operations: Sequence[Operation[Input, Output]]
    # The times drawn, ascending; the column of each is its place.
    times: dict[float, int]
    # Operation by identity -> its place in the order, from 1.
    places: dict[int, int]

    @classmethod
    def around(cls, part: PartCheck[State, Input, Output]) -> _Window[State, Input, Output]:
        """Choose the last of the order, what could come next, and what is called a little later."""
        assert part.stuck is not None
        skipped = max(len(part.order) - DRAWN_BEFORE, 0)
        places = {id(placed.operation): number for number, placed in enumerate(part.order, start=1)}
        shown = {id(placed.operation) for placed in part.order[skipped:]}
        later = [operation for operation in part.operations if operation.called_at > part.stuck.returned_at]
        shown |= {id(operation) for operation in (*part.candidates, *later[:DRAWN_AFTER])}
        operations = [operation for operation in part.operations if id(operation) in shown]
        times = {operation.called_at for operation in operations}
        times |= {operation.returned_at for operation in operations if math.isfinite(operation.returned_at)}
        return cls(part, skipped, operations, {time: column for column, time in enumerate(sorted(times))}, places)

    def kind(self, operation: Operation[Input, Output]) -> str:
        """Return the class of an operation's bar."""
        assert self.part.stuck is not None
        if operation is self.part.stuck:
            return "stuck"
        if id(operation) in self.places:
            return "placed"
        return "later" if operation.called_at > self.part.stuck.returned_at else "next"

    def lanes(self) -> list[tuple[str, list[Operation[Input, Output]]]]:
        """Return a lane for each client, and another one where its operations overlap."""
        lanes: list[tuple[str, list[Operation[Input, Output]]]] = []
        for operation in self.operations:
            for client, lane in lanes:
                if client == operation.client and lane[-1].returned_at < operation.called_at:
                    lane.append(operation)
                    break
            else:
                lanes.append((operation.client, [operation]))
        return sorted(lanes, key=lambda lane: (len(lane[0]), lane[0]))


def _draw(window: _Window[State, Input, Output]) -> str:
    """Return the drawing: a lane per client, a bar per operation, a line where the search ends."""
    assert window.part.stuck is not None
    lanes = window.lanes()
    columns = len(window.times)
    width, height = _NAME_WIDTH + (columns + 1) * _EVENT_WIDTH, (len(lanes) + 1) * _LANE_HEIGHT
    label = escape(_sentence(window.part))
    pieces = [f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">']
    for row, (client, lane) in enumerate(lanes):
        top = row * _LANE_HEIGHT + _LANE_HEIGHT // 2
        pieces.append(f'<text x="8" y="{top + 14}">{escape(client)}</text>')
        pieces.append(f'<line x1="0" x2="{width}" y1="{top + _BAR_HEIGHT + 5}" y2="{top + _BAR_HEIGHT + 5}"/>')
        pieces += [_bar(window, operation, top, width) for operation in lane]
    x = _NAME_WIDTH + window.times[window.part.stuck.returned_at] * _EVENT_WIDTH + _EVENT_WIDTH // 2
    pieces.append(f'<line class="bound" x1="{x}" x2="{x}" y1="0" y2="{height}"/></svg>')
    return "".join(pieces)


def _bar(window: _Window[State, Input, Output], operation: Operation[Input, Output], top: int, width: int) -> str:
    left = _NAME_WIDTH + window.times[operation.called_at] * _EVENT_WIDTH
    is_open = not math.isfinite(operation.returned_at)
    right = width if is_open else _NAME_WIDTH + window.times[operation.returned_at] * _EVENT_WIDTH + _EVENT_WIDTH // 2
    place = window.places.get(id(operation))
    text = f"{place}. " if place is not None else ""
    came = f" -> {operation.output!r}" if operation.outcome is Outcome.ANSWERED else ""
    label = f"{text}{operation.input!r}{came}"
    # What does not fit into the bar is in its title.
    fitting = label[: max((right - left) // 8, len(text))]
    unknown = " unknown" if is_open else ""
    return (
        f"<g><title>{escape(text + _words(operation))}</title>"
        f'<rect class="{window.kind(operation)}{unknown}" x="{left}" y="{top}" width="{right - left}" '
        f'height="{_BAR_HEIGHT}" rx="3"/>'
        f'<text x="{left + 4}" y="{top + 14}">{escape(fitting)}</text></g>'
    )


def _order_table(
    model: Model[State, Input, Output], part: PartCheck[State, Input, Output], window: _Window[State, Input, Output]
) -> str:
    before = part.order[window.skipped - 1].state if window.skipped else model.initial_state
    rows = [[str(window.skipped), "before that" if window.skipped else "initially", model.describe_state(before)]]
    for number, placed in enumerate(part.order[window.skipped :], start=window.skipped + 1):
        rows.append([str(number), _words(placed.operation), model.describe_state(placed.state)])
    return _table(["place", "operation", "state after it"], rows)


def _candidates_table(model: Model[State, Input, Output], part: PartCheck[State, Input, Output]) -> str:
    rows = [[_words(operation), _objection(model, part, operation)] for operation in part.candidates]
    return _table(["operation", "why not"], rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
