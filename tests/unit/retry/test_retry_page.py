"""The page on retries has the tables that the policy goes by."""

from __future__ import annotations

import re

from clustercore_retry import CategoryRetryPolicy
from tests.unit.docs_pages import page
from tests.unit.repository import reads_repository

pytestmark = reads_repository

PAGE = "docs/reference/retry.md"


def rows(section: str) -> list[list[str]]:
    """Return the rows of the table under a heading, without its head."""
    text = page(PAGE).split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_page_has_the_limits_of_every_category() -> None:
    """Category, number of retries and both waits are those of the table in the code."""
    for row, limits in zip(rows("Limits"), CategoryRetryPolicy().table().limits, strict=True):
        assert row[0] == limits.category.value
        if limits.max_retries:
            assert row[1:4] == [
                str(limits.max_retries),
                f"{limits.base_delay_s:g} s",
                f"{limits.max_delay_s:g} s",
            ]
        else:
            assert row[1] == "never"


def test_page_has_every_rule_in_order() -> None:
    """Name, category and whether it is retried are those of the rules in the code, in the order that counts."""
    table = CategoryRetryPolicy().table()
    most = {row.category: row.max_retries for row in table.limits}

    expected = [
        [rule.name, rule.category.value, "yes" if rule.is_retried and most[rule.category] else "no"]
        for rule in table.rules
    ]
    assert [row[:3] for row in rows("Rules")] == expected
