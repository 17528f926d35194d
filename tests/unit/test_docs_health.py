"""The page on health says what the code does."""

from __future__ import annotations

import ast
from enum import StrEnum

import attrs
import pytest

from clustercore import Guard, HealthConfig, HealthEventKind
from clustercore.health.own_score import Sign
from clustercore.interfaces import HealthStatus
from tests.unit.docs_pages import table
from tests.unit.repository import reads_repository

pytestmark = reads_repository

PAGE = "docs/reference/health.md"


def test_health_page_has_every_number() -> None:
    """The page on health has each field of HealthConfig in order, with its default."""
    rows = table(PAGE, "field")

    assert [name.strip("`") for name, *_ in rows] == [field.name for field in attrs.fields(HealthConfig)]
    for name, _, shown, *_ in rows:
        assert getattr(HealthConfig(), name.strip("`")) == ast.literal_eval(shown), name


@pytest.mark.parametrize(
    ("heading", "kinds"),
    [("guard", Guard), ("event", HealthEventKind), ("status", HealthStatus), ("sign", Sign)],
)
def test_health_page_has_every_word(heading: str, kinds: type[StrEnum]) -> None:
    """The page on health has each guard, event, status and sign, in the order of the code."""
    rows = table(PAGE, heading)

    assert [name.strip("`") for name, *_ in rows] == [kind.value for kind in kinds]
