"""The documentation says what the code does: its programs run, its commands parse, its tables are compared."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sqlite3
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import attrs
import click
import pytest
from click.testing import CliRunner

from clustercore import Node, NodeConfig, RaftConfig
from clustercore.cli.commands import root
from clustercore.cli.config import read_node_plan
from clustercore.interfaces import (
    Entry,
    EntryKind,
    HardState,
    LogIndex,
    NodeId,
    Term,
    decode_entry,
    encode_configuration,
    errors,
)
from clustercore.raft import effects
from clustercore.raft.core import RaftCore
from clustercore_consul import ConsulDiscovery
from clustercore_sqlite import files, records
from clustercore_sqlite.errors import ADVICE
from tests.snapshots import snapshot
from tests.unit.docs_pages import PAGES, ROOT, Block, blocks, commands, page, prose, table
from tests.unit.repository import reads_repository

pytestmark = reads_repository

# Far beyond what any program takes: it only ends one that hangs.
LIMIT_S = 60
# Runs a program. Warnings are no failure: where a leader is isolated, it says when it steps down for that. Errors are.
QUIETLY = """
import logging, runpy, sys
logging.lastResort.setLevel(logging.ERROR)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


# --- Programs, files, commands, links --------------------------------------------------------------------------------


def programs() -> list[Block]:
    """Return every Python block of the documentation."""
    return [block for path in PAGES for block in blocks(path, "python")]


@pytest.mark.slow
@pytest.mark.parametrize("block", programs(), ids=str)
def test_docs_program_runs(block: Block, tmp_path: Path) -> None:
    """Each block of Python is a program that ends well and silently; it may import the files its page has shown."""
    for shown in blocks(block.page, "python"):
        if shown.file_name:
            (tmp_path / shown.file_name).write_text(shown.text, encoding="utf-8")
    program = tmp_path / (block.file_name or "program.py")
    program.write_text(block.text, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", QUIETLY, str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_readme_begins_with_the_counter_example() -> None:
    """README's first program is docs/examples/counter.py, to the letter."""
    first = blocks(ROOT / "README.md", "python")[0]

    assert first.text == page("docs/examples/counter.py")


@pytest.mark.parametrize("block", [block for path in PAGES for block in blocks(path, "toml")], ids=str)
def test_docs_configuration_loads(block: Block, tmp_path: Path) -> None:
    """Each block of TOML is a node's whole configuration, unless it is named as another file."""
    path = tmp_path / (block.file_name or "node.toml")
    path.write_text(block.text, encoding="utf-8")

    if block.file_name:
        assert tomllib.loads(block.text)
    else:
        assert read_node_plan(path).make_node().node_id


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docs_commands_exist(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `make` target shown exists, and each `clustercore` command line is one that the command accepts."""
    for command in _leaves(root):
        monkeypatch.setattr(command, "callback", lambda **_: None)
    for words in commands(path):
        if words[0] == "make":
            # -n says what it would do; a target that is not there is an error.
            subprocess.run(["make", "--silent", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif os.path.basename(words[0]) == "clustercore":
            parsed = CliRunner().invoke(root, _without_redirections(words[1:]))
            assert parsed.exit_code == 0, f"{' '.join(words)}: {parsed.output}"


def _leaves(command: click.Command) -> Iterator[click.Command]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _leaves(inner)
    else:
        yield command


def _without_redirections(words: list[str]) -> list[str]:
    """Return the words up to the shell's own: a pipe, a redirection, a command after this one."""
    end = next((number for number, word in enumerate(words) if re.match(r"[|&;<>]|2>", word)), len(words))
    return words[:end]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docs_links_lead_somewhere(path: Path) -> None:
    """Each relative link leads to a file of the repository, and its fragment to a heading of that file."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if "://" in target:
            continue
        name, _, fragment = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), f"{target} leads nowhere"
        if fragment:
            assert fragment in _anchors(linked), f"{linked.name} has no heading for #{fragment}"


def _anchors(path: Path) -> set[str]:
    """Return the fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docs_files_named_are_there(path: Path) -> None:
    """Each path into the code that a page names in code quotes is a file or folder of the repository."""
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`((?:clustercore|plugins|protos|tests|docs|benchmarks|newsfragments)/[\w./-]*)`", text)
    # The divergence page leaves out the package's name.
    named += [f"clustercore/{name}" for name in re.findall(r"`((?:raft|runtime|interfaces|cli)/[\w./]*)`", text)]

    assert [name for name in named if not (ROOT / name).exists()] == []


def test_divergence_page_names_what_is_in_the_modules() -> None:
    """Each name in parentheses behind a module on the page of divergences is in that module."""
    cited = re.findall(r"`((?:raft|runtime|interfaces)/\w+\.py)`\s+\(([^)]*)\)", page("docs/explanation/divergence.md"))

    assert len(cited) > 10
    for module, names in cited:
        source = page(f"clustercore/{module}")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^ *((?:async )?def |class |)({name})\b", source, re.MULTILINE), (
                f"{name} is not in {module}"
            )


# --- Calls, errors, effects, configuration, bounds -------------------------------------------------------------------


@pytest.mark.parametrize("parameter", list(inspect.signature(Node.propose).parameters)[2:])
def test_embed_page_tells_of_every_parameter_of_propose(parameter: str) -> None:
    """The page on embedding names each option of ``Node.propose``, so it cannot deny one."""
    assert re.search(rf"`{parameter}=[^`]*`", page("docs/how-to/embed.md"))


def test_errors_page_has_every_error_and_its_bases() -> None:
    """The table of errors names exactly the classes of clustercore.interfaces.errors, each with its bases."""
    documented = {row[0]: re.findall(r"\w+", row[1]) for row in table("docs/reference/errors.md", "error")}

    actual = {name: [base.__name__ for base in getattr(errors, name).__bases__] for name in errors.__all__}
    assert documented == actual


def test_advice_on_a_corrupt_log_leads_to_its_heading() -> None:
    """What an operator is told to read is a heading of the page on errors."""
    heading, name = re.findall(r'"(.+)" in (\S+)', ADVICE)[0]

    assert f"\n## {heading}\n" in page(name)


def test_effects_page_has_every_effect_and_field() -> None:
    """The table of effects names exactly the effects of clustercore.raft, each with its fields in order."""
    documented = {row[0]: re.findall(r"\w+", row[1]) for row in table("docs/reference/effects.md", "effect")}

    names = [name for name in effects.__all__ if name not in ("Effect", "Effects")]
    assert documented == {name: [field.name for field in attrs.fields(getattr(effects, name))] for name in names}


def test_effects_page_has_every_input_and_parameter() -> None:
    """The table of inputs names exactly the public methods of RaftCore, each with its parameters in order."""
    documented = {row[0]: re.findall(r"\w+", row[1]) for row in table("docs/reference/effects.md", "input")}

    methods = {name: value for name, value in vars(RaftCore).items() if inspect.isfunction(value) and name[0] != "_"}
    assert documented == {name: list(inspect.signature(method).parameters)[1:] for name, method in methods.items()}


@pytest.mark.parametrize(("config_class", "place"), [(RaftConfig, 0), (NodeConfig, 1)])
def test_configuration_page_has_every_field(config_class: type, place: int) -> None:
    """The page has each field of the class in order, with the default, and the unit that its name ends in."""
    section = page("docs/reference/configuration.md").split(f"\n## {config_class.__name__}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w*) ?\| ([^|]+) \|", section, re.MULTILINE)

    assert [name for name, _, _ in rows] == [field.name for field in attrs.fields(config_class)]
    for name, unit, shown in rows:
        default = getattr(config_class(), name)
        assert default == (RaftConfig() if shown == "`RaftConfig()`" else ast.literal_eval(shown)), name
        assert name.endswith("_s") == (unit == "seconds"), name
        assert name.endswith("_bytes") == (unit == "bytes"), name


def test_consul_options_are_in_the_reference() -> None:
    """The table of docs/reference/consul.md has each option of the plugin, in order, with its default."""
    section = page("docs/reference/consul.md").split("\n## Options\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]+) \|", section, re.MULTILINE)
    parameters = inspect.signature(ConsulDiscovery).parameters
    shown = {name: default.strip("`") for name, default in rows}
    unset = {"token": "none", "tls_authority": "the system's", "datacenter": "the agent's", "checks": "ttl"}

    def show(name: str, default: object) -> str:
        if name in unset:
            return unset[name]
        if isinstance(default, bool):
            return str(default).lower()
        if isinstance(default, float):
            return f"{default:g}"
        return str(default) if default else "none"

    assert list(shown) == list(parameters)
    assert shown == {name: show(name, one.default) for name, one in parameters.items()}


def test_how_it_works_states_the_bounds_of_the_code() -> None:
    """Each bound in the table of queues is the value of the constant named beside it."""
    for what, bounds, constants, _ in table("docs/explanation/how-it-works.md", "what waits"):
        numbers = [
            int(number) * (1024 * 1024 if unit == "MiB" else 1) for number, unit in re.findall(r"(\d+) (\w+)", bounds)
        ]
        assert numbers == [_value_of(name) for name in re.findall(r"[\w.]+", constants)], what


def _value_of(name: str) -> int:
    owner, _, attribute = name.rpartition(".")
    configs = {"NodeConfig": NodeConfig(), "RaftConfig": RaftConfig()}
    value: int = getattr(configs.get(owner) or import_module(owner), attribute)
    return value


# --- The wire --------------------------------------------------------------------------------------------------------

RAFT_PROTO = re.sub(r"//.*", "", page("protos/clustercore/v1/raft.proto"))


def _numbered(row: list[str]) -> list[tuple[int, str]]:
    """Return the (number, name) pairs of a table's second column, which has nothing else in it."""
    pairs = [(int(number), name) for number, name in re.findall(r"(\d+) `(\w+)`", row[1])]
    assert row[1] == ", ".join(f"{number} `{name}`" for number, name in pairs)
    return pairs


@pytest.mark.parametrize("kind", ["message", "enum"])
def test_wire_page_has_every_field_of_the_schema(kind: str) -> None:
    """The tables name exactly the messages and enums of raft.proto, each with its numbers and names."""
    documented = {row[0]: _numbered(row) for row in table("docs/reference/wire-and-disk.md", kind)}

    actual = {
        name: sorted((int(number), field) for field, number in re.findall(r"(\w+) = (\d+);", body))
        for name, body in re.findall(rf"^{kind} (\w+) {{(.*?)^}}", RAFT_PROTO, re.MULTILINE | re.DOTALL)
    }
    assert documented == actual


def test_wire_page_has_every_rpc() -> None:
    """The table of RPCs is the service of raft.proto."""
    documented = [
        [cell.replace("`", "").replace("stream of", "stream") for cell in row]
        for row in table("docs/reference/wire-and-disk.md", "RPC of `clustercore.v1.Raft`")
    ]

    actual = re.findall(r"rpc (\w+)\(([\w ]+)\) returns \(([\w ]+)\);", RAFT_PROTO)
    assert documented == [list(rpc) for rpc in actual]


def test_wire_messages_carry_the_fields_of_the_classes() -> None:
    """Each message of raft.proto that has a class of its name in the interfaces has that class's fields, in order."""
    interfaces = import_module("clustercore.interfaces")
    compared = 0
    for name, pairs in ((row[0], _numbered(row)) for row in table("docs/reference/wire-and-disk.md", "message")):
        # On the wire the members, a status and what is known of a snapshot are flat. What entries of sessions hold is
        # compared where they are encoded.
        is_flat = name in ("Envelope", "StatusResponse", "MembersResponse", "InstallSnapshotRequest")
        if is_flat or not hasattr(interfaces, name):
            continue
        fields = [
            field.name for field in attrs.fields(getattr(interfaces, name)) if field.init and field.name != "encoded"
        ]
        if name == "Configuration":
            # What is empty most of the time stands last in the class, and in the order of its making in the schema.
            fields.sort(key=["cluster_id", "servers", "old_voters", "index"].index)
        assert fields == [field for _, field in pairs]
        compared += 1
    assert compared > 10


def test_wire_page_encodes_the_entry_as_the_code_does() -> None:
    """The bytes on the page are those of the entry it names, and say the same when read."""
    (example,) = blocks(ROOT / "docs/reference/wire-and-disk.md", "text")
    entry = Entry.create(LogIndex(5), Term(3), EntryKind.COMMAND, b"hi")

    assert bytes.fromhex(example.text) == entry.encoded
    assert decode_entry(bytes.fromhex(example.text)) == entry


def test_wire_page_describes_each_byte_of_an_entry() -> None:
    """The rows of the table, filled in for one entry, give its encoding; an entry is its command and 22 or 23 bytes."""
    index, term, command = 0x0102030405, 7, b"x" * 127
    filled = {"index, little-endian": index.to_bytes(8, "little"), "term, little-endian": term.to_bytes(8, "little")}
    filled |= {"`01` to `05`": b"\x02", "varint": b"\x7f", "": command}
    rows = table("docs/reference/wire-and-disk.md", "bytes")
    encoded = [filled[row[1]] if row[1] in filled else bytes.fromhex(row[1]) for row in rows]

    assert b"".join(encoded) == Entry.create(LogIndex(index), Term(term), EntryKind.COMMAND, command).encoded
    assert [len(part) for part, row in zip(encoded, rows, strict=True) if row[0] in ("1", "8")] == [
        int(row[0]) for row in rows if row[0] in ("1", "8")
    ]
    for length, overhead in ((0, 22), (127, 22), (128, 23)):
        assert len(Entry.create(LogIndex(1), Term(1), EntryKind.COMMAND, b"x" * length).encoded) == length + overhead


# --- The disk --------------------------------------------------------------------------------------------------------


def _columns(schema: str) -> dict[str, list[tuple[object, ...]]]:
    """Return the columns of each table that a script makes, as SQLite understands it."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(schema)
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master ORDER BY name")]
        return {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in names}
    finally:
        connection.close()


def test_disk_page_has_the_schema_of_the_storage() -> None:
    """The SQL on the page makes the tables that the storage makes."""
    (schema,) = blocks(ROOT / "docs/reference/wire-and-disk.md", "sql")

    assert _columns(schema.text) == _columns(records.SCHEMA)


def test_disk_page_has_the_ids_of_the_file(tmp_path: Path) -> None:
    """A new file has the application id and the version that the page names."""
    path = tmp_path / "n1.db"
    files.create(path, files.STORAGE_FORMAT)
    header = path.read_bytes()[:100]
    application_id, version = int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big")

    assert f"Application id `{application_id:#010X}`".replace("0X", "0x") in page("docs/reference/wire-and-disk.md")
    assert f"user version {version} |" in page("docs/reference/wire-and-disk.md")
    assert version == files.FORMAT_VERSION


def test_disk_page_describes_the_checksums() -> None:
    """Each row's checksum is a CRC-32 of what the page says, in that order."""
    entry = Entry.create(LogIndex(5), Term(3), EntryKind.COMMAND, b"hi")

    assert records.entry_row(entry)[-1] == zlib.crc32(entry.encoded)
    assert records.hard_state_row(HardState(Term(3)))[-1] == zlib.crc32((3).to_bytes(8, "little"))
    assert records.hard_state_row(HardState(Term(3), NodeId("n1")))[-1] == zlib.crc32(
        (3).to_bytes(8, "little") + b"\x01" + b"n1"
    )
    assert records.hard_state_row(HardState(Term(3), NodeId("n1"), is_founder=True))[-1] == zlib.crc32(
        (3).to_bytes(8, "little") + b"\x02" + b"\x01" + b"n1"
    )
    assert records.chunk_row(7, 40, b"state")[-1] == zlib.crc32(
        (7).to_bytes(8, "little") + (40).to_bytes(8, "little") + b"state"
    )
    metadata = snapshot(5, 3, name="name").metadata
    members = encode_configuration(metadata.configuration)
    summed = b"".join(number.to_bytes(8, "little") for number in (5, 3, 7, 45, 99, len(members), 4)) + members + b"name"
    stored = records.StoredSnapshot(metadata, 7, 45, 99)
    assert records.snapshot_row(stored)[-2:] == (zlib.crc32(summed), 0)
    begins = attrs.evolve(stored, log_from=6)
    assert records.snapshot_row(begins)[-2:] == (zlib.crc32(summed + (6).to_bytes(8, "little")), 6)
