"""The file of ``clustercore serve``: every mistake is one line with file, key, value and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clustercore import Founding, NodeConfig, RaftConfig
from clustercore.cli.config import NodeOverrides, read_client_transport, read_node_plan
from clustercore.interfaces import ConfigError, PluginError
from clustercore_tcp import TcpTransport

GOOD = """
node_id = "n1"
voters = ["n1", "n2"]

[transport]
plugin = "grpc"
listen = "127.0.0.1:0"
timeout = 3

[storage]
plugin = "sqlite"
path = "data/n1.db"

[discovery]
plugin = "static"
members = { n1 = "127.0.0.1:7101", n2 = "127.0.0.1:7102" }

[machine]
plugin = "kv"

[raft]
election_timeout_s = 2
max_append_entries = 64

[node]
max_pending_proposals = 10
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes GOOD with replacements, and returns where."""

    def write(*replacements: tuple[str, str]) -> Path:
        text = GOOD
        for before, after in replacements:
            assert before in text
            text = text.replace(before, after)
        path = tmp_path / "node.toml"
        path.write_text(text)
        return path

    return write


def refusal(path: Path) -> str:
    """Return the error without the file's folder, which must begin it."""
    with pytest.raises((ConfigError, PluginError)) as caught:
        read_node_plan(path).make_node()
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path.parent}/")


def test_good_file_becomes_a_plan(write: Write, tmp_path: Path) -> None:
    """Tables become plugins and configurations; relative paths are relative to the file."""
    plan = read_node_plan(write())

    assert plan.node_id == "n1"
    assert plan.voters == ("n1", "n2")
    assert plan.config == NodeConfig(
        raft=RaftConfig(election_timeout_s=2.0, max_append_entries=64), max_pending_proposals=10
    )
    assert type(plan.transport).__name__ == "GrpcTransport"
    assert str(tmp_path / "data/n1.db") in map(str, vars(plan.storage).values())
    plan.make_node()


def test_optional_parts_have_defaults(write: Write) -> None:
    """Without voters, [raft] and [node] the discovery and the defaults decide."""
    path = write(('voters = ["n1", "n2"]', ""))
    path.write_text(path.read_text().partition("[raft]")[0])

    plan = read_node_plan(path)

    assert plan.voters is None
    assert plan.config == NodeConfig()


@pytest.mark.parametrize(
    ("text", "join"),
    [("voters = []", False), ("join = true", True), ('join = ["127.0.0.1:7103"]', ("127.0.0.1:7103",))],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_node_may_wait_to_be_added_or_ask_to_be(write: Write, text: str, join: object) -> None:
    """Without voters of its own it forms no cluster. ``--join`` adds to what the file says."""
    plan = read_node_plan(write(('voters = ["n1", "n2"]', text)))

    assert plan.join == join
    plan.make_node()
    joining = plan.joining(("there:1",))
    assert joining.join == ("there:1", *(join if isinstance(join, tuple) else ()))
    joining.make_node()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('advertise = "foo"', "advertise = 'foo': 'foo' is no address of a node: expected host:port"),
        ('advertise = "n1.example:0"', "advertise = 'n1.example:0': .*port 0 is for listening"),
        ('join = ["n1.example:7101", "nonsense"]', "join = .*: 'nonsense' is no address of a node"),
    ],
)
def test_address_that_is_none_of_the_transport_is_named(write: Write, line: str, told: str) -> None:
    """Found out before the node starts, and not by those who would look for it there."""
    replaced = (
        ('voters = ["n1", "n2"]', line) if line.startswith("join") else ('node_id = "n1"', f'node_id = "n1"\n{line}')
    )

    with pytest.raises(ConfigError, match=told):
        read_node_plan(write(replaced)).make_node()


def test_node_that_is_to_form_a_cluster_does_not_join_one(write: Write) -> None:
    """The file and the command line contradict each other."""
    with pytest.raises(ConfigError, match="voters is given, and so is --join"):
        read_node_plan(write()).joining(())


@pytest.mark.parametrize(
    ("replacement", "error"),
    [
        (('node_id = "n1"', ""), "node.toml: node_id is missing; it must be a string"),
        (('node_id = "n1"', "node_id = 1"), "node.toml: node_id = 1 is not allowed; it must be a string"),
        (
            ('node_id = "n1"', 'node_id = ""'),
            'node.toml: node_id = "" is not allowed; it must be the name of this node, such as "n1"',
        ),
        (('node_id = "n1"', 'node_id = "n9"'), 'node.toml: node_id = "n9" is not allowed; voters names n1, n2'),
        (
            ("voters =", "votters ="),
            'node.toml: votters = ["n1", "n2"] is not a known key; did you mean \'voters\'? allowed: node_id, ',
        ),
        (
            ('["n1", "n2"]', '"n1"'),
            'node.toml: voters = "n1" is not allowed; it must be a list, each item a string',
        ),
        (('["n1", "n2"]', '["n1", 2]'), "node.toml: voters[1] = 2 is not allowed; it must be a string"),
        (
            ('["n1", "n2"]', '["n1", "n1"]'),
            'node.toml: voters = ["n1", "n1"] is not allowed; it must be a list of node ids, each once',
        ),
        (
            ('voters = ["n1", "n2"]', 'voters = ["n1"]\njoin = true'),
            "node.toml: voters and join are given both; a node that is to be added forms no cluster",
        ),
        (
            ('voters = ["n1", "n2"]', "join = 1"),
            "node.toml: join = 1 is not allowed; it must be true or false or a list",
        ),
        (
            ('[machine]\nplugin = "kv"', ""),
            "node.toml: machine is missing; it must be a table",
        ),
        (
            ('[machine]\nplugin = "kv"', "[machine]"),
            "node.toml: [machine]: plugin is missing; it must be the name of a state machine plugin",
        ),
        (
            ('plugin = "kv"', "plugin = 3"),
            "node.toml: [machine]: plugin = 3 is not allowed; it must be a string",
        ),
        (
            ('plugin = "kv"', 'plugin = "kvv"'),
            "node.toml: [machine]: no state machine is called 'kvv'; did you mean 'kv'? ",
        ),
        (
            ('plugin = "kv"', 'plugin = "kv"\nsize = 3'),
            "node.toml: [machine]: size = 3 is not a known key; allowed: ",
        ),
        (
            ("timeout = 3", 'timeout = "3"'),
            'node.toml: [transport]: timeout = "3" is not allowed; it must be a number',
        ),
        (("timeout = 3", "timeout = 0"), "node.toml: [transport]: timeout = "),
        (
            ("listen =", "lisen ="),
            "node.toml: [transport]: lisen = \"127.0.0.1:0\" is not a known key; did you mean 'listen'? allowed: ",
        ),
        (("path =", "#"), "node.toml: [storage]: path is missing; it must be a path or a string"),
        (
            ('n2 = "127.0.0.1:7102"', "n2 = 7102"),
            "node.toml: [discovery]: members.n2 = 7102 is not allowed; it must be a string",
        ),
        (
            ("election_timeout_s = 2", "election_timeout_s = 0.1"),
            "node.toml: [raft]: election_timeout_s is 0.1; it must be at least twice heartbeat_interval_s",
        ),
        (
            ("election_timeout_s", "election_timeout"),
            "node.toml: [raft]: election_timeout = 2 is not a known key; did you mean 'election_timeout_s'? allowed: ",
        ),
        (
            ("max_pending_proposals = 10", "max_pending_proposals = 0"),
            "node.toml: [node]: max_pending_proposals is 0; it must be at least 1",
        ),
        (("max_pending_proposals = 10", "raft = {}"), "node.toml: [node]: raft = {} is not a known key; allowed: "),
        (("[node]", "[node"), "node.toml: is not TOML: "),
    ],
)
def test_mistake_is_named(write: Write, replacement: tuple[str, str], error: str) -> None:
    """Each mistake is told by file, table, key and value, with what is allowed."""
    assert refusal(write(replacement)).startswith(error)


def test_syntax_error_names_the_line(write: Write) -> None:
    """TOML that cannot be read is told with its line."""
    assert "(at line 2, column" in refusal(write(('node_id = "n1"', "node_id = n1")))


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """No file, a folder, and bytes that are no text are told as such."""
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'node_id = "\xfc"')

    assert refusal(tmp_path / "none.toml") == "none.toml: cannot be read: No such file or directory"
    assert refusal(tmp_path / ".").endswith("cannot be read: Is a directory")
    assert refusal(latin) == "latin.toml: is not TOML: it must be UTF-8, and byte 11 is not"


def test_client_transport_is_that_of_the_file_and_listens_elsewhere(tmp_path: Path) -> None:
    """A client has the node's secrets, and not its place; a file needs nothing but that table."""
    path = tmp_path / "client.toml"
    path.write_text('[transport]\nplugin = "tcp"\nlisten = "127.0.0.1:7101"\ntoken = "secret"\n')

    transport = read_client_transport(path)

    assert isinstance(transport, TcpTransport)
    assert (transport._options.port, transport._options.token) == (0, b"secret")


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "transport is missing"), ("transport = 1", "transport is missing"), ("[transport]\nport = 1\n", "plugin")],
)
def test_client_transport_of_a_wrong_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    """The error names the file and what is wrong in it."""
    path = tmp_path / "client.toml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=rf"client\.toml.*{said}"):
        read_client_transport(path)


# Without voters: nobody names them.
UNNAMED = ('voters = ["n1", "n2"]\n', "")


def test_founding_has_a_table_of_its_own(write: Write) -> None:
    """It says how many voters are expected, and who founds."""
    plan = read_node_plan(write(UNNAMED, ("[machine]", '[founding]\nexpect = 3\ncluster = "shop"\n[machine]')))

    assert plan.founding == Founding(3, cluster="shop")
    plan.make_node()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("expect = 0", "node.toml: [founding]: expect = 0 is not allowed"),
        ("", "node.toml: [founding]: expect is missing"),
        ("expect = 3\nfounders = []", "founders"),
        ("expect = 1", "node.toml: founder is not given, and with expect = 1 it may be number 0 or number 1"),
    ],
)
def test_founding_that_is_wrong_is_one_line(table: str, message: str, write: Write) -> None:
    """It names the file, and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        read_node_plan(write(UNNAMED, ("[machine]", f"[founding]\n{table}\n[machine]"))).make_node()

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_founding_excludes_voters_and_joining(write: Write) -> None:
    """In the file, and by the command line."""
    founding = ("[machine]", "[founding]\nexpect = 3\n[machine]")
    with pytest.raises(ConfigError, match="founding is given, and so is voters or join"):
        read_node_plan(write(founding))
    with pytest.raises(ConfigError, match="a cluster is to be founded, and --join is given"):
        read_node_plan(write(UNNAMED, founding)).joining(())


def test_command_line_comes_in_place_of_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods have one file, and say themselves who they are; a discovery that is another one has no options there."""
    monkeypatch.setenv("CLUSTERCORE_MEMBERS", "n7=host:1")
    path = write(UNNAMED, ("[machine]", '[founding]\nexpect = 5\nfounder = "n2"\n[machine]'))

    plan = read_node_plan(path, NodeOverrides("n7", "n7.example:7101", "environment", 3))

    assert (plan.node_id, plan.advertise) == ("n7", "n7.example:7101")
    assert plan.founding == Founding(3, "n2")
    assert type(plan.discovery).__name__ == "EnvironmentDiscovery"
    assert type(read_node_plan(path, NodeOverrides(discovery="static")).discovery).__name__ == "StaticDiscovery"
    assert read_node_plan(path, NodeOverrides(founder="n3")).founding == Founding(5, "n3")


def test_what_is_no_table_is_left_for_the_file_to_be_refused(write: Write) -> None:
    """The command line mends no file that is wrong."""
    path = write(UNNAMED, ('node_id = "n1"', 'node_id = "n1"\nfounding = 5'))

    with pytest.raises(ConfigError, match="founding = 5 is not allowed"):
        read_node_plan(path, NodeOverrides(expect=3))
