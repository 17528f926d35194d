"""The client of single nodes: what it asks, what it is answered, what it tries again, and what it counts."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from clustercore import Node
from clustercore.interfaces import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    ConfigError,
    Configuration,
    Entry,
    EntryKind,
    Hello,
    HelloResponse,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    Link,
    LinkClosed,
    LogIndex,
    Message,
    NodeId,
    PeerTimeout,
    PeerUnreachable,
    RequestVoteRequest,
    RequestVoteResponse,
    Role,
    ServiceError,
    SnapshotId,
    SnapshotMetadata,
    Superseded,
    Term,
    TransportError,
)
from clustercore_grpc import GrpcTransport, RaftClient, RaftClientConfig
from clustercore_memory import MemoryStorage
from clustercore_retry import CategoryRetryPolicy
from clustercore_static import StaticDiscovery
from tests.simulation.cluster import Journal

LIMIT_S = 30
N1 = NodeId("n1")
METADATA = SnapshotMetadata(LogIndex(5), Term(2), Configuration.of("abc"), SnapshotId("s"))
ENTRY = Entry.create(LogIndex(6), Term(3), EntryKind.COMMAND, b"x")


def answer_to(message: Message) -> Message | None:
    """Answer as a node might."""
    match message:
        case Hello():
            return HelloResponse(N1)
        case RequestVoteRequest(term=term):
            return RequestVoteResponse(term, term > 1)
        case AppendEntriesRequest(term=term, prev_log_index=index):
            return AppendEntriesResponse(term, False, index)
        case InstallSnapshotRequest(term=term, data=data):
            return InstallSnapshotResponse(term, LogIndex(0), SnapshotId("s"), len(data))
    return None


class Peer:
    """A server that notes what it is asked, and answers or hangs up as it is told."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        # How many of the next requests it hangs up on, and how many it lets wait for ever.
        self.hangs_up = 0
        self.ignores = 0
        self.refusal = ""

    async def accept(self, link: Link) -> None:
        """Answer one link."""
        with suppress(LinkClosed):
            while True:
                message = await link.receive()
                self.received.append(message)
                if isinstance(message, Hello):
                    await link.send(HelloResponse(N1, refusal=self.refusal))
                elif self.hangs_up:
                    self.hangs_up -= 1
                    return
                elif self.ignores:
                    self.ignores -= 1
                elif (answer := answer_to(message)) is not None:
                    await link.send(answer)


@asynccontextmanager
async def asking(peer: Peer, policy: Any = None, **config: Any) -> AsyncIterator[RaftClient]:
    """Serve the peer as node n1, and yield a client of it."""
    with trio.fail_after(LIMIT_S):
        async with GrpcTransport() as server, trio.open_nursery() as nursery:
            address: str = await nursery.start(server.serve, peer.accept)
            discovery = StaticDiscovery({"n1": address, "gone": "127.0.0.1:1"})
            settings = RaftClientConfig(**({"retry_delay": 0.01} | config))
            async with RaftClient(discovery, settings, policy=policy, rng=Random(1)) as client:
                yield client
            nursery.cancel_scope.cancel()


async def test_each_question_travels_with_its_arguments_and_gets_its_answer() -> None:
    """Behind a Hello in the name of the one who asks; a rejection is an answer like any other."""
    peer = Peer()
    async with asking(peer) as client:
        assert await client.request_vote("n1", "n2", 2, 5, 1) == RequestVoteResponse(Term(2), True)
        assert await client.request_vote("n1", "n2", 1, 5, 1) == RequestVoteResponse(Term(1), False)
        assert not (await client.append_entries("n1", "n2", 3, 5, 2, 4, [ENTRY])).success
        assert (await client.install_snapshot("n1", "n2", 3, METADATA, b"data")).next_offset == 4
        assert client.link_count == 2

    assert peer.received == [
        Hello(NodeId("n2"), N1),
        RequestVoteRequest(Term(2), NodeId("n2"), LogIndex(5), Term(1)),
        RequestVoteRequest(Term(1), NodeId("n2"), LogIndex(5), Term(1)),
        # On the other lane.
        Hello(NodeId("n2"), N1),
        AppendEntriesRequest(Term(3), NodeId("n2"), LogIndex(5), Term(2), LogIndex(4), (ENTRY,)),
        InstallSnapshotRequest(Term(3), NodeId("n2"), METADATA, 0, b"data", zlib.crc32(b"data"), True),
    ]


async def test_status_of_a_real_node() -> None:
    """A node of a cluster tells how it is, and answers a stranger's request for a vote by Raft's rules."""
    discovery = StaticDiscovery({})
    node = Node(
        "n1", machine=Journal(), transport=GrpcTransport(), storage=MemoryStorage(), discovery=discovery, voters=["n1"]
    )
    with trio.fail_after(LIMIT_S):
        async with node, RaftClient(discovery, RaftClientConfig()) as client:
            await node.propose(b"x")
            status = await client.status("n1")
            vote = await client.request_vote("n1", "n2", 1, 0, 0)

    assert (status.node_id, status.role) == ("n1", Role.LEADER)
    assert not vote.vote_granted


async def test_lost_answer_is_asked_for_again_on_a_new_link() -> None:
    """max_retries are the attempts after the first; the link that ended is not used again."""
    peer = Peer()
    peer.hangs_up = 2
    async with asking(peer, max_retries=2) as client:
        assert (await client.request_vote("n1", "n2", 2, 5, 1)).vote_granted
        told = client.statistics()["n1"]

        peer.hangs_up = 3
        with pytest.raises(LinkClosed):
            await client.request_vote("n1", "n2", 2, 5, 1)
        assert client.link_count == 0

    assert (told.requests, told.ok, told.retries, told.failed) == (3, 1, 2, {"LinkClosed": 2})
    assert told.connects == 3
    assert told.success_rate == pytest.approx(1 / 3)
    assert told.timeout_rate == 0
    assert told.bytes_sent > 0 < told.bytes_received
    assert told.latency_p50_s is not None
    json.dumps(told.as_json())


async def test_timeout_covers_all_attempts() -> None:
    """A node that never answers costs ``timeout``, however many retries there are, and counts as a timeout."""
    peer = Peer()
    peer.ignores = 100
    async with asking(peer, timeout=0.3, max_retries=50) as client:
        started = trio.current_time()
        with pytest.raises(PeerTimeout, match=r"0\.3 s"):
            await client.request_vote("n1", "n2", 2, 5, 1)
        assert 0.29 < trio.current_time() - started < 5
        told = client.statistics()["n1"]

    assert told.failed == {"PeerTimeout": 1}
    assert told.timeout_rate == 1


async def test_no_wait_goes_beyond_the_timeout() -> None:
    """Where the next attempt would come too late, the last error is raised at once."""
    async with asking(Peer(), timeout=20.0, retry_delay=30.0, max_retry_delay_s=30.0) as client:
        started = trio.current_time()
        with pytest.raises(PeerUnreachable) as caught:
            await client.request_vote("gone", "n2", 2, 5, 1)
        assert trio.current_time() - started < 10

    assert "not tried again" in caught.value.__notes__[0]
    assert caught.value.next_delay_s == pytest.approx(30, rel=0.2)


async def test_attempt_that_is_not_answered_is_made_again_after_its_own_time() -> None:
    """``attempt_timeout_s`` leaves time for another; the errors before are counted as timeouts."""
    peer = Peer()
    peer.ignores = 2
    async with asking(peer, timeout=20.0, attempt_timeout_s=0.1, max_retries=2) as client:
        assert (await client.request_vote("n1", "n2", 2, 5, 1)).vote_granted
        told = client.statistics()["n1"]
        assert (told.requests, told.retries, told.failed) == (3, 2, {"PeerTimeout": 2})

        peer.ignores = 3
        with pytest.raises(PeerTimeout, match=r"0\.1 s"):
            await client.request_vote("n1", "n2", 2, 5, 1)


async def test_call_that_no_longer_holds_is_not_made() -> None:
    """``still_valid`` is asked before each attempt; the error before it is the cause."""
    peer = Peer()
    peer.hangs_up = 5
    async with asking(peer, max_retries=5) as client:
        with pytest.raises(Superseded, match="RequestVoteRequest to node 'n1' is made 2 times") as caught:
            await client.request_vote("n1", "n2", 2, 5, 1, still_valid=lambda: peer.hangs_up > 3)
        assert isinstance(caught.value.__cause__, LinkClosed)
        with pytest.raises(Superseded):
            await client.append_entries("n1", "n2", 3, 5, 2, still_valid=lambda: False)
        with pytest.raises(Superseded):
            await client.install_snapshot("n1", "n2", 3, METADATA, b"", still_valid=lambda: False)

    assert len(peer.received) == 4


async def test_what_the_node_says_about_coming_back_wins(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for exactly; after it the waits begin anew; an infinite one ends the call (gRFC A6)."""
    hints = [None, None, 7.0, None, math.inf]
    made: list[float] = []
    client = RaftClient(StaticDiscovery({}), RaftClientConfig(timeout=100.0, max_retries=9, retry_delay=1.0))

    async def ask(*_: Any) -> RequestVoteResponse:
        made.append(trio.current_time())
        raise LinkClosed("not now", retry_after_s=hints[len(made) - 1])

    monkeypatch.setattr(client, "_ask", ask)
    with pytest.raises(LinkClosed) as caught:
        await client.request_vote("n1", "n2", 2, 5, 1)

    waits = [later - earlier for earlier, later in pairwise(made)]
    for wait, (least, most) in zip(waits, [(0.8, 1.2), (1.6, 2.4), (7, 7), (0.8, 1.2)], strict=True):
        assert least - 1e-6 <= wait <= most + 1e-6
    assert caught.value.__notes__ == ["not tried again: the node asks for no other attempt"]


async def test_client_of_another_cluster_is_refused_once() -> None:
    """Also where no Hello is said, as for a status; the node's word that no other attempt helps is taken."""
    peer = Peer()
    with trio.fail_after(LIMIT_S):
        async with GrpcTransport() as server, trio.open_nursery() as nursery:
            server.name_cluster("green")
            discovery = StaticDiscovery({"n1": await nursery.start(server.serve, peer.accept)})
            async with RaftClient(discovery, RaftClientConfig(cluster_id="blue")) as client:
                with pytest.raises(LinkClosed, match=r"cluster green.*blue is meant"):
                    await client.status("n1")
                assert client.statistics()["n1"].requests == 1
            nursery.cancel_scope.cancel()
    assert peer.received == []


async def test_refused_link_is_not_tried_again() -> None:
    """A node that will not be spoken to says why, once."""
    peer = Peer()
    peer.refusal = "another cluster"
    async with asking(peer) as client:
        with pytest.raises(ServiceError, match="another cluster"):
            await client.request_vote("n1", "n2", 2, 5, 1)
    assert peer.received == [Hello(NodeId("n2"), N1)]


async def test_policy_decides_what_is_tried_again() -> None:
    """What the policy's table does not retry is not retried; what it does is, and it learns how that ended."""
    peer = Peer()
    peer.hangs_up = 1
    policy = CategoryRetryPolicy()
    async with asking(peer, policy) as client:
        await client.request_vote("n1", "n2", 2, 5, 1)
        (counted,) = policy.get_error_statistics().targets
        assert counted.target == "n1"

    class Never(CategoryRetryPolicy):
        def should_retry(self, error: BaseException, retry_count: int, call: Any = None) -> bool:
            return False

    peer.hangs_up = 1
    async with asking(peer, Never()) as client:
        with pytest.raises(LinkClosed):
            await client.request_vote("n1", "n2", 2, 5, 1)


async def test_cancelled_call_closes_its_link_and_the_next_one_works() -> None:
    """A late answer to what was given up is never taken for the next one's."""
    peer = Peer()
    peer.ignores = 1
    async with asking(peer) as client:
        with trio.move_on_after(0.1):
            await client.request_vote("n1", "n2", 2, 5, 1)
        assert client.link_count == 0
        assert (await client.request_vote("n1", "n2", 2, 5, 1)).vote_granted
        assert client.statistics()["n1"].cancelled == 1


async def test_unknown_node_and_closed_client_are_errors() -> None:
    """Whom discovery does not know cannot be asked; after ``close`` nobody can."""
    async with asking(Peer(), max_retries=0) as client:
        with pytest.raises(PeerUnreachable, match="'n7'"):
            await client.request_vote("n7", "n2", 2, 5, 1)
        await client.request_vote("n1", "n2", 2, 5, 1)
        await client.close()
        assert client.link_count == 0
        with pytest.raises(TransportError, match="closed"):
            await client.request_vote("n1", "n2", 2, 5, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timeout", 0),
        ("timeout", float("inf")),
        ("max_retries", -1),
        ("max_retries", 1.5),
        ("retry_delay", 0),
        ("retry_backoff", 0.5),
        ("max_retry_delay_s", float("nan")),
        ("attempt_timeout_s", -1),
        ("jitter", "none"),
    ],
)
def test_config_out_of_range_names_the_field(field: str, value: Any) -> None:
    """Nothing is clamped in silence."""
    with pytest.raises(ConfigError, match=rf"{field} = "):
        RaftClientConfig(**{field: value})


def test_waits_grow_by_the_factor_up_to_the_limit() -> None:
    """delay, delay * backoff, ..., each between 0.8 and 1.2 times that; also after a million retries."""
    config, rng = RaftClientConfig(retry_delay=0.1, retry_backoff=2.0, max_retry_delay_s=1.0), Random(1)

    for retry, expected in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (1_000_000, 1.0)):
        drawn = [config.delay_s(retry, rng) for _ in range(50)]
        assert 0.8 * expected <= min(drawn) < max(drawn) <= 1.2 * expected


def test_full_jitter_draws_waits_down_to_none() -> None:
    """From 0 to once the wait."""
    config, rng = RaftClientConfig(retry_delay=1.0, jitter="full"), Random(1)

    drawn = [config.delay_s(1, rng) for _ in range(1000)]

    assert 0 <= min(drawn) < 0.05
    assert 0.95 < max(drawn) <= 1
