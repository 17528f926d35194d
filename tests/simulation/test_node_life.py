"""A node's block: how it is entered and left, what leaves it, and what is left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore import Node
from clustercore.interfaces import (
    AcceptLink,
    ChangeRefused,
    ClusterError,
    ConfigError,
    LogCorrupt,
    NodeStopped,
    OutcomeUnknown,
    ProposalRefused,
    Role,
    StateMachineError,
    StorageError,
    StorageFull,
    StoredState,
    TransportError,
)
from clustercore.testing.simulation.disk import SimulatedDisk, SimulatedStorage
from clustercore_memory import MemoryNetwork, MemoryStorage, MemoryTransport
from clustercore_static import StaticDiscovery
from tests.simulation.cluster import Journal, SimulatedCluster, eventually, simulate, small_config


def make_node(
    name: str = "a",
    *,
    storage: SimulatedStorage | MemoryStorage | None = None,
    transport: MemoryTransport | None = None,
    machine: Journal | None = None,
    voters: str = "a",
    network: MemoryNetwork | None = None,
) -> Node:
    """A node that is alone unless told otherwise."""
    return Node(
        name,
        machine=machine or Journal(),
        transport=transport or MemoryTransport(network or MemoryNetwork(), name),
        storage=storage or MemoryStorage(),
        discovery=StaticDiscovery({voter: voter for voter in voters}),
        rng=Random(1),
    )


@asynccontextmanager
async def leading_node(**parts: object) -> AsyncIterator[Node]:
    """A node alone in its cluster, leading it."""
    async with make_node(**parts) as node:  # type: ignore[arg-type]  # the parts of make_node
        await node.wait_leader()
        yield node


# --- Entering ---


async def test_use_outside_the_block_raises_node_stopped(autojump_clock: MockClock) -> None:
    """Before its block and after it, a node answers nothing and says that nothing was done."""
    node = make_node()

    async def check() -> None:
        with pytest.raises(NodeStopped):
            await node.propose(b"x")
        with pytest.raises(NodeStopped):
            node.status()
        with pytest.raises(NodeStopped):
            node.role_changes()
        with pytest.raises(NodeStopped):
            await node.wait_leader()

    with pytest.raises(NodeStopped):
        _ = node.address
    await check()
    async with node:
        await node.wait_leader()
        assert node.address == "a"
    await check()


async def test_node_is_entered_once(autojump_clock: MockClock) -> None:
    """A node that was left cannot be entered again: its state machine and transport are used."""
    node = make_node()
    async with node:
        pass

    with pytest.raises(RuntimeError, match="entered once"):
        async with node:
            pytest.fail("entered twice")


def test_node_needs_a_name() -> None:
    """An empty node id is refused before anything is opened."""
    with pytest.raises(ConfigError, match="node_id is empty"):
        make_node("", transport=MemoryTransport(MemoryNetwork(), "a"))
    with pytest.raises(ConfigError, match="node_id has 256 bytes; at most 255 are allowed"):
        make_node("ä" * 128, transport=MemoryTransport(MemoryNetwork(), "a"))


def test_transport_that_cannot_carry_the_entries_is_refused_at_once() -> None:
    """Such a node would start, and its leader's entries never arrive; the text names both limits (issue 3)."""

    class Narrow(MemoryTransport):
        max_message_bytes = small_config().raft.max_append_bytes - 1

    with pytest.raises(ConfigError, match=r"max_message_bytes of .* is 1048575; .* max_append_bytes = 1048576"):
        make_node(transport=Narrow(MemoryNetwork(), "a"))


async def test_discovery_that_may_change_does_not_decide_who_votes(autojump_clock: MockClock) -> None:
    """What it happens to know at a start would decide how many make a quorum; so the voters must be named."""

    class Rumours(StaticDiscovery):
        is_fixed = False

    def make(voters: str | None) -> Node:
        return Node(
            "a",
            machine=Journal(),
            transport=MemoryTransport(MemoryNetwork(), "a"),
            storage=MemoryStorage(),
            discovery=Rumours({"a": "a"}),
            voters=voters,
        )

    with pytest.raises(ConfigError, match="voters is not given, and Rumours"):
        async with make(None):
            pass
    async with make("abc") as node:
        assert [peer.node_id for peer in node.status().peers] == ["b", "c"]


async def test_node_without_voters_waits_to_be_added(autojump_clock: MockClock) -> None:
    """It elects nobody, stands for nothing, and says that it knows no members."""
    node = Node(
        "a",
        machine=Journal(),
        transport=MemoryTransport(MemoryNetwork(), "a"),
        storage=MemoryStorage(),
        discovery=StaticDiscovery({"a": "a", "b": "b"}),
        voters=[],
    )
    async with node:
        await trio.sleep(60)
        status = node.status()

        assert (status.term, status.leader_id, status.peers) == (0, None, ())
        assert not status.is_removed
        with pytest.raises(ProposalRefused, match="no leader"):
            await node.propose(b"x", give_up_s=1)
        with pytest.raises(ChangeRefused, match="knows no leader"):
            await node.members.add("b", give_up_s=1)


async def test_node_tells_the_address_that_it_advertises(autojump_clock: MockClock) -> None:
    """To whoever asks it, to discovery, and to the members that come later."""
    network, found = MemoryNetwork(), StaticDiscovery({})
    node = Node(
        "a",
        machine=Journal(),
        transport=MemoryTransport(network, "0.0.0.0:7101"),
        storage=MemoryStorage(),
        discovery=found,
        voters=["a"],
        advertise="a.example:7101",
    )
    async with node:
        members = await node.members.add_learner("b", "b")

        assert node.address == "a.example:7101"
        assert (await found.members()).address_of(node.node_id) == "a.example:7101"
        assert [server.address for server in members.configuration.servers] == ["a.example:7101", "b"]


async def test_node_beside_voters_follows_and_never_stands(autojump_clock: MockClock) -> None:
    """A node whose own vote does not count waits for a leader for ever, and proposals to it wait too."""
    node = Node(
        "z",
        machine=Journal(),
        transport=MemoryTransport(MemoryNetwork(), "z"),
        storage=MemoryStorage(),
        discovery=StaticDiscovery({"a": "a"}),
        voters=["a"],
    )
    async with node:
        with trio.move_on_after(60) as scope:
            await node.propose(b"x")

        assert scope.cancelled_caught
        assert node.status().term == 0
        assert node.status().pending_proposals == 0


# --- The body's own errors ---


async def test_exception_of_the_body_passes_unwrapped(autojump_clock: MockClock) -> None:
    """What the body raises leaves the block as it is: the same object, in no group."""
    error = KeyError("the body's own")
    with pytest.raises(KeyError) as caught:
        async with make_node():
            raise error

    assert caught.value is error


@pytest.mark.parametrize("count", [1, 2])
async def test_exception_group_of_the_body_passes_unchanged(count: int, autojump_clock: MockClock) -> None:
    """A group that the body raises, from a nursery of its own say, is neither opened nor put into another."""
    group = ExceptionGroup("the body's own", [ValueError(number) for number in range(count)])
    with pytest.raises(ExceptionGroup) as caught:
        async with make_node():
            raise group

    assert caught.value is group


async def test_cluster_error_of_the_body_passes_unwrapped(autojump_clock: MockClock) -> None:
    """An error of another node that the body met is the body's."""
    error = OutcomeUnknown("of another node")
    with pytest.raises(OutcomeUnknown) as caught:
        async with make_node():
            raise error

    assert caught.value is error


async def test_cancellation_passes_through_the_block(autojump_clock: MockClock) -> None:
    """A cancel scope around the block ends it and is caught where it belongs."""
    with trio.move_on_after(5) as scope:
        async with make_node():
            await trio.sleep_forever()

    assert scope.cancelled_caught


async def test_leaving_the_block_leaves_no_task(autojump_clock: MockClock) -> None:
    """Everything that a node starts ends with its block."""
    before = _task_names()
    async with leading_node() as node:
        await node.propose(b"x")
        assert _task_names() != before

    assert _task_names() == before


def _task_names() -> list[str]:
    """All tasks under the one that asks."""
    names: list[str] = []

    def walk(task: trio.lowlevel.Task) -> None:
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                names.append(child.name)
                walk(child)

    walk(trio.lowlevel.current_task())
    return sorted(names)


# --- The node's errors ---


class DamagedStorage(MemoryStorage):
    """Finds on opening that what it holds is damaged."""

    async def load(self) -> StoredState:
        raise LogCorrupt("entry 3 fails its checksum")


async def test_corrupt_log_keeps_the_node_from_starting(autojump_clock: MockClock) -> None:
    """What storage finds when it is read leaves ``async with`` as that error, and the body never runs."""
    with pytest.raises(LogCorrupt, match="entry 3"):
        async with make_node(storage=DamagedStorage()):
            pytest.fail("started from a damaged log")


async def test_address_in_use_keeps_the_node_from_starting(autojump_clock: MockClock) -> None:
    """A transport that cannot listen ends the start with its error."""
    network = MemoryNetwork()
    async with make_node(network=network):
        with pytest.raises(TransportError, match="served already"):
            async with make_node(network=network):
                pytest.fail("two nodes at one address")


@pytest.mark.parametrize("write", [1, 2, 3])
async def test_full_disk_stops_the_node_with_storage_full(write: int, autojump_clock: MockClock) -> None:
    """Whichever write finds no room: the body is cancelled and the block raises that one error."""
    disk = SimulatedDisk()
    disk.fill_at(write)

    async def run() -> None:
        async with make_node(storage=SimulatedStorage(disk)) as node:
            with trio.fail_after(60):
                for number in range(write):
                    await node.propose(b"%d" % number)

    with pytest.raises(StorageFull) as caught:
        await run()

    assert not isinstance(caught.value.__context__, BaseExceptionGroup), "the group shows up in the traceback"


@pytest.mark.parametrize("write", [1, 2, 3, 4])
async def test_failing_fsync_stops_the_node_with_storage_error(write: int, autojump_clock: MockClock) -> None:
    """A failed fsync is not tried again, and nothing that hung on it was answered."""
    disk = SimulatedDisk()
    disk.fail_fsync_at(write)
    acknowledged: list[int] = []

    async def run() -> None:
        async with make_node(storage=SimulatedStorage(disk)) as node:
            with trio.fail_after(60):
                for number in range(10):
                    await node.propose(b"%d" % number)
                    acknowledged.append(number)

    with pytest.raises(StorageError, match="fsync"):
        await run()

    # The first write counts the start, the second is the vote, the third the no-op and the first proposal together.
    assert len(acknowledged) == max(0, write - 3)
    assert disk.writes_seen == write


async def test_broken_state_machine_stops_the_node(autojump_clock: MockClock) -> None:
    """An exception from ``apply`` leaves the block as StateMachineError with its cause and index."""

    async def run() -> None:
        async with leading_node() as node:
            await node.propose(b"fine")
            await node.propose(b"raise")
            pytest.fail("a command whose apply raised was answered")

    with pytest.raises(StateMachineError) as caught:
        await run()

    assert caught.value.index == 3
    assert isinstance(caught.value.__cause__, RuntimeError)


async def test_unreadable_snapshot_keeps_the_node_from_starting(autojump_clock: MockClock) -> None:
    """A snapshot that the machine cannot restore ends the start with StateMachineError."""
    storage = MemoryStorage()
    config = small_config(snapshot_entries=2, snapshot_tail_entries=0)
    first = Node(
        "a",
        machine=Journal(),
        transport=MemoryTransport(MemoryNetwork(), "a"),
        storage=storage,
        discovery=StaticDiscovery({"a": "a"}),
        config=config,
    )
    async with first:
        for number in range(5):
            await first.propose(b"%d" % number)

    class Amnesiac(Journal):
        def restore(self, snapshot: bytes) -> None:
            raise ValueError("written by a newer version")

    with pytest.raises(StateMachineError, match="newer version"):
        async with make_node(storage=storage, machine=Amnesiac()):
            pytest.fail("started without its state")


class FailingTransport(MemoryTransport):
    """Serves for a while, then fails."""

    async def serve(self, accept: AcceptLink, *, task_status: trio.TaskStatus[str]) -> None:
        task_status.started("a")
        await trio.sleep(5)
        raise TransportError("the listener broke")


async def test_failing_transport_stops_the_node(autojump_clock: MockClock) -> None:
    """A listener that breaks ends the node: one that nobody reaches must not think it leads."""
    with pytest.raises(TransportError, match="listener broke"):
        async with make_node(transport=FailingTransport(MemoryNetwork(), "a")):
            await trio.sleep_forever()


async def test_error_of_the_node_in_a_cancelled_scope_is_still_one_error(autojump_clock: MockClock) -> None:
    """A node that fails in the very moment in which its block is cancelled leaves its own error, in no group."""
    disk = SimulatedDisk()

    async def run() -> None:
        with trio.CancelScope() as scope:
            async with make_node(storage=SimulatedStorage(disk)) as node:
                await node.wait_leader()
                with disk.stall():
                    disk.fail_fsync_at(disk.writes_seen + 1)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(node.propose, b"x")
                        await wait_all_tasks_blocked()
                        # The write is under way and cannot be cancelled: it fails after the scope was.
                        scope.cancel()

    with pytest.raises(StorageError, match="fsync"):
        await run()


# --- Stopping ---


async def test_stop_ends_proposals_of_other_tasks(autojump_clock: MockClock) -> None:
    """A task outside the block that waits for room learns NodeStopped; with its command in the log, OutcomeUnknown."""
    disk = SimulatedDisk()
    node = Node(
        "a",
        machine=Journal(),
        transport=MemoryTransport(MemoryNetwork(), "a"),
        storage=SimulatedStorage(disk),
        discovery=StaticDiscovery({"a": "a"}),
        config=small_config(max_pending_proposals=2),
    )
    ends: dict[bytes, type] = {}

    async def propose(command: bytes) -> None:
        try:
            await node.propose(command)
        except ClusterError as error:
            ends[command] = type(error)

    async def stall() -> None:
        # Longer than a node that leaves waits for the answers it owes.
        with disk.stall():
            await trio.sleep(1)

    async with trio.open_nursery() as nursery, node:
        await node.wait_leader()
        await node.propose(b"first")
        nursery.start_soon(stall)
        await wait_all_tasks_blocked()
        for command in (b"in the log", b"in the log too", b"no room"):
            nursery.start_soon(propose, command)
            await wait_all_tasks_blocked()
        assert node.status().pending_proposals == 3

    assert ends == {b"in the log": OutcomeUnknown, b"in the log too": OutcomeUnknown, b"no room": NodeStopped}


async def test_stop_ends_a_proposal_that_waits_for_a_leader(autojump_clock: MockClock) -> None:
    """Without a leader nothing was appended or sent: not done."""
    node = make_node(voters="abc")
    with pytest.RaisesGroup(NodeStopped):
        async with trio.open_nursery() as nursery, node:
            nursery.start_soon(node.propose, b"x")
            await trio.sleep(30)


async def test_stop_ends_wait_leader_of_other_tasks(autojump_clock: MockClock) -> None:
    """A task outside the block that waits for a leader learns that none will be known here."""
    node = make_node(voters="abc")
    with pytest.RaisesGroup(NodeStopped), trio.fail_after(600):
        async with trio.open_nursery() as nursery, node:
            nursery.start_soon(node.wait_leader)
            await trio.sleep(30)


async def test_stop_ends_role_changes_of_other_tasks(autojump_clock: MockClock) -> None:
    """A loop over the role's changes ends with the node."""
    node = make_node()
    roles: list[Role] = []

    async def watch() -> None:
        async for change in node.role_changes():
            roles.append(change.role)

    with trio.fail_after(600):
        async with trio.open_nursery() as nursery, node:
            nursery.start_soon(watch)
            await node.wait_leader()
            await wait_all_tasks_blocked()

    assert roles[-1] is Role.LEADER


def test_stop_of_a_full_leader_leaves_no_error() -> None:
    """A leader that stops while a peer's proposals wait for room here leaves its block in peace."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        follower = (await cluster.followers())[0]
        async with trio.open_nursery() as nursery:
            with leader.disk.stall(), (await cluster.followers())[1].disk.stall(), follower.disk.stall():
                for number in range(2):
                    nursery.start_soon(_propose_anyhow, leader.running, b"local %d" % number)
                await wait_all_tasks_blocked()
                nursery.start_soon(_propose_anyhow, follower.running, b"forwarded")
                await trio.sleep(0.01)
                assert leader.running.status().pending_proposals == 3

                leader.stop_asked.set()
                await trio.sleep(0.01)
            await leader.ended.wait()
            nursery.cancel_scope.cancel()
        assert leader.error is None

    simulate(main, config=small_config(max_pending_proposals=2))


async def _propose_anyhow(node: Node, command: bytes) -> None:
    with suppress(NodeStopped, OutcomeUnknown):
        await node.propose(command)


def test_stopped_node_answers_nobody() -> None:
    """After its block a node votes for nobody: to the third of three it does not even say that it could win.

    Asking around (thesis §9.6), the third finds no majority, so that it starts no term and asks for no vote.
    """

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await cluster.leader()
        for name in "ab":
            await cluster.stop(name)
        stopped_at = {name: cluster[name].disk.synced for name in "ab"}
        left = cluster["c"].running
        await eventually(lambda: left.status().role is Role.PRE_CANDIDATE)
        term = left.status().term

        # Dozens of elections, if one could be held.
        await trio.sleep(60)

        assert (left.status().role, left.status().term) == (Role.PRE_CANDIDATE, term)
        assert {name: cluster[name].disk.synced for name in "ab"} == stopped_at

    simulate(main)
