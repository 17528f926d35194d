"""Figures 7 and 8 of the Raft paper, and its rules on restarts and minorities, with real disks and every message.

``tests/data/raft_figure_8.txt`` tells Figure 8 step by step; here stand the assertions.
"""

from __future__ import annotations

import pytest

from clustercore.raft.config import RaftConfig
from clustercore.raft.core import RaftCore
from clustercore.raft.effects import Effects, Reply, Send
from clustercore.raft.messages import AppendEntriesRequest, RaftMessage, RequestVoteRequest
from clustercore.raft.types import HardState, LogIndex, NodeId, Role, Term, WriteId
from clustercore.testing.invariants import Invariants
from clustercore.testing.protocol import World
from clustercore.testing.protocol.disk import Disk
from tests.unit.raft.building import A, B, candidate, follower, log_of, vote_request, vote_response

# --- Figure 7 ---

LEADER = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
# The followers' logs by terms, and how many requests it takes until they equal the leader's.
FOLLOWERS = {
    # Entries are missing: the first answer says where the log ends.
    "a": ((1, 1, 1, 4, 4, 5, 5, 6, 6), 2),
    "b": ((1, 1, 1, 4), 2),
    # Entries too many: the first request fits, and what conflicts with it is cut.
    "c": ((1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6), 1),
    "d": ((1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7), 1),
    # Both: back to the log's end, then to the leader's last entry of term 4.
    "e": ((1, 1, 1, 4, 4, 4, 4), 3),
    # Two terms the leader never saw: one request for each, and one that fits.
    "f": ((1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3), 3),
}


def terms_of(core: RaftCore) -> tuple[int, ...]:
    """The terms in a core's log, which starts at 1."""
    return tuple(entry.term for entry in core.state.log.slice(LogIndex(1), core.state.log.last_index))


def requests_to(peer: NodeId, effects: Effects) -> list[RaftMessage]:
    """The requests among effects that go to one peer."""
    return [effect.message for effect in effects if isinstance(effect, Send) and effect.to == peer]


def replies_in(effects: Effects) -> list[RaftMessage]:
    """The replies among effects."""
    return [effect.message for effect in effects if isinstance(effect, Reply)]


@pytest.mark.parametrize("name", FOLLOWERS)
def test_figure_7_follower_converges(name: str) -> None:
    """Figure 7, §5.3: each follower's log is made the leader's, in one request for every term they differ in."""
    terms, expected_requests = FOLLOWERS[name]
    leader = candidate("ab", entries=log_of(*LEADER), term=8)
    other = follower("ab", entries=log_of(*terms), term=7, node="b")
    leader.storage_done(WriteId(1), 1.0)
    requests = requests_to(B, leader.receive(B, vote_response(8, True), 1.0))
    sent = 0

    while requests:
        sent += 1
        for reply in replies_in(other.receive(A, requests.pop(0), 1.0)):
            other.storage_done(other.state.last_write_id, 1.0)
            requests += requests_to(B, leader.receive(B, reply, 1.0))

    assert terms_of(other) == terms_of(leader) == (*LEADER, 8)
    assert leader.state.progress[B].match_index == other.state.durable_index == 11
    assert sent == expected_requests


def settle(world: World, *names: str) -> None:
    """Let these nodes do all that they have to, among themselves; what goes elsewhere is lost."""
    world.partition({NodeId(name): 1 for name in names})
    while True:
        for name in names:
            world.flush(NodeId(name))
        if not world.pool:
            return
        world.deliver(0)


def heartbeats(world: World, leader: str, *others: str) -> None:
    """Two rounds: the first brings what is missing, the second what is committed."""
    for _ in range(2):
        world.expire(NodeId(leader))
        settle(world, leader, *others)


def test_figure_7_cluster_repairs_itself() -> None:
    """Figure 7, §5.3, §5.4.1: the leader of term 8 wins against (c) and (d), and every follower takes its log."""
    disks = {name: Disk(HardState(Term(7)), entries=list(log_of(*terms))) for name, (terms, _) in FOLLOWERS.items()}
    disks["leader"] = Disk(HardState(Term(7)), entries=list(log_of(*LEADER)))
    world = World(disks, disks=disks, watchers=[Invariants()])

    world.expire(NodeId("leader"))
    settle(world, *disks)
    votes = {name: node.disk.hard_state.voted_for for name, node in world.nodes.items()}
    heartbeats(world, "leader", *disks)

    assert {name for name, vote in votes.items() if vote == "leader"} == {"a", "b", "e", "f", "leader"}
    assert {terms_of(node.core) for node in world.nodes.values()} == {(*LEADER, 8)}
    assert {node.machine.index for node in world.nodes.values()} == {11}


# --- Figure 8 ---

S1, S2, S3, S4, S5 = (NodeId(f"s{number}") for number in range(1, 6))


def figure_8_b() -> World:
    """Figure 8 up to (b): s1 led term 2 and got 2:2 to s2; s5 led term 3 and wrote 2:3; both have crashed."""
    disks = {str(name): Disk(HardState(Term(1)), entries=list(log_of(1))) for name in (S1, S2, S3, S4, S5)}
    # One entry in a request, so that 2:2 reaches s3 in (c) before anything of term 4 does.
    world = World(disks, config=RaftConfig(max_append_entries=1), disks=disks, watchers=[Invariants()])
    elect(world, S1, S2, S3)
    pass_on(world, S1, S2)
    world.crash(S1)
    elect(world, S5, S3, S4)
    world.crash(S5)
    world.pool.clear()
    return world


def elect(world: World, name: NodeId, *voters: NodeId) -> None:
    """Let a node win the pre-votes and votes of some, and no request for entries get through."""
    node = world.nodes[name]
    while node.core.state.role is not Role.LEADER:
        world.pool.clear()
        world.expire(name)
        # Once for the pre-votes, and once for the votes.
        for _ in range(2):
            world.flush(name)
            for voter in voters:
                pass_on(world, name, voter)
            for voter in voters:
                pass_on(world, voter, name)
    world.flush(name)


def pass_on(world: World, sender: NodeId, to: NodeId) -> None:
    """Deliver the newest message on its way from one node to another, if there is one, and write what it asks for."""
    positions = [position for position, packet in enumerate(world.pool) if (packet.sender, packet.to) == (sender, to)]
    if positions:
        world.deliver(positions[-1])
        world.flush(to)


def figure_8_c() -> World:
    """Figure 8 (c): s1 leads term 4, and s1, s2 and s3 have 2:2; s1 knows it, from s2 by its answer to 3:4."""
    world = figure_8_b()
    world.start(S1)
    elect(world, S1, S2, S3)
    pass_on(world, S1, S2)
    pass_on(world, S2, S1)
    # s3 says that it lacks 2:2, gets it, and acknowledges it.
    for _ in range(2):
        pass_on(world, S1, S3)
        pass_on(world, S3, S1)
    return world


def test_figure_8_begins_as_in_the_paper() -> None:
    """Figure 8 (a), (b): s1 and s2 have 2:2, s5 has 2:3, s3 and s4 have neither."""
    world = figure_8_b()

    logs = {name: tuple(entry.term for entry in node.disk.entries) for name, node in world.nodes.items()}
    assert logs == {S1: (1, 2), S2: (1, 2), S3: (1,), S4: (1,), S5: (1, 3)}


def test_figure_8_majority_on_an_earlier_term_commits_nothing() -> None:
    """Figure 8 (c), §5.4.2: 2:2 is durable on three of five, which the leader of term 4 knows, and not committed."""
    world = figure_8_c()

    assert [world.nodes[name].disk.term_at(LogIndex(2)) for name in (S1, S2, S3)] == [2, 2, 2]
    leader = world.nodes[S1].core.state
    assert (leader.durable_index, leader.progress[S2].match_index, leader.progress[S3].match_index) == (3, 3, 2)
    assert leader.log.term_at(LogIndex(3)) == 4
    assert leader.commit_index == 0


def test_figure_8_entry_of_an_earlier_term_can_be_overwritten() -> None:
    """Figure 8 (d): s5 wins term 5 with s3 and s4, and 2:2 is gone from everyone."""
    world = figure_8_c()
    world.crash(S1)
    world.start(S5)

    elect(world, S5, S3, S4)
    heartbeats(world, S5, S2, S3, S4)

    for name in (S2, S3, S4, S5):
        assert [entry.term for entry in world.nodes[name].disk.entries] == [1, 3, 5]
        assert world.nodes[name].core.state.commit_index == 3


def test_figure_8_entry_of_the_leaders_term_commits_those_before() -> None:
    """Figure 8 (e), §5.4.2: 3:4 on a majority commits 2:2 too, and s5 cannot win any more.

    With pre-votes (thesis §9.6) it does not even stand: no new term begins. If it did, it would be denied the votes.
    """
    world = figure_8_c()
    heartbeats(world, S1, S2, S3)
    assert world.nodes[S1].core.state.commit_index == 3

    world.crash(S1)
    world.start(S5)
    for _ in range(3):
        world.expire(S5)
        settle(world, S2, S3, S4, S5)

    assert world.nodes[S5].core.state.role is Role.PRE_CANDIDATE
    assert [world.nodes[name].disk.hard_state for name in (S2, S3)] == [HardState(Term(4), S1)] * 2
    for name in (S2, S3):
        answers = world.nodes[name].core.receive(S5, vote_request(5, S5, last=(2, 3)), world.now)
        assert replies_in(answers) == [vote_response(5, False)]


# --- Restarts and minorities ---


def cluster(size: int) -> tuple[World, list[str]]:
    """A settled cluster whose first node leads, with one command applied everywhere."""
    names = [f"n{number}" for number in range(1, size + 1)]
    world = World(names, watchers=[Invariants()])
    world.expire(NodeId(names[0]))
    settle(world, *names)
    world.propose(NodeId(names[0]), [b"x"])
    settle(world, *names)
    heartbeats(world, names[0], *names[1:])
    assert {node.machine.index for node in world.nodes.values()} == {2}
    return world, names


@pytest.mark.parametrize("size", [1, 3, 5])
def test_cluster_elects_and_commits(size: int) -> None:
    """§5.2, §5.3: clusters of one, three and five agree on one leader and apply what it commits."""
    world, names = cluster(size)

    assert [node.core.state.role for node in world.nodes.values()] == [Role.LEADER] + [Role.FOLLOWER] * (size - 1)
    assert {node.core.state.leader_id for node in world.nodes.values()} == {names[0]}


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_minority_never_commits(size: int) -> None:
    """§5.3: a leader cut off with less than a majority commits nothing; the rest elects another and goes on.

    Within an election timeout the leader steps down (thesis §6.2), and begins no new term by itself (thesis §9.6).
    """
    world, names = cluster(size)
    minority, majority = names[: (size - 1) // 2 or 1], names[(size - 1) // 2 or 1 :]

    world.propose(NodeId(names[0]), [b"lost"])
    for _ in range(20):
        heartbeats(world, *minority)

    cut_off = [world.nodes[NodeId(name)].core.state for name in minority]
    assert {state.commit_index for state in cut_off} == {2}
    assert {state.current_term for state in cut_off} == {1}
    assert cut_off[0].role is Role.PRE_CANDIDATE
    if len(majority) * 2 > size:
        world.expire(NodeId(majority[0]))
        settle(world, *majority)
        heartbeats(world, *majority)
        assert {world.nodes[NodeId(name)].machine.index for name in majority} == {3}

        heartbeats(world, majority[0], *majority[1:], *minority)
        assert len({node.machine.digest for node in world.nodes.values()}) == 1


@pytest.mark.parametrize("role", list(Role))
def test_node_restarts_from_its_disk_in_every_role(role: Role) -> None:
    """§5.2, Figure 2: whatever a node was, it comes back as a follower with its term, vote and log, and rejoins."""
    world, names = cluster(3)
    victim, other_follower = NodeId(names[0] if role is Role.LEADER else names[1]), NodeId(names[2])
    if role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
        world.expire(victim)
    if role is Role.CANDIDATE:
        pass_on(world, victim, other_follower)
        pass_on(world, other_follower, victim)
    node = world.nodes[victim]
    before = picture_of_disk(node.core)
    assert node.core.state.role is role

    world.crash(victim)
    world.start(victim)

    assert node.core.state.role is Role.FOLLOWER
    assert picture_of_disk(node.core) == before
    assert (node.core.state.commit_index, node.machine.index) == (0, 0)
    win(world, names[2], *names)
    heartbeats(world, names[2], *names[:2])
    assert len({other.machine.digest for other in world.nodes.values()}) == 1
    assert node.machine.index == 3


def win(world: World, name: str, *names: str) -> None:
    """Let a node's election deadlines pass until it leads.

    Not the first, where the victim has just started and protects whom it may have followed, or spent the term already.
    """
    while world.nodes[NodeId(name)].core.state.role is not Role.LEADER:
        world.expire(NodeId(name))
        settle(world, *names)


def picture_of_disk(core: RaftCore) -> tuple[object, ...]:
    """What must survive a restart (Raft Figure 2, persistent state)."""
    return core.state.current_term, core.state.voted_for, terms_of(core)


def test_crash_of_a_candidate_before_its_vote_is_durable_leaves_no_trace() -> None:
    """§5.2: nobody was asked for a vote, so the node may vote for another in the same term when it is back."""
    world, names = cluster(3)
    victim, other = NodeId(names[1]), NodeId(names[2])
    world.expire(victim)
    pass_on(world, victim, other)
    world.deliver(next(place for place, packet in enumerate(world.pool) if packet.to == victim))
    assert world.nodes[victim].core.state.role is Role.CANDIDATE
    assert not any(isinstance(packet.message, RequestVoteRequest) for packet in world.pool)

    world.crash(victim)
    world.start(victim)
    win(world, other, *names)

    assert world.nodes[victim].disk.hard_state == HardState(Term(2), other)


def test_pipelined_requests_are_all_append_entries_of_one_term() -> None:
    """§5.3: a leader's window holds requests that each continue the one before."""
    world, names = cluster(2)

    for command in (b"a", b"b", b"c"):
        world.propose(NodeId(names[0]), [command])

    requests = [packet.message for packet in world.pool]
    assert all(isinstance(request, AppendEntriesRequest) for request in requests)
    assert [getattr(request, "prev_log_index", None) for request in requests] == [2, 3, 4]
