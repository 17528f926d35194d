"""Plugins are found by entry point, a third party's like a shipped one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clustercore.interfaces import ConfigError, Discovery, PluginError
from clustercore.runtime.plugins import (
    DISCOVERY,
    INTERFACES,
    STORAGE,
    TRANSPORT,
    InstalledPlugin,
    PluginInterface,
    installed_plugins,
    load_plugin,
    make_plugin,
)

GROUP = "clustercore.discoveries"
WHERE = "node.toml: [discovery]"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a distribution with one plugin, for the length of the test."""

    def install(
        distribution: str, entry: str, source: str = "", *, requires: tuple[str, ...] = (), extras: tuple[str, ...] = ()
    ) -> None:
        site = tmp_path / distribution
        info = site / f"{distribution}-2.5.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {distribution}", "Version: 2.5"]
        lines += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {line}" for line in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry}\n")
        (site / f"{distribution}_plugin.py").write_text(source)
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, f"{distribution}_plugin", raising=False)

    return install


GOSSIP = """
from __future__ import annotations
from pathlib import Path
from clustercore.interfaces import Discovery, DiscoverySnapshot, Member

class Gossip(Discovery):
    def __init__(self, seeds: list[str], *, fanout: int = 3, state: Path | None = None) -> None:
        if fanout < 1:
            raise ValueError(f"fanout is {fanout}; it must be at least 1")
        self.given = (seeds, fanout, state)

    async def register(self, member: Member) -> None: ...
    async def deregister(self, node_id: str) -> None: ...
    async def members(self) -> DiscoverySnapshot: raise NotImplementedError
    async def changed(self, since: int) -> DiscoverySnapshot: raise NotImplementedError
"""


def test_third_party_plugin_is_made_from_its_options(install: Install, tmp_path: Path) -> None:
    """Nothing but an entry point and a typed constructor is needed."""
    install("acme", "gossip = acme_plugin:Gossip", GOSSIP)

    plugin = make_plugin(DISCOVERY, "gossip", {"seeds": ["a"], "state": "s"}, WHERE, folder=tmp_path)

    assert isinstance(plugin, Discovery)
    assert vars(plugin)["given"] == (["a"], 3, tmp_path / "s")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "seeds is missing; it must be a list, each item a string"),
        ({"seeds": "a"}, 'seeds = "a" is not allowed; it must be a list, each item a string'),
        (
            {"seeds": [], "fanot": 1},
            "fanot = 1 is not a known key; did you mean 'fanout'? allowed: seeds, fanout, state",
        ),
        ({"seeds": [], "fanout": 0}, "fanout is 0; it must be at least 1"),
    ],
)
def test_third_party_plugin_options_are_checked(install: Install, options: dict[str, object], complaint: str) -> None:
    """A mistake in the options of any plugin is told with its place, key, value and what is allowed."""
    install("acme", "gossip = acme_plugin:Gossip", GOSSIP)

    with pytest.raises(ConfigError) as caught:
        make_plugin(DISCOVERY, "gossip", options, WHERE)

    assert str(caught.value) == f"{WHERE}: {complaint}"


def test_installed_plugins_lists_the_third_partys_beside_the_shipped(install: Install) -> None:
    """The list is by interface, sorted by name, and tells distribution, version and target; nothing is imported."""
    install("acme", "gossip = acme_plugin:Gossip", "raise RuntimeError('imported')")

    found = installed_plugins()

    assert list(found) == [interface.name for interface in INTERFACES]
    assert InstalledPlugin("discovery", "gossip", "acme", "2.5", "acme_plugin:Gossip") in found["discovery"]
    names = ["consul", "dns", "environment", "file", "gossip", "memory", "static"]
    assert [plugin.name for plugin in found["discovery"]] == names


def test_unknown_plugin_lists_the_installed_ones() -> None:
    """A name that is not registered gets a suggestion and all that are."""
    with pytest.raises(PluginError) as caught:
        load_plugin(STORAGE, "sqllite")

    assert str(caught.value) == ("no storage is called 'sqllite'; did you mean 'sqlite'? installed: memory, sqlite")


def test_unknown_plugin_of_an_empty_group_says_so() -> None:
    """Without any plugin of a kind the error names the group in which one would be registered."""
    nothing: PluginInterface[object] = PluginInterface("oracle", "acme.oracles", None)

    with pytest.raises(PluginError, match=r"no oracle is called 'x'; none is registered in 'acme.oracles'"):
        load_plugin(nothing, "x")


def test_unknown_plugin_in_a_file_names_its_table() -> None:
    """In a configuration file the table is part of the error."""
    with pytest.raises(PluginError, match=r"^node.toml: \[discovery\]: no discovery is called 'consool'"):
        make_plugin(DISCOVERY, "consool", {}, WHERE)


@pytest.mark.parametrize(
    ("requires", "remedy"),
    [
        (('zzz-missing>=1; extra == "gossip"', "zzz_missing; extra == 'all'"), "run: pip install acme[gossip]"),
        (('Zzz.Missing>=1; python_version > "3" and extra == "net"',), "run: pip install acme[net]"),
        (("zzz-missing>=1",), "which is not installed"),
        ((), "which is not installed"),
    ],
)
def test_missing_extra_is_named(install: Install, requires: tuple[str, ...], remedy: str) -> None:
    """A plugin whose library is missing says which extra of its own distribution brings it, if one does."""
    install("acme", "gossip = acme_plugin:Gossip", "import zzz_missing.part", requires=requires)

    with pytest.raises(PluginError) as caught:
        load_plugin(DISCOVERY, "gossip")

    assert "it needs the module 'zzz_missing', which is not installed" in str(caught.value)
    assert str(caught.value).endswith(remedy)


def test_missing_extra_of_a_shipped_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without grpclib, asking for the gRPC transport tells the extra."""
    for module in [name for name in sys.modules if name.startswith(("clustercore_grpc", "grpclib"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "grpclib", None)

    with pytest.raises(PluginError, match=r"run: pip install clustercore\[grpc\]$"):
        load_plugin(TRANSPORT, "grpc")


def test_plugin_that_fails_to_import_keeps_its_own_error(install: Install) -> None:
    """Whatever a plugin's module raises is chained to a PluginError that names the plugin."""
    install("acme", "gossip = acme_plugin:Gossip", "1 / 0")

    with pytest.raises(PluginError, match=r"'gossip' \(acme_plugin:Gossip\) cannot be loaded: ZeroDivision") as caught:
        load_plugin(DISCOVERY, "gossip")

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_plugin_whose_target_is_missing_is_refused(install: Install) -> None:
    """An entry point that names nothing is told as such."""
    install("acme", "gossip = acme_plugin:Gosip", GOSSIP)

    with pytest.raises(PluginError, match="has no attribute 'Gosip'"):
        load_plugin(DISCOVERY, "gossip")


@pytest.mark.parametrize("source", ["class Gossip: pass", "Gossip = 3"])
def test_plugin_of_another_interface_is_refused(install: Install, source: str) -> None:
    """What is registered must be a class that derives from the interface."""
    install("acme", "gossip = acme_plugin:Gossip", source)

    with pytest.raises(PluginError, match=r"the discovery 'gossip' is acme_plugin:Gossip, which is no Discovery"):
        load_plugin(DISCOVERY, "gossip")


def test_name_claimed_twice_is_refused(install: Install) -> None:
    """Which of two plugins is meant is not decided by the order of a path."""
    install("acme", "gossip = acme_plugin:Gossip", GOSSIP)
    install("other", "gossip = other_plugin:Gossip", GOSSIP)

    with pytest.raises(PluginError, match=r"more than one distribution has a discovery 'gossip': acme, other"):
        load_plugin(DISCOVERY, "gossip")
