"""What is told of a history that fails: as text, and as a page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from clustercore.testing import (
    MapGet,
    MapInput,
    MapOutput,
    MapPut,
    Model,
    Operation,
    RegisterInput,
    RegisterOutput,
    RegisterRead,
    RegisterWrite,
    assert_linearizable,
    check_history,
    describe_check,
    key_value_model,
    register_model,
    render_check,
)

Map = Operation[MapInput, MapOutput]

STALE: list[Map] = [
    Operation.answered("a", MapPut("k", "1"), None, 1, 2),
    Operation.answered("a", MapPut("k", "2"), None, 3, 4),
    Operation.unknown("b", MapPut("k", "<3>"), 5, note="the leader changed"),
    Operation.answered("b", MapGet("k"), "1", 6, 7),
    Operation.answered("a", MapPut("k", "4"), None, 8, 9),
]


class Page(HTMLParser):
    """The elements of a page that is well-formed."""

    VOID = frozenset({"meta", "rect", "line"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def classes(self, tag: str) -> list[str | None]:
        return [attributes.get("class") for name, attributes in self.tags if name == tag]


def test_text_tells_where_the_history_fails() -> None:
    """The order that got furthest with its states, what could come next, and why it does not."""
    assert describe_check(check_history(key_value_model(), STALE)).splitlines() == [
        "not linearizable: 5 operations on the key-value map",
        "the part 'k' (5 operations, 12 steps) has no order that includes b MapGet(key='k') -> '1' [6 to 7]",
        "  1. a MapPut(key='k', value='1') -> None [1 to 2]; the state is '1'",
        "  2. a MapPut(key='k', value='2') -> None [3 to 4]; the state is '2'",
        (
            "  then? b MapPut(key='k', value='<3>') unknown [5 on] (the leader changed); "
            "its outcome is unknown, and does not help"
        ),
        "  then? b MapGet(key='k') -> '1' [6 to 7]; the answer would be '2'",
    ]


def test_text_of_a_good_history_is_a_line() -> None:
    """There is nothing to explain."""
    assert describe_check(check_history(key_value_model(), STALE[:2])) == (
        "linearizable: 2 operations on the key-value map"
    )


def test_text_is_short_whatever_fails() -> None:
    """A long history with many bad keys and clients is told in a few dozen lines."""
    history: list[Map] = []
    for key in range(10):
        history += [Operation.answered("a", MapPut(f"k{key}", f"{n}"), None, 2 * n, 2 * n + 1) for n in range(50)]
        history += [Operation.answered(f"b{n}", MapGet(f"k{key}"), "0", 200, 201) for n in range(50)]

    text = describe_check(check_history(key_value_model(), history))

    assert "  45 operations, then" in text
    assert "  ... and 30 more" in text
    assert text.endswith("... and 7 more parts")
    assert len(text.splitlines()) < 100


def test_undecided_history_says_what_to_do() -> None:
    """It names the budget, and claims nothing."""
    history: list[Map] = [Operation.answered(f"c{n}", MapPut("k", f"{n}"), None, 0, 100) for n in range(8)]
    check = check_history(key_value_model(), [*history, Operation.answered("r", MapGet("k"), "x", 0, 100)], max_steps=9)

    assert "was given up; raise max_steps" in describe_check(check)
    assert "undecided" in Page(render_check(check)).words


def test_model_without_one_right_answer_can_be_told() -> None:
    """Then there is no answer to compare with."""
    register = register_model()
    model: Model[int | str | None, RegisterInput, RegisterOutput] = Model("register", None, register.step)
    operations: list[Operation[RegisterInput, RegisterOutput]] = [Operation.answered("a", RegisterRead(), 1, 0, 1)]

    assert "the model refuses it, or what follows" in describe_check(check_history(model, operations))


def test_candidate_that_only_leads_nowhere_is_told_apart() -> None:
    """A write that could come next, though nothing fits behind it, was not refused."""
    operations: list[Operation[RegisterInput, RegisterOutput]] = [
        Operation.answered("a", RegisterRead(), 7, 0, 5),
        Operation.answered("b", RegisterWrite(1), None, 1, 6),
    ]

    check = check_history(register_model(), operations)

    assert check.parts[0].stuck == operations[0]
    text = describe_check(check)
    assert "a RegisterRead() -> 7 [0 to 5]; the answer would be 1" in text


def test_page_draws_the_failing_part() -> None:
    """A bar for each operation, in its colour; nothing from elsewhere; text that could be markup is escaped."""
    page = Page(render_check(check_history(key_value_model(), STALE)))

    assert sorted(filter(None, page.classes("rect"))) == ["later", "next unknown", "placed", "placed", "stuck"]
    assert "<3>" in page.words
    assert "the answer would be '2'" in page.words
    assert {"script", "link", "img"}.isdisjoint(name for name, _ in page.tags)
    assert "prefers-color-scheme: dark" in page.words


def test_page_shows_bad_parts_only() -> None:
    """A good key is counted and not drawn; a good history has no drawing at all."""
    good: list[Map] = [Operation.answered("a", MapPut("good", "1"), None, 1, 2)]

    mixed = Page(render_check(check_history(key_value_model(), [*STALE, *good])))
    clean = Page(render_check(check_history(key_value_model(), good)))

    assert len(mixed.classes("svg")) == 1
    assert "2 parts, 1 of them shown" in mixed.words
    assert clean.classes("svg") == []


def test_page_of_a_long_history_draws_its_end() -> None:
    """What was placed long before is counted, and its last state given."""
    long: list[Map] = [Operation.answered("a", MapPut("k", f"{n}"), None, 2 * n, 2 * n + 1) for n in range(500)]
    long.append(Operation.answered("b", MapGet("k"), "0", 2000, 2001))
    long += [Operation.answered("c", MapGet("k"), "499", 3000 + 2 * n, 3001 + 2 * n) for n in range(100)]

    page = Page(render_check(check_history(key_value_model(), long)))

    assert len(page.classes("rect")) < 60
    assert "484before that'483'" in page.words


def test_operations_of_one_client_that_overlap_get_lanes_of_their_own() -> None:
    """A client may do several things at once; no bar hides another."""
    operations: list[Map] = [
        Operation.answered("a", MapPut("k", "1"), None, 1, 4),
        Operation.answered("a", MapPut("k", "2"), None, 2, 3),
        Operation.answered("a", MapGet("k"), "0", 5, 6),
    ]

    page = Page(render_check(check_history(key_value_model(), operations)))

    tops = [attributes["y"] for name, attributes in page.tags if name == "rect"]
    assert len(set(tops)) == 2


def test_assertion_tells_and_draws(tmp_path: Path) -> None:
    """It says nothing of a good history; a bad one fails with the text, and the page is where it says."""
    assert_linearizable(key_value_model(), STALE[:2], page=tmp_path / "good.html")
    assert not (tmp_path / "good.html").exists()

    with pytest.raises(AssertionError, match="the answer would be '2'"):
        assert_linearizable(key_value_model(), STALE)
    with pytest.raises(AssertionError, match=r"Drawn in .*bad\.html"):
        assert_linearizable(key_value_model(), STALE, page=tmp_path / "bad.html")
    assert (tmp_path / "bad.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_assertion_does_not_pass_what_is_undecided() -> None:
    """A history that could not be checked is not a good one."""
    with pytest.raises(AssertionError, match="raise max_steps"):
        assert_linearizable(key_value_model(), STALE, max_steps=1)
