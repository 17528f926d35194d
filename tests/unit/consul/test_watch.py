"""Blocking queries by the documented rules, and answers that are not believed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from clustercore_consul import client as client_module
from tests.fake_consul import FakeConsul, Reply, instance
from tests.unit.consul.opened import HEALTH, A, B, opened

# Not a real one; what must never be seen.
TOKEN = "6f3a1c9e-do-not-show-me"

# --- Asking ---


async def test_waits_behind_the_index_over_one_connection(clock: MockClock) -> None:
    """The first question is answered at once; each further one waits behind the last index, over one connection."""
    async with opened(clock, "a") as world:
        await world.waits()
        index = world.fake.index
        world.fake.put(instance("b", "host:2"))
        await world.fake.wait_asked(HEALTH, 3)
        members = (await world.discovery.members()).members

    assert members == (A, B)
    assert world.queries()[:2] == [{"stale": ""}, {"stale": "", "index": str(index), "wait": "60000ms"}]
    assert world.queries()[2] == {"stale": "", "index": str(index + 1), "wait": "60000ms"}
    assert {heard.connection for heard in world.fake.asked(HEALTH)} == {1}


@pytest.mark.parametrize(
    ("options", "query"),
    [
        ({"consistency": "default"}, {}),
        ({"consistency": "consistent"}, {"consistent": ""}),
        ({"datacenter": "north"}, {"stale": "", "dc": "north"}),
    ],
)
async def test_asks_as_it_is_told_to(clock: MockClock, options: dict[str, Any], query: dict[str, str]) -> None:
    """Mode and datacenter are those of the options."""
    async with opened(clock, "a", **options) as world:
        await world.waits()

    assert world.queries()[0] == query


async def test_return_is_not_a_change(clock: MockClock) -> None:
    """An answer that says the same wakes nobody; it is asked again behind the same index."""
    async with opened(clock, "a") as world:
        version = await world.waits()
        world.fake.wake()
        await world.fake.wait_asked(HEALTH, 3)
        snapshot = await world.discovery.members()

    assert snapshot.version == version
    assert world.queries()[1] == world.queries()[2]


async def test_index_that_goes_backwards_begins_anew(clock: MockClock) -> None:
    """What such an answer says is not believed before the leader says it."""
    async with opened(clock, "a", "b") as world:
        version = await world.waits()
        world.fake.script(Reply(body=[], headers={"X-Consul-Index": "3"}), HEALTH, query={"stale": ""})
        # The question that is waiting is answered as it was asked; the next one is answered by the script.
        world.fake.wake()
        await world.fake.wait_asked(HEALTH, 5)
        snapshot = await world.discovery.members()

    assert [sorted(query) for query in world.queries()[:5]] == [
        ["stale"],
        ["index", "stale", "wait"],
        ["index", "stale", "wait"],
        ["consistent"],
        ["index", "stale", "wait"],
    ]
    assert snapshot.version == version


async def test_index_of_the_leader_that_went_back_is_not_waited_behind(clock: MockClock) -> None:
    """Where the leader, too, has a lower index, the next question waits for nothing: there may be news at any index."""
    async with opened(clock, "a") as world:
        await world.waits()
        world.fake.index = 4
        world.fake.wake()
        await world.fake.wait_asked(HEALTH, 5)

    assert [sorted(query) for query in world.queries()[1:5]] == [
        ["index", "stale", "wait"],
        ["consistent"],
        ["stale"],
        ["index", "stale", "wait"],
    ]
    assert world.queries()[4]["index"] == "4"


async def test_index_below_one_counts_as_one(clock: MockClock) -> None:
    """Behind 0 nothing is waited for: an index of 0, or none, would make a client ask as fast as it can."""
    for header in ("0", "", "-5", "many"):
        async with opened(clock) as world:
            world.fake.fault = Reply(body=HEALTHY.health(), headers={"X-Consul-Index": header})
            await world.waits()

        assert world.queries()[1]["index"] == "1"


async def test_rate_of_asking_is_limited(clock: MockClock) -> None:
    """Where something changes all the time, ten questions are asked in a row, and then one a second."""
    async with opened(clock, "a") as world:
        world.fake.is_restless = True
        await world.fake.wait_asked(HEALTH, 10)
        for count in (10, 11, 12):
            await world.settle()
            assert len(world.queries()) == count
            await world.jump(1.0)


async def test_query_may_take_as_long_as_consul_may_wait(clock: MockClock) -> None:
    """A question is given up after its wait, a sixteenth of it, and the time for an answer; not before."""
    async with opened(clock, "a", wait_s=160, timeout_s=4) as world:
        await world.waits()
        world.fake.freeze()
        await world.jump(160 + 10 + 4 - 0.01)
        assert not (await world.discovery.members()).is_stale
        await world.jump(0.02)
        assert (await world.until(is_stale=True)).members == (A,)

        world.fake.thaw()
        await world.jump(0.6)
        assert (await world.until(is_stale=False)).members == (A,)


# --- Answers that are no answers ---

HEALTHY = FakeConsul()
HEALTHY.put(instance("a", "host:1"))
HEALTHY.close()
SERVICE = {"ID": "x", "Port": 1, "Address": "h", "Meta": {"clustercore-node-id": "a", "clustercore-hex-z": "1"}}
FAULTS = {
    "no leader": Reply(500, raw=b"No cluster leader"),
    "too many requests": Reply(429, raw=b"Your IP is issuing too many concurrent connections"),
    "cut off": Reply(body=HEALTHY.health(), cut_after=40),
    "no JSON": Reply(raw=b"<html>"),
    "nothing": Reply(raw=b"null"),
    "no list": Reply(body={"a": 1}),
    "no services": Reply(body=[{"Node": 1}]),
    "no hexadecimal": Reply(body=[{"Node": {"Node": "n", "Address": "x"}, "Service": SERVICE}]),
    "redirect": Reply(302, headers={"Location": "http://127.0.0.1:1/"}),
    "nobody": Reply(body=[]),
    "no leader known": Reply(body=[], headers={"X-Consul-KnownLeader": "false"}),
    "leader long ago": Reply(body=[], headers={"X-Consul-LastContact": "10001"}),
    "filtered": Reply(body=HEALTHY.health(), headers={"X-Consul-Results-Filtered-By-ACLs": "true"}),
    "denied": Reply(403, raw=b"Permission denied"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_answer_that_is_none_keeps_the_last_members(
    clock: MockClock, fault: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    """What was told last holds, as stale, and the reason is logged once; then the question is asked without index."""
    async with opened(clock, "a", "b") as world:
        await world.waits()
        world.fake.fault = fault
        world.fake.wake()
        stale = await world.until(is_stale=True)
        asked = len(world.queries())
        await world.jump(0.6)
        assert "index" not in world.queries()[asked]
        world.fake.fault = None
        await world.jump(1.2)
        fresh = await world.until(is_stale=False)

    assert stale.members == fresh.members == (A, B)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


async def test_pauses_after_failures_grow(clock: MockClock) -> None:
    """From half a second up to half a minute, and each is spread by a fifth."""
    async with opened(clock, "a") as world:
        await world.waits()
        world.fake.fault = Reply(500)
        world.fake.wake()
        await world.until(is_stale=True)
        for pause_s in (0.5, 1, 2, 4, 8, 16, 30, 30):
            asked = len(world.queries())
            await world.jump(0.8 * pause_s - 0.01)
            assert len(world.queries()) == asked
            await world.jump(0.4 * pause_s + 0.02)
            assert len(world.queries()) == asked + 1


@pytest.mark.parametrize(("said", "pause_s"), [("7", 7), ("86400", 60), ("Wed, 21 Oct 2026 07:28:00 GMT", 0)])
async def test_consul_may_ask_to_be_left_alone(clock: MockClock, said: str, pause_s: float) -> None:
    """A Retry-After in seconds is heeded, up to a minute; a date, which Consul does not send, is not."""
    async with opened(clock, "a") as world:
        await world.waits()
        world.fake.fault = Reply(429, headers={"Retry-After": said})
        world.fake.wake()
        await world.until(is_stale=True)
        asked = len(world.queries())
        await world.jump(max(0, pause_s - 0.01))
        assert len(world.queries()) == asked
        await world.jump(0.61)
        assert len(world.queries()) == asked + 1


async def test_answer_without_end_is_refused(clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer larger than any list of nodes is no list of nodes, and is not kept in memory."""
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 4000)
    async with opened(clock, "a") as world:
        await world.waits()
        world.fake.fault = Reply(raw=b"[" + b" " * 4000 + b"]")
        world.fake.wake()

        assert (await world.until(is_stale=True)).members == (A,)


# --- Answers that need another word ---


async def test_nobody_is_confirmed_by_the_leader(clock: MockClock) -> None:
    """A server that names nobody, as at an election, is not believed where the leader names somebody."""
    async with opened(clock, "a") as world:
        version = await world.waits()
        world.fake.script(Reply(body=[]), HEALTH, query={"stale": ""})
        world.fake.wake()
        await world.fake.wait_asked(HEALTH, 5)
        snapshot = await world.discovery.members()

    assert world.queries()[3] == {"consistent": ""}
    assert snapshot.version == version


@pytest.mark.parametrize("trouble", [{"is_led": False}, {"lag_ms": 60_000}])
async def test_server_without_leader_tells_where_nothing_is_known(clock: MockClock, trouble: dict[str, Any]) -> None:
    """A node that starts while Consul has no leader gets the last that its servers know, as stale."""
    async with opened(clock, "a") as world:
        for name, value in trouble.items():
            setattr(world.fake, name, value)

        assert (await world.until(is_stale=True)).members == (A,)


async def test_consul_that_lost_its_data_takes_nobody_away(clock: MockClock) -> None:
    """Those who are missing then hold, as stale, until each of them had the time to register again."""
    async with opened(clock, "a", "b", ttl_s=30) as world:
        await world.waits()
        world.fake.services.clear()
        world.fake.index = 3
        world.fake.put(instance("a", "host:1"))
        stale = await world.until(is_stale=True)
        assert stale.members == (A, B)

        for _ in range(29):
            await world.jump(1.0)
        assert await world.discovery.members() == stale

        for _ in range(31):
            await world.jump(1.0)
        assert (await world.until(is_stale=False)).members == (A,)


async def test_consul_that_lost_its_data_is_believed_when_all_are_back(clock: MockClock) -> None:
    """Once everybody has registered again, nothing is missing, and nothing is stale."""
    async with opened(clock, "a", "b", ttl_s=30) as world:
        await world.waits()
        world.fake.services.clear()
        world.fake.index = 3
        world.fake.wake()
        await world.until(is_stale=True)
        world.fake.put(instance("a", "host:1"))
        world.fake.put(instance("b", "host:22"))
        await world.jump(2.0)
        fresh = await world.until(is_stale=False)

    assert {member.node_id: member.address for member in fresh.members} == {"a": "host:1", "b": "host:22"}


async def test_critical_member_is_not_in_service(clock: MockClock) -> None:
    """It is told still, for its address has not changed; when it is well again it is in service again."""
    async with opened(clock, "a", "b") as world:
        await world.waits()
        seen = []
        for status in ("critical", "warning", "strange", "passing"):
            since = (await world.discovery.members()).version
            world.fake.set_status("clustercore-b", status)
            snapshot = await world.discovery.changed(since)
            seen.append((snapshot.in_service, snapshot.members, world.discovery.statuses[B.node_id]))

    assert seen == [
        ((A,), (A, B), "critical"),
        ((A, B), (A, B), "warning"),
        ((A,), (A, B), "strange"),
        ((A, B), (A, B), "passing"),
    ]


async def test_others_under_the_same_name_are_left_out(clock: MockClock) -> None:
    """A service that is called the same and is no node of clustercore is nobody."""
    async with opened(clock, "a") as world:
        world.fake.put({"ID": "web", "Name": "clustercore", "Address": "host", "Port": 80})
        await world.waits()

        assert (await world.discovery.members()).members == (A,)


# --- The token ---


async def test_token_is_read_again_when_it_is_refused(
    clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is read on a 403 and the question asked again at once; it is asked with pauses if that does not help."""
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}-1\n")
    async with opened(clock, "a", token_file=path) as world:
        world.fake.tokens = {f"{TOKEN}-1"}
        await world.waits()
        path.write_text(f"{TOKEN}-2\n")
        world.fake.tokens = {f"{TOKEN}-2"}
        world.fake.wake()
        await world.fake.wait_asked(HEALTH, 4)
        assert not (await world.discovery.members()).is_stale

        world.fake.tokens = {f"{TOKEN}-4"}
        world.fake.wake()
        for text in (None, "", "no token at all", f"{TOKEN}-3"):
            path.unlink() if text is None else path.write_text(text)
            await world.jump(30.0)
            assert (await world.until(is_stale=True)).members == (A,)
        path.write_text(f"{TOKEN}-4")
        await world.jump(30.0)
        await world.until(is_stale=False)
        shown = repr(world.discovery) + repr(vars(world.discovery)) + repr(world.discovery._options)

    assert [heard for heard in world.fake.heard if TOKEN in str(heard.query) + heard.path] == []
    assert [heard.headers["x-consul-token"][-1] for heard in world.fake.heard][:4] == ["1", "1", "1", "2"]
    assert TOKEN not in caplog.text
    assert TOKEN not in shown


async def test_failures_show_no_token(clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong, no line of any log at any level has the token, nor has anything that a line carries."""
    # `clustercore serve`, which another test may have called in this process, makes the library quiet.
    for name in ("", "httpx2"):
        caplog.set_level(logging.DEBUG, logger=name)
    for fault in FAULTS.values():
        async with opened(clock, "a", token=TOKEN) as world:
            await world.waits()
            world.fake.fault = fault
            world.fake.wake()
            await world.until(is_stale=True)
            assert {heard.headers["x-consul-token"] for heard in world.fake.heard} == {TOKEN}

    assert {record.name.partition(".")[0] for record in caplog.records} >= {"clustercore", "httpx2", "httpcore2"}
    assert [record for record in caplog.records if TOKEN in record.getMessage() + repr(record.__dict__)] == []
