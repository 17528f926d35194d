"""What only the discovery by a file does: it follows the file, and names the line that is wrong."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import trio

from clustercore.interfaces import ConfigError, DiscoverySnapshot, Member, MemberMetadata, NodeId
from clustercore_static import EnvironmentDiscovery, FileDiscovery
from clustercore_static.file import _read

INTERVAL_S = 0.005


async def until_version(discovery: FileDiscovery, version: int) -> DiscoverySnapshot:
    """Return the snapshot after the one with a version."""
    with trio.fail_after(20):
        return await discovery.changed(version - 1)


async def test_line_is_id_address_and_tags(tmp_path: Path) -> None:
    """Comments and empty lines say nothing; tags that clustercore knows are read as such."""
    path = tmp_path / "members"
    path.write_text("# id address\n\nn2\thost:2 zone=north role=voter note=\n  n1 host:1  \n")

    async with FileDiscovery(path) as discovery:
        snapshot = await discovery.members()

    metadata = MemberMetadata(role="voter", tags={"zone": "north", "note": ""})
    assert snapshot.members == (Member(NodeId("n1"), "host:1"), Member(NodeId("n2"), "host:2", metadata))
    assert snapshot.source == "file"


WRONG = [
    (b"n1 host:1\nn2\n", ":2: 'n2': expected an id and an address"),
    (b"n1 zone=north\n", ":1: 'n1 zone=north': expected an id and an address"),
    (b"n1 host:1\n#\nn1 host:2\n", ":3: node 'n1' is in {path}:1 already"),
    (b"n1 host:1\nn2 host:1\n", ":2: 'host:1' is the address in {path}:1 already; each node needs its own"),
    (b"n1 host:1 zone\n", ":1: 'zone': expected a tag"),
    (b"n1 host:1 =north\n", ":1: '=north': expected a tag"),
    (b"n1 host:1 zone=a zone=b\n", ":1: 'zone=b': the tag 'zone' is given already"),
    (b"n1 host:1\nn\xe9 host:2\n", ":2: is not UTF-8: byte 11 of the file is wrong"),
    (b"x" * (1 << 20) + b"x", ": has more than 1048576 bytes"),
]


@pytest.mark.parametrize(("content", "message"), WRONG, ids=[message[:24] for _, message in WRONG])
async def test_wrong_line_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    """A node does not start with a file that is wrong, and the error says where and why."""
    path = tmp_path / "members"
    path.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        await FileDiscovery(path).__aenter__()

    assert f"{path}{message.format(path=path)}" in str(caught.value)


async def test_file_that_is_not_there_is_an_error_at_the_start(tmp_path: Path) -> None:
    """As is an interval that would never end."""
    with pytest.raises(ConfigError, match="members: cannot be read: No such file"):
        await FileDiscovery(tmp_path / "members").__aenter__()
    with pytest.raises(ConfigError, match="interval_s = 0"):
        FileDiscovery(tmp_path, interval_s=0)


async def test_edit_that_is_wrong_is_refused_until_it_is_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last good content holds, as stale; the log names the line once, and says when it is well again."""
    caplog.set_level(logging.INFO, "clustercore")
    path = tmp_path / "members"
    path.write_text("n1 host:1\n")
    async with FileDiscovery(path, interval_s=INTERVAL_S) as discovery:
        good = await discovery.members()
        path.write_text("n1 host:1\nn2 host:1\n")
        stale = await until_version(discovery, good.version + 1)
        assert (stale.members, stale.is_stale) == (good.members, True)
        await trio.sleep(5 * INTERVAL_S)
        assert caplog.text.count(f"{path}:2") == 1

        path.write_text("n1 host:1\nn2 host:2\n")
        mended = await until_version(discovery, stale.version + 1)

    assert ([member.node_id for member in mended.members], mended.is_stale) == (["n1", "n2"], False)
    assert "discovery file answers again" in caplog.text


async def test_content_counts_once_it_rests(tmp_path: Path) -> None:
    """A file that is written line by line, a line at each look, is taken when it is whole."""
    path = tmp_path / "members"
    path.write_text("n1 host:1\n")
    async with FileDiscovery(path, interval_s=3600) as discovery:
        before = await discovery.members()
        with path.open("w") as stream:
            for number in range(1, 9):
                stream.write(f"n{number} host:{number + 10}\n")
                stream.flush()
                await discovery._look_again()
                assert await discovery.members() == before
        await discovery._look_again()

        assert len((await discovery.members()).members) == 8


async def test_link_that_is_set_anew_is_followed(tmp_path: Path) -> None:
    """Kubernetes changes a mounted file by setting a link in its path to another directory."""
    for name, address in (("one", "host:1"), ("two", "host:2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "members").write_text(f"n1 {address}\n")
    (tmp_path / "data").symlink_to("one")
    async with FileDiscovery(tmp_path / "data" / "members", interval_s=INTERVAL_S) as discovery:
        before = await discovery.members()
        (tmp_path / "next").symlink_to("two")
        os.replace(tmp_path / "next", tmp_path / "data")
        after = await until_version(discovery, before.version + 1)

    assert after.address_of(NodeId("n1")) == "host:2"


async def test_error_of_the_block_leaves_as_it_is(tmp_path: Path) -> None:
    """It has nothing to do with the task that follows the file; nor is it lost when all is cancelled."""
    path = tmp_path / "members"
    path.write_text("n1 host:1\n")

    async def fail(*, is_cancelled: bool) -> None:
        with trio.CancelScope() as scope:
            async with FileDiscovery(path):
                if is_cancelled:
                    scope.cancel()
                raise KeyError("own")

    for is_cancelled in (False, True):
        with pytest.raises(KeyError):
            await fail(is_cancelled=is_cancelled)


def test_file_is_read_only_if_it_was_written_to(tmp_path: Path) -> None:
    """By its time, size and place; within the step of the file system's clock it is read all the same."""
    path = tmp_path / "members"
    path.write_text("n1 host:1\n")
    young = _read(path, None)
    assert young.is_young
    assert _read(path, young) is not young

    os.utime(path, (1000, 1000))
    old = _read(path, young)
    assert not old.is_young
    assert _read(path, old) is old
    path.write_text("n1 host:2\n")
    assert _read(path, old).content == b"n1 host:2\n"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "the environment has no MEMBERS"),
        ("n1=host:1, n2", "MEMBERS, pair 2: 'n2': expected an id and an address"),
        ("=host:1", "MEMBERS, pair 1: '=host:1'"),
        ("n1=", "MEMBERS, pair 1: 'n1='"),
        ("n1=host:1,n1=host:2", "MEMBERS, pair 2: node 'n1' is in MEMBERS, pair 1 already"),
    ],
)
def test_environment_names_what_is_wrong(value: str | None, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is missing, and a pair that is none."""
    monkeypatch.delenv("MEMBERS", raising=False)
    if value is not None:
        monkeypatch.setenv("MEMBERS", value)

    with pytest.raises(ConfigError) as caught:
        EnvironmentDiscovery("MEMBERS")

    assert message in str(caught.value)


async def test_environment_is_read_as_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commas, spaces or lines are between them; the members may stand for the voters, as a table may."""
    monkeypatch.setenv("CLUSTERCORE_MEMBERS", "n1=host:1,n2=host:2\n  n3=[::1]:3 ")
    discovery = EnvironmentDiscovery()

    snapshot = await discovery.members()

    assert [member.address for member in snapshot.members] == ["host:1", "host:2", "[::1]:3"]
    assert snapshot.source == "environment"
    assert discovery.is_fixed
