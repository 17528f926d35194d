"""How commands end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
import trio
from click.testing import CliRunner

import clustercore.cli
from clustercore.cli.commands import root
from clustercore.cli.exits import Exit, Failure, Interrupted, attempt, code_of, run
from clustercore.interfaces import (
    ClusterError,
    ConfigError,
    InvalidCommand,
    OutcomeUnknown,
    PeerTimeout,
    PluginError,
    StorageFull,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageFull("full"), 1),
        (PeerTimeout("late"), 1),
        (ConfigError("wrong"), 2),
        (PluginError("absent"), 2),
        (InvalidCommand("too long"), 2),
        (OutcomeUnknown("lost"), 4),
        (Interrupted(signal.SIGINT), 130),
        (Interrupted(signal.SIGTERM), 143),
    ],
)
def test_error_has_its_exit_code(error: ClusterError | Interrupted, code: int) -> None:
    """A script can tell what failed, what was refused and what is not known; signals are as shells count them."""
    assert code_of(error) == code


def test_foreseen_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An error also leaves out of nurseries as one line on standard error, without a traceback."""

    async def fail() -> None:
        async with trio.open_nursery() as outer, trio.open_nursery():
            outer.cancel_scope.shield = True
            raise StorageFull("no space\nis left")

    with pytest.raises(SystemExit) as caught:
        run(fail)

    assert caught.value.code == Exit.FAILED
    assert capsys.readouterr().err == "clustercore: no space is left\n"


def test_result_is_returned() -> None:
    """A command that succeeds gets its function's result."""

    async def answer(number: int) -> int:
        await trio.lowlevel.checkpoint()
        return number + 1

    assert attempt(answer, 1) == 2


def test_error_that_is_not_foreseen_keeps_its_traceback() -> None:
    """A bug is not told in one line."""

    async def fail() -> None:
        async with trio.open_nursery():
            raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        run(fail)


def test_keyboard_interrupt_counts_as_its_signal() -> None:
    """Ctrl-C ends a command that does not handle it with 130, as shells expect."""

    async def fail() -> None:
        async with trio.open_nursery():
            raise KeyboardInterrupt

    outcome = attempt(fail)

    assert isinstance(outcome, Failure)
    assert code_of(outcome.error) == 130


def test_missing_extra_is_a_hint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without click the command says in one line what to install."""
    for module in [name for name in sys.modules if name.startswith("clustercore.cli.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "click", None)

    with pytest.raises(SystemExit) as caught:
        clustercore.cli.main()

    assert caught.value.code == Exit.MISUSED
    assert capsys.readouterr().err == "clustercore: click is not installed; run: pip install clustercore[cli]\n"


def test_other_missing_module_is_no_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the extra's own modules are explained by it."""

    def fail(name: str) -> None:
        raise ModuleNotFoundError("no", name="statistics")

    monkeypatch.setattr(clustercore.cli, "import_module", fail)

    with pytest.raises(ModuleNotFoundError):
        clustercore.cli.main()


@pytest.mark.parametrize("command", root.list_commands(click.Context(root)))
def test_command_has_help(command: str) -> None:
    """Each command tells what it does."""
    result = CliRunner().invoke(root, [command, "--help"])

    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5


def test_command_is_imported_when_it_is_run() -> None:
    """Who reads a key does not wait for what it takes to fuzz."""
    program = "import sys; from clustercore.cli.commands import root; root.get_command(None, 'kv'); print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    loaded = done.stdout.split()
    assert "clustercore.cli.kv" in loaded
    assert not [name for name in loaded if name.startswith(("clustercore.testing", "clustercore.sync"))]


def test_plugins_lists_what_is_installed() -> None:
    """The table and the JSON name the shipped plugins, by interface, and the client."""
    table = CliRunner().invoke(root, ["plugins"])
    as_json = CliRunner().invoke(root, ["plugins", "--json"])

    assert "clustercore_sqlite:SqliteStorage" in table.output
    found = json.loads(as_json.output)
    assert list(found) == [
        "transport",
        "storage",
        "discovery",
        "state machine",
        "retry policy",
        "conflict resolver",
        "client",
    ]
    assert {"grpc", "memory"} <= {plugin["name"] for plugin in found["transport"]}
    assert found["client"][0]["target"] == "clustercore_kv:KeyValueClient"


def test_serve_refuses_a_wrong_file_in_one_line(tmp_path: Path) -> None:
    """A configuration error ends in exit code 2 and one line that names the file."""
    path = tmp_path / "node.toml"
    path.write_text("node_id = 3")

    result = CliRunner().invoke(root, ["serve", "--config", str(path)])

    assert result.exit_code == Exit.MISUSED
    assert result.stderr == f"clustercore: {path}: transport is missing; it must be a table\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["kv", "cas", "k", "v"],
        ["kv", "cas", "k", "v", "--expect", "a", "--expect-absent"],
        ["kv", "put", "k", "v", "--timeout", "0"],
        ["kv", "scan", "--limit", "0"],
        ["demo", "--writes", "0"],
        ["demo", "--clients", "0"],
        ["serve"],
    ],
)
def test_wrong_usage_is_refused(arguments: list[str]) -> None:
    """What cannot be meant is refused before anything starts."""
    result = CliRunner().invoke(root, arguments)

    assert result.exit_code == Exit.MISUSED
    assert "Usage: " in result.stderr


@pytest.mark.parametrize("command", [["status"], ["kv", "get", "k"], ["demo"]])
def test_unknown_transport_lists_the_installed_ones(command: list[str]) -> None:
    """``--transport`` is looked up like any plugin."""
    result = CliRunner().invoke(root, [*command, "--transport", "pigeon"])

    assert result.exit_code == Exit.MISUSED
    assert "--transport pigeon: no transport is called 'pigeon'; installed: grpc, http, memory, tcp" in result.stderr
