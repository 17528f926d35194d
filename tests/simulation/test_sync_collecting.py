"""Deletions that the sync service forgets by itself beside real nodes: when, and above all when not."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from clustercore.interfaces import NodeId
from clustercore.sync import EntityStore, SyncConfig, SyncService
from clustercore.sync.checkpoints import outgoing_name
from clustercore.sync.messages import OpenRequest
from clustercore.sync.source import Source, filter_hash
from tests.simulation.sync_members import Member, are_equal, open_cluster
from tests.unit.sync.fleet import MISSION, UAV, Mission, Uav

pytestmark = pytest.mark.slow

CONFIG = SyncConfig(grace_s=100, collect_interval_s=50, window_s=0)
# Long enough for a deletion to be acknowledged by all, to be fetched from all after that, and to be looked at.
ALL_PASSED_S = 100 + 3 * 36 + 60
A, B, C = map(NodeId, "abc")


async def write_and_delete(members: dict[str, Member]) -> None:
    """A mission that all members had, and one of them deletes; and another that stays."""
    await trio.sleep(1)
    await members["a"].store.put(MISSION, "stays", Mission("PLANNED", 0))
    await members["a"].store.put(MISSION, "gone", Mission("PLANNED", 0))
    await trio.sleep(40)
    assert members["c"].store.get(MISSION, "gone") is not None
    await members["a"].store.delete(MISSION, "gone")


def holds(store: EntityStore) -> set[str]:
    """The ids of which anything is held."""
    return {change.entity_id for change in store.states()}


async def test_deletion_is_forgotten_everywhere_once_it_is_old_and_known_to_all(autojump_clock: MockClock) -> None:
    """Not before; nobody brings it back, and full syncs have nothing to repair."""
    async with open_cluster(config=CONFIG) as members:
        await write_and_delete(members)
        await trio.sleep(90)
        assert all(holds(member.store) == {"stays", "gone"} for member in members.values())

        await trio.sleep(ALL_PASSED_S - 90)

        assert all(holds(member.store) == {"stays"} for member in members.values())
        assert [member.service.collection.collected for member in members.values()] == [1, 1, 1]
        assert [member.service.collection.held_back_by for member in members.values()] == [{}, {}, {}]
        await trio.sleep(1000)
        assert all(holds(member.store) == {"stays"} for member in members.values())
        assert are_equal(members)
        assert all(member.service.repaired_by_full == 0 for member in members.values())
        assert not [event for member in members.values() for event in member.events]


async def test_member_that_cannot_be_reached_holds_collection_back_until_it_is_removed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one whose address nobody knows, and which no session was ever had with: it may have the entity."""
    async with open_cluster(config=CONFIG) as members:
        await write_and_delete(members)
        handle = members["a"].node.members
        await handle.add_learner("d")
        assert "d" not in members["a"].service.status()

        await trio.sleep(ALL_PASSED_S)

        for member in members.values():
            assert holds(member.store) == {"stays", "gone"}
            assert member.service.collection.held_back_by == {"d": 1}
            assert member.service.collection.obstacle == ""
        # Said once, and not at every look.
        assert len([record for record in caplog.records if "Remove whoever does not come back" in record.message]) == 3
        await handle.remove("d")
        await trio.sleep(60)
        assert all(holds(member.store) == {"stays"} for member in members.values())


async def test_nothing_is_forgotten_while_no_leader_says_who_the_members_are(autojump_clock: MockClock) -> None:
    """Whoever is cut off does not know who was added meanwhile."""
    async with open_cluster(config=CONFIG) as members:
        await write_and_delete(members)
        await trio.sleep(80)
        for name in "bc":
            members[name].stop()

        await trio.sleep(ALL_PASSED_S)

        collection = members["a"].service.collection
        assert holds(members["a"].store) == {"stays", "gone"}
        assert collection.collected == 0
        assert "could not be asked" in collection.obstacle


async def test_removed_node_forgets_nothing_more_and_its_checkpoints_are_dropped(autojump_clock: MockClock) -> None:
    """It is waited for no more, and does not collect by what it knew of the members."""
    async with open_cluster(config=CONFIG) as members:
        await write_and_delete(members)
        a, c = members["a"], members["c"]
        assert a.store.checkpoint(outgoing_name(C, filter_hash(()))) is not None

        await a.node.members.remove("c")
        await trio.sleep(ALL_PASSED_S)

        assert holds(a.store) == holds(members["b"].store) == {"stays"}
        assert {name for name in a.store.checkpoints() if name.endswith("/c")} == set()
        assert {name for name in a.store.checkpoints() if name.endswith("/b")} != set()
        assert (await c.service.collect_tombstones()).obstacle.startswith("this node is no member")
        assert holds(c.store) == {"stays", "gone"}


async def test_who_is_no_member_is_answered_and_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    """Else ever new names would fill the disk."""
    async with open_cluster(config=CONFIG) as members:
        await write_and_delete(members)
        source = members["a"].source

        for number in range(10):
            opened = await source.open(OpenRequest(node_id=NodeId(f"stranger{number}"), epoch="e"))
            assert opened.session_id

        assert not [name for name in members["a"].store.checkpoints() if "stranger" in name]


def silence_of(patch: pytest.MonkeyPatch, name: str) -> list[bool]:
    """Return what makes a member answer no pull: while the first of the list is true, which it is not yet."""
    pull, is_silent = Source.pull, [False]

    async def be_silent(self: Source, request: object) -> object:
        if is_silent[0] and self._store.node_id == name:
            await trio.sleep_forever()
        return await pull(self, request)  # type: ignore[arg-type]  # as it came

    patch.setattr(Source, "pull", be_silent)
    return is_silent


async def edit_without_being_heard(members: dict[str, Member], is_silent: list[bool]) -> None:
    """c makes edits that outlive a deletion it does not know of, fetches that, and only much later is fetched from."""
    await trio.sleep(1)
    await members["a"].store.put(UAV, "u", Uav("idle", 7, "m1"))
    await trio.sleep(80)
    is_silent[0] = True
    for number in range(3):
        await members["c"].store.update(UAV, "u", status=f"busy {number}")
    await members["a"].store.delete(UAV, "u")
    await trio.sleep(ALL_PASSED_S)
    assert members["a"].service.acknowledged([C])[C] == members["a"].store.seq


async def test_what_a_member_did_before_it_heard_of_a_deletion_is_waited_for(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """c has acknowledged the deletion, and an edit of before, which outlives it, is on c alone: all keeps together."""
    is_silent = silence_of(monkeypatch, "c")
    config = SyncConfig(grace_s=100, collect_interval_s=50, window_s=0, full_interval_s=1e9)
    async with open_cluster(config=config) as members:
        await edit_without_being_heard(members, is_silent)
        assert members["a"].service.collection.held_back_by == {C: 1}
        is_silent[0] = False
        await trio.sleep(ALL_PASSED_S)

        assert [member.store.get(UAV, "u") for member in members.values()] == [Uav("busy 2", 7, "m1")] * 3
        assert are_equal(members)
        assert [member.store.revivals for member in members.values()] == [0, 0, 0]


async def test_what_comes_back_after_all_is_made_whole_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with a collection that only asks who has the deletion: a and b must take it back, and compare."""

    def believe(self: SyncService, peer: NodeId) -> int:
        return self.acknowledged([peer])[peer]

    monkeypatch.setattr(SyncService, "_passed", believe)
    is_silent = silence_of(monkeypatch, "c")
    config = SyncConfig(grace_s=100, collect_interval_s=50, window_s=0, full_interval_s=1e9)
    async with open_cluster(config=config) as members:
        await edit_without_being_heard(members, is_silent)
        assert members["a"].service.collection.collected == 1
        is_silent[0] = False
        await trio.sleep(ALL_PASSED_S)

        assert [members[name].store.revivals for name in "ab"] == [1, 1]
        assert [member.store.get(UAV, "u") for member in members.values()] == [Uav("busy 2", 7, "m1")] * 3
        assert are_equal(members)
        assert all(member.service.repaired_by_full == 0 for member in members.values())


async def test_store_that_was_lost_after_it_acknowledged_is_waited_for_again(autojump_clock: MockClock) -> None:
    """The epoch says that it is another store; a session of its own must come first."""
    async with open_cluster(config=CONFIG) as members:
        await write_and_delete(members)
        await trio.sleep(80)
        await members["a"].store.renew_epoch()

        assert members["a"].service.acknowledged([B, C]) == {B: 0, C: 0}
        status = await members["a"].service.collect_tombstones()

        assert status.collected == 0
        await trio.sleep(ALL_PASSED_S)
        assert members["a"].service.collection.collected == 1
