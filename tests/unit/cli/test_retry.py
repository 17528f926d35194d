"""``clustercore retry``: what is printed is what the policy decides by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from clustercore.cli.commands import root
from clustercore.cli.retry_samples import KINDS
from clustercore_retry import CategoryRetryPolicy


def run(*words: str, code: int = 0) -> str:
    """Run the command, and return all that it prints."""
    done = CliRunner().invoke(root, ["retry", *words])
    assert done.exit_code == code, done.output
    return done.output


def told(*words: str) -> tuple[str, str, int]:
    """Return category, rule and number of retries of an error."""
    found = json.loads(run("explain", *words, "--json"))
    return found["category"], found["rule"], found["max_retries"]


@pytest.mark.slow
def test_table_prints_the_policys_own_tables() -> None:
    """Every category and every rule is there, in order; as JSON they are the same values."""
    table = CategoryRetryPolicy().table()

    printed = json.loads(run("table", "--json"))
    text = run("table")

    assert [row["category"] for row in printed["limits"]] == [row.category.value for row in table.limits]
    assert [row["name"] for row in printed["rules"]] == [row.name for row in table.rules]
    assert all(row.category.value in text for row in table.limits)
    assert "HTTP 410 to 417" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["grpc:UNAVAILABLE"], ("NETWORK_ERROR", "gRPC UNAVAILABLE", 5)),
        (["grpc:RESOURCE_EXHAUSTED"], ("RATE_LIMIT_ERROR", "gRPC RESOURCE_EXHAUSTED", 0)),
        (
            ["grpc:RESOURCE_EXHAUSTED", "--retry-after", "2"],
            ("RATE_LIMIT_ERROR", "gRPC RESOURCE_EXHAUSTED; with a server hint", 5),
        ),
        (["http:503"], ("SERVER_ERROR", "HTTP 500 to 599", 3)),
        (["errno:ECONNRESET"], ("NETWORK_ERROR", "ECONNRESET", 5)),
        (["resolver:EAI_AGAIN"], ("NETWORK_ERROR", "EAI_AGAIN", 5)),
        (["type:trio.BrokenResourceError"], ("NETWORK_ERROR", "trio.BrokenResourceError", 5)),
        (["type:TimeoutError"], ("TIMEOUT_ERROR", "TimeoutError", 3)),
        (["type:clustercore.interfaces.NotLeader"], ("NETWORK_ERROR", "clustercore.NotLeader", 5)),
        (["text:the connection was lost"], ("NETWORK_ERROR", "text: NETWORK_ERROR", 5)),
        (["type:Exception", "--message", "forbidden"], ("AUTH_ERROR", "text: AUTH_ERROR", 0)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_explain_tells_the_rule_that_fires(words: list[str], expected: tuple[str, str, int]) -> None:
    """Each kind of error can be asked about."""
    assert told(*words) == expected


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ["http:503", "--retry-after", "7"],
            ["at most 3, after 7 s, as the server asks", "only a call that is idempotent"],
        ),
        (
            ["errno:ECONNREFUSED"],
            ["at most 5, after at most 0.05 s, doubling up to 5 s", "any call may be tried again"],
        ),
        (["http:401"], ["category: AUTH_ERROR", "retries:  none"]),
        (["type:KeyboardInterrupt"], ["category: none", "it is passed on, and counted nowhere"]),
    ],
    ids=lambda value: value[0],
)
def test_explain_says_in_words_what_happens(words: list[str], lines: list[str]) -> None:
    """How often, how soon, and whether the call must be idempotent."""
    printed = run("explain", *words)

    assert all(line in printed for line in lines)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["spam"], "'spam' is no error; write KIND:VALUE, with a KIND of grpc, http, errno, resolver, type, text"),
        (["grpc:BUSY"], "'BUSY' is no gRPC status; there are OK, CANCELLED"),
        (["http:99"], "'99' is no HTTP status; they are from 100 to 599"),
        (["errno:ESPAM"], "'ESPAM' is no error code of this system"),
        (["resolver:EAI_SPAM"], "'EAI_SPAM' is no code of this system's resolver"),
        (["type:spam.Spam"], "'spam.Spam' cannot be imported"),
        (["type:trio.sleep"], "'trio.sleep' is no exception"),
        (["errno:EPIPE", "--retry-after", "1"], "'errno:EPIPE' cannot say when to come back; only grpc and http can"),
        (["http:500", "--policy", "spam"], "no retry policy is called 'spam'"),
        (["http:500", "--options", "no/such.toml"], "no/such.toml: cannot be read: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_explain_refuses_what_it_cannot_make(words: list[str], complaint: str) -> None:
    """One line that says what is allowed, and the exit code for misuse."""
    assert complaint in run("explain", *words, code=2)


def test_help_lists_every_kind_of_error() -> None:
    """The kinds in the help are the kinds that there are."""
    printed = run("explain", "--help")

    assert all(f"{kind}:" in printed for kind in KINDS)


@pytest.mark.slow
def test_options_file_brings_rules_and_limits(tmp_path: Path) -> None:
    """A file has the policy's options: rules of one's own come before the table, limits replace its rows."""
    path = tmp_path / "retry.toml"
    path.write_text(
        """
        [[rules]]
        name = "the billing service is slow on Mondays"
        category = "RATE_LIMIT_ERROR"
        error_type = "acme:Overloaded"

        [[rules]]
        category = "VALIDATION_ERROR"
        http_status = 501

        [[limits]]
        category = "SERVER_ERROR"
        max_retries = 1
        base_delay_s = 1
        max_delay_s = 2
        jitter = 1
        """
    )

    assert told("http:501", "--options", str(path)) == ("VALIDATION_ERROR", "HTTP 501", 0)
    assert told("http:500", "--options", str(path)) == ("SERVER_ERROR", "HTTP 500 to 599", 1)
    assert "the billing service is slow on Mondays" in run("table", "--options", str(path))
    path.write_text("max_total_retries = -1")
    assert "max_total_retries is -1; it must be at least 0" in run("table", "--options", str(path), code=2)
