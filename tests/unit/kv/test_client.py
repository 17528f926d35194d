"""The client's requests: which node it asks, what it tries again, and what it never repeats by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise
from random import Random

import pytest
import trio
import trio.testing

from clustercore.interfaces import (
    ConfigError,
    ErrorCategory,
    InvalidCommand,
    LinkClosed,
    NodeStopped,
    NotLeader,
    OutcomeUnknown,
    PeerTimeout,
    PeerUnreachable,
    ProposalRefused,
    ServiceError,
)
from clustercore_kv import (
    CasResult,
    DeleteResult,
    GetResult,
    KeyValueClient,
    KeyValueMachine,
    KvPair,
    Put,
    PutResult,
    ScanResult,
)
from clustercore_retry import CategoryRetryPolicy
from tests.unit.kv.fakes import LEADER, FakeNode, FakeTransport, do

ADDRESSES = ("a", "b", "c")

NOT_DONE = [NotLeader(LEADER, None), ProposalRefused("full"), NodeStopped("stopped")]
CUT_OFF = [LinkClosed("cut"), PeerTimeout("silent")]

Operation = Callable[[KeyValueClient], Awaitable[object]]

READS = [
    pytest.param(lambda client: client.get("k"), id="get"),
    pytest.param(lambda client: client.scan("k"), id="scan"),
]
LOCAL_READS = [
    pytest.param(lambda client: client.get("k", local=True), id="get-local"),
    pytest.param(lambda client: client.scan("k", local=True), id="scan-local"),
]
WRITES = [
    pytest.param(lambda client: client.put("k", b"v"), id="put"),
    pytest.param(lambda client: client.delete("k"), id="delete"),
    pytest.param(lambda client: client.cas("k", b"v", expected=None), id="cas"),
]
REPEATED_WRITES = [
    pytest.param(lambda client: client.put("k", b"v", retry_unknown=True), id="put-again"),
    pytest.param(lambda client: client.delete("k", retry_unknown=True), id="delete-again"),
]
REPEATED_CAS = pytest.param(lambda client: client.cas("k", b"v", expected=None, retry_unknown=True), id="cas-again")


class Cluster:
    """One node that answers at every address, a transport to it, and a client."""

    def __init__(self) -> None:
        self.node = FakeNode(KeyValueMachine())
        self.transport = FakeTransport()
        for address in ADDRESSES:
            self.transport.host(address, self.node)
        self.client = KeyValueClient(self.transport, ADDRESSES, rng=Random(1))


async def test_client_returns_what_the_machine_answers() -> None:
    """Every method returns the machine's answer as a value."""
    client = Cluster().client

    assert await client.put("k", b"1") == PutResult(1)
    assert await client.get("k") == GetResult(b"1", 1, 1)
    assert await client.cas("k", b"2", expected=b"1") == CasResult(True, 2)
    assert await client.cas("k", b"3", expected=1) == CasResult(False, 2, b"2")
    assert await client.cas("new", b"", expected=None) == CasResult(True, 4)
    assert await client.cas("newer", b"", expected=0) == CasResult(True, 5)
    assert await client.scan("k") == ScanResult((KvPair("k", b"2", 2),), False, 5)
    assert await client.scan(limit=1, start_after="k", local=True) == ScanResult((KvPair("new", b"", 4),), True, 5)
    assert await client.delete("k") == DeleteResult(True, 6)
    assert await client.get("k", local=True) == GetResult(None, 0, 6)


@pytest.mark.parametrize("operation", READS + LOCAL_READS + WRITES)
async def test_unreachable_node_is_passed_over(operation: Operation) -> None:
    """Every request, also one that must not be repeated, goes on to the next node when nothing was sent."""
    cluster = Cluster()
    cluster.transport.down("a")

    await operation(cluster.client)

    assert cluster.transport.asked == ["a", "b"]


async def test_client_begins_with_the_node_that_answered() -> None:
    """After one node failed and another answered, later requests begin with the one that answered."""
    cluster = Cluster()
    cluster.transport.down("a")

    await cluster.client.put("k", b"1")
    await cluster.client.put("k", b"2")
    cluster.transport.down("b")
    await cluster.client.put("k", b"3")

    assert cluster.transport.asked == ["a", "b", "b", "b", "c"]


async def test_client_tells_why_each_node_failed(autojump_clock: trio.testing.MockClock) -> None:
    """Who gives up waiting can say what is wrong with each node; one that answers is fine again."""
    cluster = Cluster()
    assert not cluster.client.failures
    cluster.transport.down("a")
    cluster.node.errors.extend([ProposalRefused("full"), LinkClosed("cut"), ProposalRefused("still full")])

    await cluster.client.put("k", b"v", retry_unknown=True)

    assert cluster.transport.asked == ["a", "b", "c", "a", "b", "c"]
    assert cluster.client.failures.keys() == {"a", "b"}
    assert cluster.client.failures["b"] == "still full"


# --- With a retry policy ----------------------------------------------------------------------------------------------


def with_policy(cluster: Cluster) -> tuple[KeyValueClient, CategoryRetryPolicy]:
    """A client of the cluster's three nodes that goes by the shipped policy."""
    policy = CategoryRetryPolicy(rng=Random(1), auto_adjust=False)
    return KeyValueClient(cluster.transport, ["a", "b", "c"], policy=policy), policy


async def test_policy_bounds_the_rounds(autojump_clock: trio.testing.MockClock) -> None:
    """Another node is no retry; after five retries of all nodes, the error itself is raised."""
    cluster = Cluster()
    client, policy = with_policy(cluster)
    for name in "abc":
        cluster.transport.down(name)

    with pytest.raises(PeerUnreachable) as caught:
        await client.put("k", b"v")

    assert cluster.transport.asked == ["a", "b", "c"] * 6
    assert "NETWORK_ERROR" in caught.value.__notes__[0]
    [counted] = policy.get_error_statistics().targets
    assert (counted.target, counted.first_attempts, counted.retries) == ("a,b,c", 1, 5)


async def test_policy_lets_a_write_that_is_not_done_be_made_in_another_round(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What certainly had no effect may be tried again, idempotent or not."""
    cluster = Cluster()
    client, policy = with_policy(cluster)
    cluster.node.errors.extend([ProposalRefused("full")] * 4)

    await client.put("k", b"v")

    assert cluster.transport.asked == ["a", "b", "c", "a", "b"]
    assert policy.get_error_statistics().of(ErrorCategory.SERVER_ERROR).retry_successes == 1


async def test_policy_does_not_repeat_a_write_whose_outcome_is_unknown(autojump_clock: trio.testing.MockClock) -> None:
    """Unless its caller has said that it may be: then the next node is asked, and the round's error is the worst."""
    cluster = Cluster()
    client, _ = with_policy(cluster)
    cluster.transport.after["a"].append(LinkClosed("cut"))
    with pytest.raises(OutcomeUnknown):
        await client.put("k", b"v")
    assert cluster.transport.asked == ["a"]

    for name in "bc":
        cluster.transport.down(name)
    cluster.transport.after["a"].extend([LinkClosed("cut")] * 9)
    cluster.transport.asked.clear()
    with pytest.raises(OutcomeUnknown):
        await client.put("k", b"v", retry_unknown=True)
    assert cluster.transport.asked == ["a", "b", "c"] * 4


async def test_policy_keeps_an_outage_from_being_fed(autojump_clock: trio.testing.MockClock) -> None:
    """Of a hundred calls, each a second after the last, few make another round: the budget is used up."""
    cluster = Cluster()
    client, policy = with_policy(cluster)
    for name in "abc":
        cluster.transport.down(name)

    for _ in range(100):
        with pytest.raises(PeerUnreachable):
            await client.get("k")
        await trio.sleep(1)

    [counted] = policy.get_error_statistics().targets
    assert counted.first_attempts == 100
    assert 5 <= counted.retries < 60


@pytest.mark.parametrize("error", NOT_DONE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("operation", READS + WRITES)
async def test_not_done_is_tried_again(
    operation: Operation, error: Exception, autojump_clock: trio.testing.MockClock
) -> None:
    """What a node says was not done is tried again, elsewhere and then after a pause, until it is done once."""
    cluster = Cluster()
    cluster.node.errors.extend([error] * 4)

    await operation(cluster.client)

    assert cluster.transport.asked == ["a", "b", "c", "a", "b"]
    assert cluster.node.proposals + cluster.node.reads == 5
    assert cluster.node.machine.applied_index == (1 if cluster.node.proposals else 0)


@pytest.mark.parametrize("error", CUT_OFF, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("operation", WRITES)
async def test_cut_off_write_is_not_repeated(operation: Operation, error: Exception) -> None:
    """A write whose answer is lost raises OutcomeUnknown, caused by what was lost, and is not sent twice."""
    cluster = Cluster()
    cluster.transport.after["a"].append(error)

    with pytest.raises(OutcomeUnknown, match="may or may not") as raised:
        await operation(cluster.client)

    assert raised.value.__cause__ is error
    assert cluster.node.proposals == 1


@pytest.mark.parametrize("operation", WRITES)
async def test_write_of_unknown_outcome_is_not_repeated(
    operation: Operation,
) -> None:
    """A write of which the node itself does not know the outcome raises OutcomeUnknown, and is not sent twice."""
    cluster = Cluster()
    cluster.node.errors.append(OutcomeUnknown("leader lost"))

    with pytest.raises(OutcomeUnknown, match="leader lost"):
        await operation(cluster.client)

    assert cluster.node.proposals == 1


@pytest.mark.parametrize("error", CUT_OFF, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("operation", READS + LOCAL_READS + REPEATED_WRITES)
async def test_what_may_be_repeated_is_repeated_when_cut_off(operation: Operation, error: Exception) -> None:
    """Reads always, and writes whose caller opted in, are sent to the next node when the answer is lost."""
    cluster = Cluster()
    cluster.transport.after["a"].append(error)

    await operation(cluster.client)

    assert cluster.transport.asked == ["a", "b"]


@pytest.mark.parametrize("operation", [*READS, *REPEATED_WRITES, REPEATED_CAS])
async def test_what_may_be_repeated_is_repeated_when_unknown(
    operation: Operation,
) -> None:
    """Reads always, and writes whose caller opted in, are sent again when a node does not know the outcome."""
    cluster = Cluster()
    cluster.node.errors.append(OutcomeUnknown("leader lost"))

    await operation(cluster.client)

    assert cluster.transport.asked == ["a", "b"]


async def test_repeated_cas_does_not_deny_its_own_swap() -> None:
    """A cas whose first attempt swapped unseen raises OutcomeUnknown on finding its own value, not 'not swapped'."""
    cluster = Cluster()
    cluster.transport.after["a"].append(LinkClosed("cut"))

    with pytest.raises(OutcomeUnknown, match="revision 1, which may be of that attempt"):
        await cluster.client.cas("k", b"v", expected=None, retry_unknown=True)

    assert cluster.node.machine.get("k").value == b"v"


async def test_answer_that_cannot_be_read_is_no_answer() -> None:
    """A response that is no such message leaves a write unknown, and sends a read to the next node."""
    cluster = Cluster()
    cluster.transport.instead["a"].extend([b"", b"\x7a\x00"])

    with pytest.raises(OutcomeUnknown):
        await cluster.client.put("k", b"v")
    assert (await cluster.client.get("k")).value == b"v"

    assert cluster.transport.asked == ["a", "a", "b"]


async def test_error_code_of_newer_node_means_unknown() -> None:
    """A code that this version does not know says nothing, so a write's outcome is unknown."""
    cluster = Cluster()
    cluster.transport.instead["a"].append(bytes.fromhex("0a020863"))

    with pytest.raises(OutcomeUnknown):
        await cluster.client.put("k", b"v")


async def test_refused_call_is_not_tried_elsewhere() -> None:
    """Where no such service answers, trying again is useless: ServiceError comes out as it is."""
    cluster = Cluster()
    cluster.transport.before["a"].append(ServiceError("no such method"))

    with pytest.raises(ServiceError):
        await cluster.client.get("k")

    assert cluster.transport.asked == ["a"]


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(lambda client: client.put("", b""), id="empty-key"),
        pytest.param(lambda client: client.put("k", b"v" * (1024 * 1024 + 1)), id="long-value"),
        pytest.param(lambda client: client.cas("k", b"", expected=b"v" * (1024 * 1024 + 1)), id="long-expected-value"),
        pytest.param(lambda client: client.delete("k" * 1025), id="long-key"),
        pytest.param(lambda client: client.get("\ud800"), id="no-text"),
        pytest.param(lambda client: client.scan(limit=-1), id="negative-limit"),
    ],
)
async def test_invalid_requests_are_not_sent(operation: Operation) -> None:
    """What never will be done is refused before it travels."""
    cluster = Cluster()

    with pytest.raises(InvalidCommand):
        await operation(cluster.client)

    assert cluster.transport.asked == []


async def test_invalid_by_the_nodes_word_is_raised() -> None:
    """A node with stricter limits than the client's has the last word, and is not asked twice."""
    cluster = Cluster()
    cluster.node.errors.append(InvalidCommand("commands here have at most 3 bytes"))

    with pytest.raises(InvalidCommand, match="at most 3 bytes"):
        await cluster.client.put("k", b"v")

    assert cluster.node.proposals == 1


async def test_pauses_follow_rounds_and_grow_to_a_bound(autojump_clock: trio.testing.MockClock) -> None:
    """Each node is asked once without a pause; then pauses double from the first to the longest, with jitter."""
    cluster = Cluster()
    for address in ADDRESSES:
        cluster.transport.down(address)
    client = KeyValueClient(cluster.transport, ADDRESSES, rng=Random(1), first_pause_s=1.0, max_pause_s=4.0)

    with trio.move_on_after(60):
        await client.get("k")

    times = cluster.transport.asked_at
    rounds = [times[start : start + 3] for start in range(0, len(times), 3)]
    assert all(len(set(one)) == 1 for one in rounds)
    pauses = [after[0] - before[0] for before, after in pairwise(rounds)]
    for pause, middle in zip(pauses, [1.0, 2.0] + [4.0] * len(pauses), strict=False):
        assert 0.8 * middle <= pause <= 1.2 * middle
    assert len(set(pauses)) == len(pauses)


async def test_pauses_are_those_of_the_rng(autojump_clock: trio.testing.MockClock) -> None:
    """The same random generator gives the same schedule."""
    schedules = []
    for _ in range(2):
        transport = FakeTransport()
        begin = trio.current_time()
        with trio.move_on_after(60):
            await KeyValueClient(transport, ADDRESSES, rng=Random(7)).put("k", b"v")
        schedules.append([round(time - begin, 6) for time in transport.asked_at])

    assert schedules[0] == schedules[1]


async def test_cancel_scope_bounds_a_call(autojump_clock: trio.testing.MockClock) -> None:
    """Without a node, a call lasts as long as its caller lets it."""
    with pytest.raises(trio.TooSlowError), trio.fail_after(30):
        await KeyValueClient(FakeTransport(), ["a"], rng=Random(1)).put("k", b"v")


async def test_local_read_shows_the_nodes_own_state() -> None:
    """A local read is answered by the node asked, from what it has applied, with that state's index."""
    cluster = Cluster()
    behind = FakeNode(KeyValueMachine())
    do(behind.machine, Put("k", b"old"))
    cluster.transport.host("c", behind)
    await cluster.client.put("k", b"old")
    await cluster.client.put("k", b"new")

    client = KeyValueClient(cluster.transport, ["c"], rng=Random(1))

    assert await client.get("k", local=True) == GetResult(b"old", 1, 1)
    assert (await cluster.client.get("k", local=True)).value == b"new"


@pytest.mark.parametrize(
    ("addresses", "first_pause_s", "max_pause_s"),
    [((), 0.1, 1.0), ("host:1", 0.1, 1.0), (("a",), 0.0, 1.0), (("a",), 2.0, 1.0)],
)
def test_client_refuses_impossible_settings(
    addresses: tuple[str, ...], first_pause_s: float, max_pause_s: float
) -> None:
    """No address, an address that is not in a list, and pauses that cannot be are errors that name the setting."""
    with pytest.raises(ConfigError, match=r"addresses is|first_pause_s is"):
        KeyValueClient(FakeTransport(), addresses, first_pause_s=first_pause_s, max_pause_s=max_pause_s)
