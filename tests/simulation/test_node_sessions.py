"""Sessions of real nodes: each command once, whatever is lost between the client and the log."""

from __future__ import annotations

import pytest
import trio

from clustercore import Node
from clustercore.interfaces import (
    Applied,
    ConfigError,
    InvalidCommand,
    NeverApplied,
    NodeStopped,
    OutcomeUnknown,
    ProposalRefused,
    SessionExpired,
    SessionLimit,
    SessionToken,
    TokenSettled,
    VersionNotEnabled,
)
from clustercore.runtime.config import NodeConfig
from clustercore.runtime.session_table import SessionTable
from tests.simulation.cluster import SimulatedCluster, SimulatedNode, eventually, simulate, small_config

SMALL = small_config(snapshot_entries=5, snapshot_tail_entries=2)


def table_of(machine: SimulatedNode) -> SessionTable:
    """The sessions as this node has them."""
    assembly = machine.running._assembly
    assert assembly is not None
    return assembly.replicated.sessions


async def check_alike(cluster: SimulatedCluster) -> SessionTable:
    """Wait until all nodes have applied the same log; their tables are the same. Return it."""
    await cluster.converge()
    tables = [table_of(machine) for machine in cluster.on]
    assert len({table.encode() for table in tables}) == 1
    return tables[0]


def times_applied(cluster: SimulatedCluster, command: bytes) -> int:
    """How often a command was applied, on the node where it was applied most often."""
    return max(machine.machine.commands.count(command) for machine in cluster.on)


# --- The plain way ---------------------------------------------------------------------------------------------------


def test_session_works_on_every_node_and_leaves_nothing_behind() -> None:
    """Results are those of the machine, at the index of the entry; a closed session is gone from every table."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        for machine in cluster.on:
            async with machine.running.session() as session:
                for number in range(3):
                    command = b"%s%d" % (machine.name.encode(), number)
                    applied = await session.propose(command)
                    assert applied.result == b"%d:%s" % (applied.index, command)
                assert session.unresolved == ()
                assert session.session_id in table_of(await cluster.leader()).session_ids
        table = await check_alike(cluster)
        assert table.session_ids == ()
        assert table.result_bytes == 0
        assert len(cluster["a"].machine.commands) == 9

    simulate(main)


def test_many_tasks_may_use_one_session() -> None:
    """More of them than may be under way at once: the others wait, and all are applied."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        results: list[Applied] = []
        async with cluster["a"].running.session() as session, trio.open_nursery() as nursery:

            async def propose(command: bytes) -> None:
                results.append(await session.propose(command))

            for number in range(40):
                nursery.start_soon(propose, b"%d" % number)
        await check_alike(cluster)
        assert len({applied.index for applied in results}) == 40
        assert sorted(cluster["b"].machine.commands) == sorted(b"%d" % number for number in range(40))

    simulate(main, config=NodeConfig(max_session_outstanding=8))


def test_command_that_can_never_be_is_refused_before_it_has_a_number() -> None:
    """By the machine, by its size, by its version; so is a session that could not be kept alive."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        node = (await cluster.leader()).running
        async with node.session() as session:
            for command in (b"invalid", bytes(1025)):
                with pytest.raises(InvalidCommand):
                    await session.propose(command)
            with pytest.raises(VersionNotEnabled):
                await session.propose(b"x", version=2)
            with pytest.raises(InvalidCommand, match="at least 1"):
                await session.propose(b"x", version=0)
            assert (await session.propose(bytes(1024))).index > 0
        for ttl_s in (0.5, 1e9):
            with pytest.raises(ConfigError, match="ttl_s"):
                async with node.session(ttl_s=ttl_s):
                    raise AssertionError("unreachable")

    simulate(main)


def test_error_of_the_body_leaves_the_block_as_it_is() -> None:
    """No group is made of it; the session is closed all the same."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        await cluster.leader()
        with pytest.raises(KeyError):
            async with cluster["a"].running.session():
                raise KeyError("the body's own")
        assert (await check_alike(cluster)).session_ids == ()

    simulate(main)


# --- Lost on the way -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_answer_that_is_lost_is_asked_for_again() -> None:
    """The client's node is cut off at each moment of a command's way: it is applied once, and the answer is its own."""
    for cut_after_checkpoints in range(0, 120, 4):

        async def main(cluster: SimulatedCluster, moment: int = cut_after_checkpoints) -> None:
            await cluster.start_all()
            client = (await cluster.followers())[0]
            async with client.running.session() as session, trio.open_nursery() as nursery:
                answers: list[Applied] = []

                async def propose() -> None:
                    answers.append(await session.propose(b"once"))

                nursery.start_soon(propose)
                for _ in range(moment):
                    await trio.lowlevel.checkpoint()
                cluster.network.isolate(client.name)
                await trio.sleep(12)
                cluster.network.heal()
            await check_alike(cluster)
            for machine in cluster.on:
                assert machine.machine.lines == [(answers[0].index, b"once")]

        simulate(main, seed=cut_after_checkpoints)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_clients_survive_leaders_that_crash(seed: int) -> None:
    """Sessions of all nodes go on while one leader after another loses its power; snapshots are taken and restored."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        done: list[tuple[bytes, Applied]] = []
        attempted: list[bytes] = []

        async def client(machine: SimulatedNode, count: int) -> None:
            async with machine.running.session(ttl_s=30) as session:
                for number in range(count):
                    command = b"%s%d" % (machine.name.encode(), number)
                    attempted.append(command)
                    done.append((command, await session.propose(command)))
                    await trio.sleep(0.3)

        async with trio.open_nursery() as nursery:
            # "d" and "e" stay up, and have the clients; the others come and go.
            for name in "de":
                nursery.start_soon(client, cluster[name], 40)
            for _ in range(4):
                await trio.sleep(2)
                leader = next((m for m in cluster.on if m.running.status().leader_id == m.name), None)
                if leader is None or leader.name in "de":
                    victim = cluster.rng.choice([machine for machine in cluster.on if machine.name in "abc"])
                else:
                    victim = leader
                await cluster.crash(victim.name)
                await trio.sleep(2)
                await cluster.start(victim.name)
        await check_alike(cluster)
        cluster.check_acknowledged(done, attempted=attempted)
        assert len(done) == len(attempted) == 80
        assert any(machine.machine.restored for machine in cluster.on) or cluster["a"].disk.synced.snapshot

    simulate(main, size=5, seed=seed, config=SMALL)


def test_sessions_outlive_a_restart_of_every_node_from_snapshots() -> None:
    """What the table held is in the snapshots: a command that comes again after the restart is recognised."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        tokens: list[tuple[SessionToken, Applied]] = []
        async with leader.running.session() as session:
            for number in range(12):
                token = session.prepare()
                tokens.append((token, await session.propose(b"%d" % number, token=token)))
            for name in cluster.names:
                await cluster.crash(name)
        await cluster.start_all()
        assert all(machine.disk.synced.snapshot is not None for machine in cluster.on)
        node = cluster["b"].running
        for token, applied in tokens:
            assert await node.resolve(token) == applied
        await check_alike(cluster)
        assert cluster["a"].machine.commands == [b"%d" % number for number in range(12)]

    simulate(main, config=SMALL)


def test_snapshot_carries_the_sessions_to_a_follower_that_was_away() -> None:
    """It gets table and machine together, and recognises what the others do."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        leader, away = await cluster.leader(), (await cluster.followers())[0]
        await cluster.stop(away.name)
        async with leader.running.session() as session:
            token = session.prepare()
            applied = await session.propose(b"first", token=token)
            for number in range(20):
                await session.propose(b"%d" % number)
            await cluster.start(away.name)
            table = await check_alike(cluster)
            assert away.machine.restored == 1
            assert table.session_ids == (session.session_id,)
            await cluster.stop(leader.name)
            assert await away.running.resolve(token) == applied

    simulate(main, config=SMALL)


# --- Giving up -------------------------------------------------------------------------------------------------------


def test_cancelled_command_is_remembered_and_can_be_resolved() -> None:
    """Cancelled while its answer is on the way: resolving returns what the answer would have been."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        client = (await cluster.followers())[0]
        async with client.running.session() as session:
            cluster.network.isolate(client.name)
            with trio.move_on_after(0.5):
                await session.propose(b"perhaps")
            (token,) = session.unresolved
            cluster.network.heal()
            applied = await session.resolve(token)

            assert session.unresolved == ()
            with pytest.raises(TokenSettled):
                await session.resolve(token)
            lines = (await cluster.leader()).machine.lines
            assert lines == ([] if applied is None else [(applied.index, b"perhaps")])
            with pytest.raises(ValueError, match="has given out 1"):
                await session.resolve(SessionToken(session.session_id, 2))
            await session.propose(b"next")
        assert (await check_alike(cluster)).session_ids == ()
        assert times_applied(cluster, b"perhaps") == (applied is not None)

    simulate(main)


def test_command_taken_back_before_it_was_sent_needs_no_resolving() -> None:
    """Cancelled while there was no leader to send it to, it is not done, and the session knows."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        client = await cluster.leader()
        async with client.running.session() as session:
            others = [machine for machine in cluster.on if machine is not client]
            for machine in others:
                await cluster.stop(machine.name)
            await eventually(lambda: client.running.status().leader_id is None)
            with trio.move_on_after(0.5) as patience:
                await session.propose(b"never")
            assert patience.cancelled_caught
            with pytest.raises(ProposalRefused):
                await session.propose(b"never", give_up_s=0.5)
            assert session.unresolved == ()
            for machine in others:
                await cluster.start(machine.name)
        await check_alike(cluster)
        assert client.machine.commands == []

    simulate(main)


def test_resolved_command_that_was_not_applied_never_is() -> None:
    """Whoever has the token fences it from another node, and the command's own node hears so when it comes."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        client, other = await cluster.followers()
        async with client.running.session() as session:
            token = session.prepare()
            cluster.network.isolate(client.name)
            async with trio.open_nursery() as nursery:

                async def propose() -> None:
                    with pytest.raises(NeverApplied):
                        await session.propose(b"late", token=token)

                nursery.start_soon(propose)
                await trio.sleep(1)
                assert await other.running.resolve(token) is None
                assert await other.running.resolve(token) is None
                cluster.network.heal()
            session.release(token)
            with pytest.raises(TokenSettled):
                await session.propose(b"late", token=token)
        await check_alike(cluster)
        assert times_applied(cluster, b"late") == 0

    simulate(main)


def test_give_up_with_an_attempt_on_its_way_tells_the_token() -> None:
    """A leader that nobody follows takes the command, and cannot say what becomes of it."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        client = await cluster.leader()
        async with client.running.session() as session:
            cluster.network.isolate(client.name)
            with pytest.raises(OutcomeUnknown) as caught:
                await session.propose(b"perhaps", give_up_s=0.3)
            assert (caught.value.token,) == session.unresolved
            cluster.network.heal()
            assert caught.value.token is not None
            # The new leader's log has replaced the entry.
            assert await client.running.resolve(caught.value.token) is None
            assert await session.resolve(caught.value.token) is None
        await check_alike(cluster)
        assert times_applied(cluster, b"perhaps") == 0

    simulate(main)


def test_session_with_an_unresolved_command_is_left_to_expire() -> None:
    """So its token can be resolved after the block, by anyone, as long as the session lives."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        client, other = await cluster.followers()
        async with client.running.session(ttl_s=5) as session:
            token = session.prepare()
            applied = await session.propose(b"x", token=token)
        assert session.has_ended
        assert await other.running.resolve(token) == applied
        with pytest.raises(SessionExpired):
            await session.propose(b"y")
        with pytest.raises(SessionExpired):
            session.prepare()
        await trio.sleep(6)
        with pytest.raises(SessionExpired) as caught:
            await other.running.resolve(token)
        assert caught.value.may_be_applied
        assert (await check_alike(cluster)).session_ids == ()

    simulate(main)


def test_tokens_are_told_apart() -> None:
    """One of another session can be resolved here, not proposed; one not of prepare() cannot be proposed either."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        node = (await cluster.leader()).running
        async with node.session() as one, node.session() as other:
            token = other.prepare()
            with pytest.raises(ValueError, match="not of session"):
                await one.propose(b"x", token=token)
            assert await one.resolve(token) is None
            one.release(token)
            with pytest.raises(NeverApplied):
                await other.propose(b"x", token=token)
            other.release(token)
            other.release(token)

            cluster.network.isolate(node.node_id)
            with trio.move_on_after(0.1):
                await one.propose(b"x")
            with pytest.raises(ValueError, match="not one of prepare"):
                await one.propose(b"y", token=one.unresolved[0])
            token = one.prepare()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: one.propose(b"z", token=token))
                await trio.sleep(0.1)
                with pytest.raises(ValueError, match="being proposed"):
                    one.release(token)
                cluster.network.heal()

    simulate(main)


def test_node_that_stops_ends_its_sessions() -> None:
    """What was not sent is not done; what was may be, and the token tells later."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        client = await cluster.leader()
        async with client.running.session() as session:
            cluster.network.isolate(client.name)
            async with trio.open_nursery() as nursery:

                async def propose() -> None:
                    with pytest.raises(OutcomeUnknown):
                        await session.propose(b"x")

                nursery.start_soon(propose)
                await trio.sleep(0.1)
                await cluster.stop(client.name)
            with pytest.raises(NodeStopped):
                await session.propose(b"y")
            cluster.network.heal()
            assert len(session.unresolved) == 1
            await cluster.leader([machine.name for machine in cluster.on])
            assert await cluster.on[0].running.resolve(session.unresolved[0]) is None

    simulate(main)


# --- Limits ----------------------------------------------------------------------------------------------------------


def test_sessions_are_bounded() -> None:
    """The one too many is refused, and one that is closed makes room."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        node = (await cluster.leader()).running
        async with node.session():
            with pytest.raises(SessionLimit, match="max_sessions"):
                async with node.session():
                    raise AssertionError("unreachable")
        async with node.session():
            pass

    simulate(main, config=NodeConfig(max_sessions=1))


def test_results_are_bounded() -> None:
    """A command without room for its result is not applied; a session that is done with one makes room."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        node = (await cluster.leader()).running
        async with node.session() as session:
            token = session.prepare()
            await session.propose(b"0123456789", token=token)
            with pytest.raises(SessionLimit, match="max_session_result_bytes"):
                await session.propose(b"x")
            session.release(token)
            await session.propose(b"y")
        await check_alike(cluster)
        assert cluster["a"].machine.commands == [b"0123456789", b"y"]

    simulate(main, config=NodeConfig(max_session_result_bytes=10))


def test_commands_nobody_asks_about_are_bounded() -> None:
    """The session says which, and takes commands again once they are resolved."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        client = await cluster.leader()
        async with client.running.session() as session:
            cluster.network.isolate(client.name)
            for number in range(4):
                with trio.move_on_after(0.01):
                    await session.propose(b"%d" % number)
            with pytest.raises(SessionLimit, match="keeps 4 commands"):
                await session.propose(b"x")
            with pytest.raises(SessionLimit, match="keeps 4 commands"):
                session.prepare()
            cluster.network.heal()
            applied = [await session.resolve(token) for token in session.unresolved]
            await session.propose(b"x")
        await check_alike(cluster)
        assert client.machine.commands == [b"%d" % number for number in range(4) if applied[number]] + [b"x"]

    simulate(main, config=NodeConfig(max_session_outstanding=8))


def test_room_that_does_not_come_is_given_up() -> None:
    """A command that waits for others of its session is not done when give_up_s has passed."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        client = await cluster.leader()
        async with client.running.session() as session, trio.open_nursery() as nursery:
            cluster.network.isolate(client.name)
            nursery.start_soon(session.propose, b"first")
            await trio.sleep(0.01)
            with pytest.raises(ProposalRefused, match="no room"):
                await session.propose(b"second", give_up_s=0.1)
            cluster.network.heal()
        await check_alike(cluster)
        assert client.machine.commands == [b"first"]

    simulate(main, config=NodeConfig(max_session_outstanding=2))


def test_leader_with_lower_limits_refuses_what_it_cannot_keep() -> None:
    """The leader's limits count; the client of another node hears so, and nothing was done."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        client = (await cluster.followers())[0]
        async with client.running.session() as session:
            # As if this node had been configured alone.
            session._client.max_outstanding = 100
            tokens = [session.prepare() for _ in range(3)]
            for token in tokens[:2]:
                await session.propose(b"x", token=token)
            with pytest.raises(SessionLimit, match="the leader's max_session_outstanding"):
                await session.propose(b"y", token=tokens[2])
            with pytest.raises(SessionLimit, match="as many outcomes"):
                await session.resolve(tokens[2])
        await check_alike(cluster)
        assert cluster["a"].machine.commands == [b"x", b"x"]

    simulate(main, config=NodeConfig(max_session_outstanding=2))


# --- Time ------------------------------------------------------------------------------------------------------------


def test_idle_session_is_kept_alive() -> None:
    """By its node, a few entries in each of its lifetimes, whoever leads."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        client = (await cluster.followers())[0]
        async with client.running.session(ttl_s=3) as session:
            for _ in range(3):
                before = client.running.status().last_log_index
                await trio.sleep(30)
                assert client.running.status().last_log_index - before <= 40
                await (await cluster.leader()).running.transfer_leadership()
            assert (await session.propose(b"still here")).index > 0
        assert (await check_alike(cluster)).session_ids == ()

    simulate(main)


def test_session_expires_on_all_nodes_while_its_client_is_cut_off() -> None:
    """Others make the log's time go on. The client hears so with its next command, which is not applied."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        client, other = await cluster.followers()
        async with client.running.session(ttl_s=2) as session:
            await session.propose(b"before")
            cluster.network.isolate(client.name)
            async with other.running.session(ttl_s=2) as alive:
                await trio.sleep(10)
                cluster.network.heal()
                with pytest.raises(SessionExpired) as caught:
                    await session.propose(b"after")
                assert not caught.value.may_be_applied
                assert session.has_ended
                assert (await check_alike(cluster)).session_ids == (alive.session_id,)
        assert times_applied(cluster, b"after") == 0

    simulate(main)


def test_command_that_met_the_end_of_its_session_may_have_been_applied() -> None:
    """The answer to its first copy was lost, the second found no session: nobody can tell, and the error says so."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        client, other = await cluster.followers()
        async with client.running.session(ttl_s=2) as session, other.running.session(ttl_s=2):
            async with trio.open_nursery() as nursery:

                async def propose() -> None:
                    with pytest.raises(SessionExpired) as caught:
                        await session.propose(b"perhaps")
                    assert caught.value.may_be_applied

                leader = await cluster.leader()
                nursery.start_soon(propose)
                end = leader.running.status().last_log_index
                while leader.running.status().last_log_index == end:
                    await trio.lowlevel.checkpoint()
                cluster.network.isolate(client.name)
                await trio.sleep(15)
                cluster.network.heal()
            assert session.has_ended
        await check_alike(cluster)
        assert times_applied(cluster, b"perhaps") == 1

    simulate(main)


def test_no_session_ages_while_nobody_leads() -> None:
    """A cluster that was without a leader for longer than any lifetime finds all its sessions alive (copycat #70)."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start_all()
        client = (await cluster.followers())[0]
        async with client.running.session(ttl_s=2) as session:
            for name in cluster.names:
                cluster.network.isolate(name)
            cluster.clock_step_s = 86_400.0
            await trio.sleep(60)
            cluster.network.heal()
            assert (await session.propose(b"x")).index > 0
        await check_alike(cluster)

    simulate(main)


# --- Cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cancelling_a_session_at_every_checkpoint_leaves_nothing_running() -> None:
    """Opening, proposing, resolving, closing: cancelled anywhere, no task stays, and nothing is applied twice."""
    # Not a checkpoint too many: a run that is not cancelled ends the loop.
    for moment in range(0, 1000, 3):

        async def main(cluster: SimulatedCluster, moment: int = moment) -> bool:
            await cluster.start_all()
            client = (await cluster.followers())[0]
            node: Node = client.running
            with trio.CancelScope() as scope:

                async def cancel() -> None:
                    for _ in range(moment):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                cluster.nursery.start_soon(cancel)
                async with node.session(ttl_s=2) as session:
                    token = session.prepare()
                    await session.propose(b"one", token=token)
                    await session.propose(b"two")
                    await session.resolve(token)
                    session.release(token)
            await trio.sleep(5)
            async with node.session() as session:
                await session.propose(b"three")
            table = await check_alike(cluster)
            assert table.session_ids == ()
            assert not [task for task in _tasks(node) if "keep-alive" in task]
            assert all(times_applied(cluster, command) <= 1 for command in (b"one", b"two"))
            assert times_applied(cluster, b"three") == 1
            return scope.cancelled_caught

        if not simulate(main):
            break
    else:
        raise AssertionError("the runs do not end")


def _tasks(node: Node) -> list[str]:
    assert node._assembly is not None
    return [task.name for task in node._assembly.nursery.child_tasks]
