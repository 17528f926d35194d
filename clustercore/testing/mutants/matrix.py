"""The kill matrix: which mutant is killed by which property, after how many events and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import attrs

from clustercore.testing.mutants.catalogue import Mutant
from clustercore.testing.mutants.runner import Fate, Outcome

__all__ = ["HEADINGS", "page", "plain", "row", "summary"]

HEADINGS = ("mutant", "property", "fate", "events", "seconds", "found by")


def row(outcome: Outcome) -> tuple[str, ...]:
    """Return one line of the matrix, for a terminal."""
    mutant = outcome.mutant
    events = f"{outcome.events:,}" if outcome.events else ""
    return (mutant.id, mutant.property, outcome.fate.value, events, f"{outcome.seconds:.1f}", _place(mutant))


def summary(outcomes: Sequence[Outcome]) -> str:
    """Say how many were killed, and which were not."""
    left = [outcome for outcome in outcomes if outcome.fate is not Fate.KILLED]
    killed = f"{len(outcomes) - len(left)} of {len(outcomes)} mutants killed, each by the property it claims"
    return killed if not left else killed + "; not so " + ", ".join(outcome.mutant.id for outcome in left)


def plain(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return the matrix as plain data."""
    return {
        "killed": sum(outcome.fate is Fate.KILLED for outcome in outcomes),
        "mutants": [
            {**attrs.asdict(outcome.mutant), **_found(outcome), "others": list(outcome.others)} for outcome in outcomes
        ],
    }


def _found(outcome: Outcome) -> dict[str, object]:
    return {
        "fate": outcome.fate.value,
        "text": outcome.text,
        "events": outcome.events,
        "seconds": round(outcome.seconds, 3),
    }


def page(outcomes: Sequence[Outcome], profile: str) -> str:
    """Return docs/reference/mutants.md."""
    parts = [
        _INTRODUCTION.format(
            summary=summary(outcomes),
            profile=profile,
            command="clustercore mutants" + ("" if profile == "default" else f" --profile {profile}"),
        )
    ]
    for chapter, group in groupby(outcomes, key=lambda outcome: outcome.mutant.chapter):
        parts.append(f"## {chapter.replace('_', ' ').capitalize()}\n")
        parts.append("| mutant | what goes wrong | property | events | seconds | found by | source |")
        parts.append("| --- | --- | --- | ---: | ---: | --- | --- |")
        parts += [_line(outcome) for outcome in group]
        parts.append("")
    return "\n".join(parts)


def _line(outcome: Outcome) -> str:
    mutant = outcome.mutant
    events = f"{outcome.events:,}" if outcome.events else ""
    fate = mutant.property if outcome.fate is Fate.KILLED else f"{mutant.property} ({outcome.fate.value})"
    cells = (f"`{mutant.id}`", mutant.why, fate, events, f"{outcome.seconds:.1f}", _place(mutant), mutant.source)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _place(mutant: Mutant) -> str:
    """Return in short where a mutant is looked for."""
    if "::" in mutant.hunt:
        path, _, name = mutant.hunt.partition("::")
        return f"{path.rpartition('/')[2].removesuffix('.py')}: {name}"
    return mutant.hunt.partition(":")[2].replace("_", " ")


_INTRODUCTION = """\
# Broken cores

A test that cannot fail proves nothing. So the tests are tested: a catalogue of deliberate faults (*mutants*), each one
change in one place of the real source, is run against them, and each must be found, by the very property that it
claims to break. The catalogue is `tests/mutants/catalogue/`; nothing is edited on disk, a mutant is made as its module
is imported, in a process of its own.

```sh
{command}
clustercore mutants --only commits-entries-of-older-terms
```

This page is what the first of these printed (`--write-docs`): {summary}. *Events* are those of all worlds that were
tried until it was found, *seconds* the time that took on a machine with two cores, one of which it had. Where a
directed test finds it, there are few events, or none that are counted. *Source* is the rule that is broken, and reports
of others who had broken it.
"""
