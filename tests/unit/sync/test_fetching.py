"""Sessions between two replicas: what travels, what is remembered, and what happens when one of them lost something."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pytest
import trio

from clustercore.interfaces import LinkClosed, NodeId
from clustercore.sync.checkpoints import Checkpoint, Cursor, incoming_name
from clustercore.sync.comparison import CompareRequest, CompareResponse, FetchRequest, FetchResponse, LeafStamps
from clustercore.sync.digests import LEAVES
from clustercore.sync.messages import OpenRequest, OpenResponse, PullRequest, PullResponse, Resync, ResyncReason
from clustercore.sync.schedule import MAX_BATCH_CHANGES, SyncKind
from clustercore.sync.source import filter_hash
from clustercore.sync.wire import TimedMessage
from clustercore_memory import MemoryRecords
from tests.unit.sync.fleet import MISSION, UAV, Mission, Uav, Wall
from tests.unit.sync.pairs import Replica, open_replica, plain_config


async def copy_of(records: MemoryRecords) -> dict[bytes, bytes]:
    """What a backup of a closed store has."""
    async with records:
        return await records.load()


async def restored(backup: dict[bytes, bytes]) -> MemoryRecords:
    """Records with a backup on them."""
    records = MemoryRecords()
    async with records:
        await records.commit(backup)
    return records


def resyncs(replica: Replica, peer: str) -> dict[str, int]:
    """How often a replica could not go on from where it was, by reason."""
    return dict(replica.statistics[peer].resyncs)


# --- Increments ---


async def test_first_session_is_full_and_the_next_one_fetches_only_the_changed_group() -> None:
    """An edit of one group sends that group, and nothing else of the entity or of others."""
    async with open_replica("a") as a, open_replica("b") as b:
        for number in range(20):
            await a.store.put(UAV, f"u{number}", Uav("idle", number))
        first = await b.fetch_from(a)
        await a.store.update(UAV, "u7", last_heartbeat=99)

        second = await b.fetch_from(a)

        assert first.kind is SyncKind.FULL
        assert (second.kind, second.received, second.applied, second.round_trips) == (SyncKind.INCREMENTAL, 1, 1, 1)
        assert b.store.canonical_bytes() == a.store.canonical_bytes()


async def test_many_edits_of_one_group_travel_once() -> None:
    """Of thirty heartbeats since the last session only the newest is sent."""
    async with open_replica("a") as a, open_replica("b") as b:
        await a.store.put(UAV, "u", Uav("idle"))
        await b.fetch_from(a)
        for beat in range(30):
            await a.store.update(UAV, "u", last_heartbeat=beat)

        result = await b.fetch_from(a)

        assert result.received == 1
        assert b.store.get(UAV, "u") == Uav("idle", 29)


async def test_batches_are_bounded_by_changes_and_by_bytes() -> None:
    """No answer has more than was asked for, but for one change that is larger than that by itself."""
    config = plain_config(max_batch_changes=7, max_batch_bytes=1024)
    async with open_replica("a") as a, open_replica("b", config=config) as b:
        await b.fetch_from(a)
        for number in range(20):
            await a.store.put(MISSION, f"m{number}", Mission("RUNNING", 1, "x" * 90))
        await a.store.put(MISSION, "large", Mission("RUNNING", 1, "y" * 5000))
        deltas: list[PullResponse] = []

        async def look(method: str, request: bytes) -> bytes:
            response = await a.call(method, request)
            if method == "Pull":
                deltas.append(PullResponse.decode(response))
            return response

        await b.fetch_from(a, call=look)

        sizes = [sum(len(change.state.encoded) for change in delta.changes) for delta in deltas]
        assert all(len(delta.changes) <= 7 for delta in deltas)
        assert all(size <= 1024 or len(delta.changes) == 1 for size, delta in zip(sizes, deltas, strict=True))
        assert [delta.has_more for delta in deltas] == [True] * (len(deltas) - 1) + [False]
        assert b.store.canonical_bytes() == a.store.canonical_bytes()


async def test_what_was_learned_from_a_peer_is_not_told_back_to_it() -> None:
    """After b fetched from a, a has nothing to fetch from b."""
    async with open_replica("a") as a, open_replica("b") as b:
        await a.fetch_from(b)
        await b.fetch_from(a)
        await a.store.put(UAV, "u", Uav("idle"))
        await b.fetch_from(a)

        result = await a.fetch_from(b)

        assert result.received == 0


async def test_changes_reach_a_third_replica_by_way_of_the_second() -> None:
    """a and c never speak to each other."""
    async with open_replica("a") as a, open_replica("b") as b, open_replica("c") as c:
        for one, other in ((b, a), (c, b)):
            await one.fetch_from(other)
        await a.store.put(MISSION, "m", Mission("RUNNING", 10))
        await a.store.put(MISSION, "gone", Mission("RUNNING", 10))
        await a.store.delete(MISSION, "gone")

        await b.fetch_from(a)
        await c.fetch_from(b)

        assert c.store.canonical_bytes() == a.store.canonical_bytes()
        assert c.store.get(MISSION, "gone") is None


async def test_lost_answer_is_asked_for_again_and_applied_once() -> None:
    """A session that ends in the middle goes on from its checkpoint; nothing is skipped."""
    config = plain_config(max_batch_changes=2)
    async with open_replica("a") as a, open_replica("b", config=config) as b:
        await b.fetch_from(a)
        for number in range(6):
            await a.store.put(UAV, f"u{number}", Uav("idle"))
        answers = 0

        async def lose_the_third(method: str, request: bytes) -> bytes:
            nonlocal answers
            response = await a.call(method, request)
            answers += 1
            if answers == 3:
                raise LinkClosed("the answer is lost")
            return response

        with pytest.raises(LinkClosed):
            await b.fetch_from(a, call=lose_the_third)
        result = await b.fetch_from(a)

        assert b.store.canonical_bytes() == a.store.canonical_bytes()
        assert result.received + 4 == 6 * 3
        assert b.statistics["a"].outcomes.total() == 6 * 3


async def test_checkpoint_and_changes_are_on_disk_together() -> None:
    """A receiver that starts anew goes on where its data are, and fetches nothing twice."""
    records = MemoryRecords()
    async with open_replica("a") as a:
        async with open_replica("b", records=records) as b:
            await a.store.put(UAV, "u", Uav("idle"))
            await b.fetch_from(a)
        await a.store.update(UAV, "u", last_heartbeat=5)
        async with open_replica("b", records=records) as b:
            result = await b.fetch_from(a)

            assert (result.kind, result.received) == (SyncKind.INCREMENTAL, 1)
            assert b.store.canonical_bytes() == a.store.canonical_bytes()


class WatchedRecords(MemoryRecords):
    """Notes what each commit has in it."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[set[bytes]] = []

    async def commit(self, changes: Mapping[bytes, bytes | None]) -> None:
        await super().commit(changes)
        self.commits.append(set(changes))


async def test_no_commit_has_a_checkpoint_without_the_changes_that_led_to_it() -> None:
    """Nor the other way round: a crash between two commits finds both or neither."""
    records = WatchedRecords()
    config = plain_config(max_batch_changes=3)
    async with open_replica("a") as a, open_replica("b", records=records, config=config) as b:
        await b.fetch_from(a)
        records.commits.clear()
        for number in range(9):
            await a.store.put(UAV, f"u{number}", Uav("idle"))

        await b.fetch_from(a)

        groups = [sum(key.startswith(b"g") for key in commit) for commit in records.commits]
        checkpoints = [sum(key.startswith(b"cin/") for key in commit) for commit in records.commits]
        assert groups == [3] * 9
        assert checkpoints == [1] * 9


# --- The window ---


async def test_entity_that_just_changed_sends_only_key_fields_and_the_rest_later(autojump_clock: object) -> None:
    """The name of a running mission waits until the mission rests; nothing of it is dropped."""
    wall = Wall()
    config = plain_config(window_s=5.0)
    async with open_replica("a", config=config, wall=wall) as a, open_replica("b", wall=wall) as b:
        await b.fetch_from(a)
        await a.store.put(MISSION, "m", Mission("RUNNING", 10, "survey"))

        hot = await b.fetch_from(a)
        seen_hot = b.store.values(MISSION, "m")
        wall.now_ms += 4_000
        await a.store.update(MISSION, "m", progress=20)
        still_hot = await b.fetch_from(a)
        wall.now_ms += 5_000
        rested = await b.fetch_from(a)

        assert set(seen_hot) == {"progress"}
        assert (hot.received, still_hot.received, rested.received) == (1, 1, 1)
        assert b.statistics["a"].kept_back == 1
        assert b.store.get(MISSION, "m") == a.store.get(MISSION, "m")
        assert b.store.canonical_bytes() == a.store.canonical_bytes()


async def test_entity_that_never_rests_sends_all_once_the_limit_has_passed(autojump_clock: object) -> None:
    """A heartbeat each second keeps the rest back for a minute at most."""
    wall = Wall()
    config = plain_config(window_s=5.0)
    async with open_replica("a", config=config, wall=wall) as a, open_replica("b", wall=wall) as b:
        await b.fetch_from(a)
        await a.store.put(MISSION, "m", Mission("RUNNING", 10, "survey"))
        rounds = 0
        while "rest" not in b.store.values(MISSION, "m"):
            await trio.sleep(30)
            wall.now_ms += 30_000
            await a.store.update(MISSION, "m", progress=11 + rounds)
            await b.fetch_from(a)
            rounds += 1

        assert rounds == 2


async def test_clock_that_was_set_back_keeps_nothing_back() -> None:
    """By such a clock the last edit is of a time to come: the entity counts as at rest."""
    wall = Wall()
    config = plain_config(window_s=5.0)
    async with open_replica("a", config=config, wall=wall) as a, open_replica("b", wall=Wall()) as b:
        await b.fetch_from(a)
        await a.store.put(MISSION, "m", Mission("RUNNING", 10, "survey"))
        wall.now_ms -= 3_600_000

        await b.fetch_from(a)

        assert b.store.canonical_bytes() == a.store.canonical_bytes()


async def test_deletion_is_never_kept_back() -> None:
    """A tombstone is of no key field, and yet travels at once."""
    wall = Wall()
    config = plain_config(window_s=5.0)
    async with open_replica("a", config=config, wall=wall) as a, open_replica("b", wall=wall) as b:
        await a.store.put(MISSION, "m", Mission("RUNNING", 10, "survey"))
        await b.fetch_from(a)
        await a.store.delete(MISSION, "m")

        await b.fetch_from(a)

        assert b.store.get(MISSION, "m") is None


# --- Lost stores, gaps ---


async def test_checkpoint_that_survives_its_data_counts_for_nothing() -> None:
    """couchdb#3897: the receiver's store was made anew, and a checkpoint of the old one is in it. Everything comes."""
    name = incoming_name(NodeId("a"), filter_hash(()))
    async with open_replica("a") as a:
        async with open_replica("b") as b:
            await a.store.put(UAV, "u", Uav("idle"))
            await b.fetch_from(a)
            kept = b.store.checkpoint(name)
        async with open_replica("b") as b:
            await b.store.apply((), checkpoints={name: kept})

            result = await b.fetch_from(a)

            assert result.kind is SyncKind.FULL
            assert b.store.canonical_bytes() == a.store.canonical_bytes()


async def test_receiver_of_another_epoch_may_not_go_on_from_a_checkpoint() -> None:
    """Even if its checkpoint looked right: the source remembers whose store acknowledged what."""
    async with open_replica("a") as a:
        async with open_replica("b") as b:
            await a.store.put(UAV, "u", Uav("idle"))
            await b.fetch_from(a)
            await b.fetch_from(a)
        async with open_replica("b") as b:
            forged = a.store.checkpoint("out/" + filter_hash(()) + "/b")
            assert forged is not None
            old = Checkpoint.decode(forged)
            fake = Checkpoint(old.cursor, a.store.epoch, b.store.epoch, old.session_id)
            await b.store.apply((), checkpoints={incoming_name(NodeId("a"), filter_hash(())): fake.encode()})

            await b.fetch_from(a)

            assert resyncs(b, "a") == {"receiver_epoch": 1}
            assert b.store.canonical_bytes() == a.store.canonical_bytes()


async def test_source_that_was_wiped_is_recognised_and_gets_its_data_back() -> None:
    """pouchdb#585: the source's store is made anew; the receiver compares everything, and so does the source."""
    async with open_replica("b") as b:
        async with open_replica("a") as a:
            for number in range(3):
                await a.store.put(UAV, f"u{number}", Uav("idle"))
            await b.fetch_from(a)
        async with open_replica("a") as a:
            await a.store.put(UAV, "new", Uav("flying"))

            await b.fetch_from(a)
            await a.fetch_from(b)

            assert resyncs(b, "a") == {"unknown_session": 1, "epoch": 1}
            assert b.store.get(UAV, "new") == Uav("flying")
            assert a.store.canonical_bytes() == b.store.canonical_bytes()


@pytest.mark.parametrize("edits_after", [0, 5])
async def test_store_that_was_taken_back_is_recognised_by_what_its_peer_knows(
    edits_after: int, autojump_clock: object
) -> None:
    """A backup of the source is put back, and new changes get the numbers of lost ones: nothing is missed by either."""
    records = MemoryRecords()
    async with open_replica("b") as b:
        async with open_replica("a", records=records) as a:
            await a.store.put(UAV, "u", Uav("idle"))
            await b.fetch_from(a)
        backup = await copy_of(records)
        async with open_replica("a", records=records) as a:
            await a.store.put(MISSION, "lost", Mission("RUNNING", 1))
            await b.fetch_from(a)
        wall = Wall(1_700_000_100_000)
        async with open_replica("a", records=await restored(backup), wall=wall) as a:
            for number in range(edits_after):
                await a.store.put(UAV, f"u{number}", Uav("flying"))

            b.wall.now_ms = wall.now_ms
            await b.fetch_from(a)
            await a.fetch_from(b)
            await b.fetch_from(a)

            assert "went_back" in resyncs(b, "a")
            assert a.store.get(MISSION, "lost") == b.store.get(MISSION, "lost") is not None
            assert a.store.canonical_bytes() == b.store.canonical_bytes()


async def test_two_copies_of_a_disk_put_back_in_turn_miss_nothing(autojump_clock: object) -> None:
    """An epoch that is earlier in one copy went on in the other: what the peer knows of it is no old news."""
    records = MemoryRecords()
    async with open_replica("b") as b:
        async with open_replica("a", records=records) as a:
            await a.store.put(UAV, "u", Uav("idle"))
            await b.fetch_from(a)
            await a.fetch_from(b)
        earlier = await copy_of(records)
        async with open_replica("a", records=records) as a:
            await a.store.renew_epoch()
            await a.fetch_from(b)
        later = await copy_of(records)
        async with open_replica("a", records=await restored(earlier), wall=b.wall) as a:
            await a.store.put(MISSION, "late", Mission("RUNNING", 1))
            await b.fetch_from(a)
        async with open_replica("a", records=await restored(later), wall=b.wall) as a:
            await a.fetch_from(b)

            assert a.store.get(MISSION, "late") == b.store.get(MISSION, "late") is not None
            await b.fetch_from(a)
            assert a.store.canonical_bytes() == b.store.canonical_bytes()


async def test_receiver_that_was_taken_back_is_recognised() -> None:
    """It acknowledged more than it holds, so that what it told others is not left out for it."""
    records = MemoryRecords()
    async with open_replica("a") as a:
        async with open_replica("b", records=records) as b:
            await b.fetch_from(a)
        backup = await copy_of(records)
        async with open_replica("b", records=records) as b:
            await a.store.put(UAV, "u", Uav("idle"))
            await b.fetch_from(a)
            await b.fetch_from(a)
        async with open_replica("b", records=await restored(backup)) as b:
            await b.fetch_from(a)

            assert resyncs(b, "a") == {"receiver_went_back": 1}
            assert b.store.canonical_bytes() == a.store.canonical_bytes()


async def test_delta_that_begins_after_what_is_here_is_refused() -> None:
    """It is not applied with a hole before it: the session begins anew, and everything comes."""
    async with open_replica("a") as a, open_replica("b") as b:
        await b.fetch_from(a)
        await a.store.put(UAV, "u", Uav("idle"))
        await a.store.put(UAV, "v", Uav("idle"))
        is_first = True

        async def skip_ahead(method: str, request: bytes) -> bytes:
            nonlocal is_first
            response = await a.call(method, request)
            if method == "Pull" and is_first:
                is_first = False
                delta = PullResponse.decode(response)
                return PullResponse(start=Cursor(3), end=delta.end, changes=delta.changes[3:]).encode()
            return response

        await b.fetch_from(a, call=skip_ahead)

        assert resyncs(b, "a")["gap"] == 1
        assert b.store.canonical_bytes() == a.store.canonical_bytes()


async def test_peer_that_always_refuses_costs_one_session_and_no_more() -> None:
    """The session fails, as a link does, and the next slot tries again."""
    async with open_replica("a") as a, open_replica("b") as b:

        async def refuse(method: str, request: bytes) -> bytes:
            response = await a.call(method, request)
            if method == "Open":
                return response
            return Resync(ResyncReason.UNKNOWN_SESSION).encode()

        with pytest.raises(LinkClosed, match="refused 4 sessions"):
            await b.fetch_from(a, call=refuse)


# --- Everything ---


async def fill(replica: Replica, entities: int) -> None:
    """Write missions."""
    for number in range(entities):
        await replica.store.put(MISSION, f"mission-{number:05}", Mission("RUNNING", number % 100, "survey the coast"))


async def test_equal_stores_cost_one_small_round_trip() -> None:
    """Less than a kibibyte, however much they hold."""
    async with open_replica("a") as a, open_replica("b") as b:
        await fill(a, 300)
        await b.fetch_from(a)

        result = await b.fetch_from(a, SyncKind.FULL)

        assert (result.round_trips, result.received) == (1, 0)
        assert result.bytes_sent + result.bytes_received < 1024


async def test_full_sync_fetches_only_what_differs_and_deletions_too() -> None:
    """An edit, a deletion and a new entity that no increment brought; what only the receiver has stays."""
    async with open_replica("a") as a, open_replica("b") as b:
        await fill(a, 300)
        await b.fetch_from(a)
        await b.store.put(UAV, "mine", Uav("idle"))
        await a.store.update(MISSION, "mission-00007", progress=99)
        await a.store.delete(MISSION, "mission-00011")
        await a.store.put(MISSION, "mission-new", Mission("RUNNING", 0))

        result = await b.fetch_from(a, SyncKind.FULL)

        assert result.applied == 1 + 1 + 2
        assert result.round_trips <= 4
        assert b.store.get(MISSION, "mission-00011") is None
        assert b.store.get(UAV, "mine") == Uav("idle")
        # All of it was to come with the next increment: nothing was missed.
        assert b.repaired == []


async def test_full_sync_in_small_batches_goes_through_every_leaf() -> None:
    """Answers that are cut in the middle of a leaf, and between two, lose nothing and never stand still."""
    config = plain_config(max_batch_changes=3, max_batch_bytes=1024)
    async with open_replica("a") as a, open_replica("b", config=config) as b:
        await fill(a, 200)

        result = await b.fetch_from(a)

        assert result.kind is SyncKind.FULL
        assert b.store.canonical_bytes() == a.store.canonical_bytes()
        assert result.received == 400


@pytest.mark.parametrize("lost", ["Open", "Compare", "Buckets", "Fetch"])
async def test_full_sync_that_was_interrupted_is_made_again(lost: str) -> None:
    """b was taken back and has to compare everything: an increment would leave out what a has from b itself."""
    records = MemoryRecords()
    async with open_replica("a") as a:
        async with open_replica("b", records=records) as b:
            await b.fetch_from(a)
            await a.fetch_from(b)
        backup = await copy_of(records)
        async with open_replica("b", records=records) as b:
            await b.store.put(UAV, "u", Uav("idle"))
            await a.fetch_from(b)
            await a.store.put(MISSION, "m", Mission("RUNNING", 1))
            await b.fetch_from(a)
            await b.fetch_from(a)
        async with open_replica("b", records=await restored(backup)) as b:

            async def lose(method: str, request: bytes) -> bytes:
                response = await a.call(method, request)
                if method == lost:
                    raise LinkClosed("the answer is lost")
                return response

            with pytest.raises(LinkClosed):
                await b.fetch_from(a, call=lose)
            b.restart()
            await b.fetch_from(a)

            assert b.store.get(UAV, "u") == Uav("idle")
            assert b.store.canonical_bytes() == a.store.canonical_bytes()


async def test_writes_during_a_full_sync_are_fetched_by_its_end() -> None:
    """What changes behind the comparison comes with the increment that follows it."""
    async with open_replica("a") as a, open_replica("b") as b:
        await fill(a, 50)

        async def write_meanwhile(method: str, request: bytes) -> bytes:
            response = await a.call(method, request)
            await a.store.put(UAV, f"while-{len(a.asked)}", Uav(method))
            return response

        await b.fetch_from(a, call=write_meanwhile)
        await b.fetch_from(a)

        assert b.store.canonical_bytes() == a.store.canonical_bytes()


async def test_what_an_increment_missed_is_counted_when_a_full_sync_brings_it() -> None:
    """Planted: a checkpoint that is ahead of the data. An event names the peer and the change."""
    async with open_replica("a") as a, open_replica("b") as b:
        await b.fetch_from(a)
        await a.store.put(UAV, "u", Uav("idle"))

        async def leave_out(method: str, request: bytes) -> bytes:
            response = await a.call(method, request)
            if method == "Pull":
                delta = PullResponse.decode(response)
                return PullResponse(start=delta.start, end=delta.end, changes=delta.changes[1:]).encode()
            return response

        await b.fetch_from(a, call=leave_out)
        await b.fetch_from(a, SyncKind.FULL)

        assert b.statistics["a"].repaired_by_full == 1
        assert [(event.peer, len(event.changes)) for event in b.repaired] == [(NodeId("a"), 1)]


async def test_statistics_say_what_became_of_what_came() -> None:
    """Conflicts, duplicates and bytes, as the peer's status shows them."""
    async with open_replica("a") as a, open_replica("b") as b:
        await a.store.put(UAV, "u", Uav("idle"))
        await b.store.put(UAV, "u", Uav("flying"))

        result = await b.fetch_from(a)
        status = b.statistics["a"].status(trio.current_time())

        assert (status.received, status.applied, status.entities) == (3, 3, 1)
        assert status.conflicts >= 1
        assert (status.bytes_sent, status.bytes_received) == (result.bytes_sent, result.bytes_received)
        assert status.sessions == {"full": 1}
        assert status.lag_changes == 0
        assert status.digest_rounds == result.round_trips - 1


async def test_peer_that_tells_nothing_of_its_clock_is_synced_from_all_the_same() -> None:
    """An older version leaves the field out: then nothing is known of its clock; and a newer one tells it each time."""
    async with open_replica("a") as a, open_replica("b", wall=Wall(1_700_000_000_000 - 90_000)) as b:
        await a.store.put(MISSION, "m", Mission("RUNNING", 1))

        async def older(method: str, request: bytes) -> bytes:
            response = await a.call(method, request)
            kinds: dict[str, type[TimedMessage]] = {
                "Open": OpenResponse,
                "Pull": PullResponse,
                "Compare": CompareResponse,
                "Fetch": FetchResponse,
            }
            if method in kinds:
                decoded = kinds[method].decode(response)
                assert decoded.wall_ms == a.wall()
                return attrs.evolve(decoded, wall_ms=0).encode()
            return response

        await b.fetch_from(a, call=older)
        await b.fetch_from(a, call=older)
        assert b.store.held == 2
        assert b.statistics["a"].status(trio.current_time()).clock is None

        await b.fetch_from(a)
        clock = b.statistics["a"].status(trio.current_time()).clock
        assert clock is not None
        assert abs(clock.offset_ms - 90_000) <= clock.error_ms


async def test_peer_is_told_of_a_forgotten_deletion_before_it_is_gone_past() -> None:
    """The word that its entity was deleted is lost on the way: the next increment brings it again, and so the word."""
    async with open_replica("a") as a, open_replica("b") as b, open_replica("c") as c:
        await a.fetch_from(b)
        await c.store.put(UAV, "u", Uav("idle"))
        await a.fetch_from(c)
        await a.store.delete(UAV, "u")
        assert (await a.store.collect_tombstones({}, grace_s=-1)).collected == 1
        await b.fetch_from(c)

        async def lose_pushes(method: str, request: bytes) -> bytes:
            if method == "Push":
                raise LinkClosed("lost")
            return await b.call(method, request)

        with pytest.raises(LinkClosed, match="lost"):
            await a.fetch_from(b, call=lose_pushes)
        a.restart()
        assert b.store.get(UAV, "u") == Uav("idle")

        result = await a.fetch_from(b)

        assert result.kind is SyncKind.INCREMENTAL
        assert a.store.get(UAV, "u") is b.store.get(UAV, "u") is None


@pytest.mark.parametrize("method", ["Pull", "Fetch"])
async def test_answer_is_bounded_by_the_source_as_well(method: str) -> None:
    """A receiver that takes everything at once gets a batch all the same: memory is not the asker's to give."""
    async with open_replica("a") as a:
        for number in range(200):
            await a.store.put(UAV, f"u{number}", Uav("idle", number))
        opened = OpenResponse.decode(await a.call("Open", OpenRequest(node_id=NodeId("b"), epoch="e").encode()))
        salt, most = b"salt", 2**63
        await a.call("Compare", CompareRequest(session_id=opened.session_id, salt=salt, roots=()).encode())
        pull = PullRequest(session_id=opened.session_id, cursor=Cursor(), max_changes=most, max_bytes=most)
        leaves = tuple(LeafStamps(leaf, ()) for leaf in range(LEAVES))
        fetch = FetchRequest(
            session_id=opened.session_id, salt=salt, kind="uav", leaves=leaves, max_changes=most, max_bytes=most
        )

        if method == "Pull":
            pulled = PullResponse.decode(await a.call("Pull", pull.encode()))
            assert (len(pulled.changes), pulled.has_more) == (MAX_BATCH_CHANGES, True)
            assert pulled.reached == Cursor(MAX_BATCH_CHANGES)
        else:
            fetched = FetchResponse.decode(await a.call("Fetch", fetch.encode()))
            assert len(fetched.changes) == MAX_BATCH_CHANGES
            assert 0 < fetched.done < LEAVES


async def test_what_was_refused_for_a_collected_deletion_and_comes_beside_another_is_no_miss(
    autojump_clock: object,
) -> None:
    """Simulation of the sync, seed 793: a deletion waits at a peer for its time; it edits, and deletes by itself."""
    wall, fast = Wall(), Wall()
    async with open_replica("a", wall=fast) as a, open_replica("b", wall=wall) as b:
        await b.store.put(UAV, "u", Uav("idle"))
        await a.fetch_from(b)
        await b.fetch_from(a)
        fast.now_ms += 60_000
        for status in ("busy", "idle", "busy"):
            await a.store.put(UAV, "u", Uav(status))
        await a.store.delete(UAV, "u")
        await b.fetch_from(a)
        assert b.store.held
        assert (await a.store.collect_tombstones({}, grace_s=-1)).collected == 1

        await b.store.put(UAV, "u", Uav("lost"))
        await a.fetch_from(b)
        await b.store.delete(UAV, "u")
        await a.fetch_from(b)
        await a.fetch_from(b, SyncKind.FULL)

        assert a.repaired == []
        wall.now_ms = fast.now_ms
        await b.fetch_from(a, SyncKind.FULL)
        await a.fetch_from(b, SyncKind.FULL)
        assert a.store.get(UAV, "u") is b.store.get(UAV, "u") is None
        assert a.store.canonical_bytes() == b.store.canonical_bytes()
