"""Interleavings that random search seldom meets, step by step; and what each finds if the rule it is about is left out.

Each scenario runs on the core as it is, where every property holds, and once more with one rule taken away, where the
property breaks that the rule is there for. So none of them can pass without looking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import pytest

from clustercore.raft import commit, core, receive_append_entries, replication
from clustercore.raft.config import RaftConfig
from clustercore.raft.messages import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    PreVoteRequest,
    PreVoteResponse,
    RaftMessage,
    RequestVoteRequest,
    RequestVoteResponse,
)
from clustercore.raft.quorum import quorum_value
from clustercore.raft.replication import receive_append_entries_response
from clustercore.raft.state import RaftState
from clustercore.raft.types import LogIndex, NodeId, Role, Term
from clustercore.testing.invariants import PROPERTIES, Invariant, Invariants
from clustercore.testing.invariants.stale_messages import StaleMessages
from clustercore.testing.protocol import World
from clustercore.testing.protocol.runs import property_of
from clustercore.testing.protocol.spells import stand, talk
from clustercore.testing.protocol.world import Packet

Patch = pytest.MonkeyPatch
N1, N2, N3, N4, N5 = [NodeId(f"n{number}") for number in range(1, 6)]


class Scene:
    """A world with words for what a scenario does."""

    properties: Sequence[type[Invariant]] = PROPERTIES

    def __init__(self, count: int, *, max_append_entries: int = 1, max_inflight_appends: int = 4) -> None:
        config = RaftConfig(max_append_entries=max_append_entries, max_inflight_appends=max_inflight_appends)
        names = [f"n{number}" for number in range(1, count + 1)]
        self.world = World(names, config=config, watchers=[Invariants(properties=self.properties)])

    def state(self, name: NodeId) -> RaftState:
        """Return what a node knows."""
        return self.world.nodes[name].core.state

    def elect(self, name: NodeId, voters: Iterable[NodeId]) -> None:
        """Let a node be elected by these; what it then sends is on its way."""
        stand(self.world, name, [name, *voters])
        assert self.state(name).role is Role.LEADER

    def talk(self, *names: NodeId) -> None:
        """Let these finish all that is between them."""
        talk(self.world, names, beats=0)

    def propose(self, name: NodeId, *commands: bytes) -> None:
        """Propose at a leader, each command by itself."""
        for command in commands:
            self.world.propose(name, [command])
        self.world.flush(name)

    def lose_all(self) -> None:
        """Lose whatever is on its way."""
        while self.world.pool:
            self.world.drop(0)

    def take(self, kind: type[RaftMessage], sender: NodeId, to: NodeId) -> list[Packet]:
        """Take messages out of the network, to come back later."""
        taken = [p for p in self.world.pool if isinstance(p.message, kind) and (p.sender, p.to) == (sender, to)]
        self.world.pool = [packet for packet in self.world.pool if packet not in taken]
        return taken

    def deliver(self, kind: type[RaftMessage], sender: NodeId, to: NodeId) -> None:
        """Deliver the messages of a kind that are between two nodes, in order; the receiver finishes its writes."""
        packets = self.take(kind, sender, to)
        assert packets, f"there is no {kind.__name__} from {sender} to {to}"
        self.hand_over(packets)

    def hand_over(self, packets: Iterable[Packet]) -> None:
        """Deliver messages that were taken out before, or once more."""
        for packet in packets:
            self.world.pool.append(packet)
            self.world.deliver(len(self.world.pool) - 1)
            self.world.flush(packet.to)


def breaks(scenario: Callable[[], object]) -> str:
    """Return the name of the property that a scenario breaks."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one it is, is looked at
        scenario()
    return property_of(caught.value)


# --- An acknowledgement of an earlier leadership of the same node -----------------------------------------------------


def stale_acknowledgement() -> Scene:
    """n1 leads twice; between, n2 loses what it acknowledged the first time. That answer comes only now.

    ::

        n1  1:1 2:1 3:1 4:1        leads term 1; n2 has all of it and says so, which is late
        n3  1:1 2:2                leads term 2, elected by n4 and n5: n2 and n1 lose 2:1 3:1 4:1
        n1  1:1 2:2 3:3 4:3        leads term 3; "n2 has all up to 4" arrives
    """
    scene = Scene(5)
    everyone = (N1, N2, N3, N4, N5)
    scene.elect(N1, everyone[1:])
    scene.talk(*everyone)
    scene.propose(N1, b"2", b"3", b"4")
    scene.deliver(AppendEntriesRequest, N1, N2)
    late = scene.take(AppendEntriesResponse, N2, N1)
    scene.lose_all()

    scene.elect(N3, (N4, N5))
    scene.talk(N3, N1, N2)
    assert [scene.state(name).log.term_at(LogIndex(2)) for name in (N1, N2)] == [2, 2]
    scene.lose_all()

    scene.elect(N1, (N4, N5))
    scene.propose(N1, b"new")
    assert scene.state(N1).log.last_index == 4
    scene.lose_all()
    message = late[-1].message
    assert isinstance(message, AppendEntriesResponse)
    assert (message.term, message.match_index) == (1, 4)
    scene.hand_over(late)
    return scene


def test_stale_acknowledgement_of_an_earlier_leadership_is_not_counted() -> None:
    """An answer counts in the term it was given for (Raft §5.1), though the same node leads again."""
    scene = stale_acknowledgement()

    assert scene.state(N1).progress[N2].match_index < 4
    assert scene.state(N1).commit_index < 3


def test_stale_acknowledgement_breaks_match_index_if_its_term_is_not_looked_at(monkeypatch: Patch) -> None:
    """Counted, it stands for entries that n2 has not."""

    def of_any_term(state: RaftState, peer: NodeId, response: AppendEntriesResponse, now: float) -> None:
        receive_append_entries_response(state, peer, attrs.evolve(response, term=state.current_term), now)

    monkeypatch.setattr(core, "receive_append_entries_response", of_any_term)

    assert breaks(stale_acknowledgement) == "stale messages change nothing"
    monkeypatch.setattr(Scene, "properties", tuple(one for one in PROPERTIES if one is not StaleMessages))
    assert breaks(stale_acknowledgement) == "match index is true"


# --- A request that comes once more, after what it brought was built upon ---------------------------------------------


def repeated_append() -> Scene:
    """n2 gets entry 2, then 3 and 4, acknowledges all, and then gets the request with entry 2 once more."""
    scene = Scene(3)
    scene.elect(N1, (N2, N3))
    scene.talk(N1, N2, N3)
    scene.propose(N1, b"2", b"3", b"4")
    first = scene.take(AppendEntriesRequest, N1, N2)
    scene.hand_over(first)
    scene.talk(N1, N2)
    assert scene.state(N1).progress[N2].match_index == 4
    scene.hand_over(first[:1])
    return scene


def test_repeated_append_cuts_nothing() -> None:
    """Entries behind what is there already may be acknowledged: they stay (Raft Figure 2, AppendEntries rule 3)."""
    scene = repeated_append()

    assert scene.state(N2).log.last_index == 4


def test_repeated_append_breaks_what_is_committed_if_it_cuts(monkeypatch: Patch) -> None:
    """A follower that takes the request's word for the end of its log loses what was committed."""
    monkeypatch.setattr(receive_append_entries, "_new_entries", lambda state, entries: entries)

    assert breaks(repeated_append) in ("committed entries never change", "match index is true")


# --- An older request, after a snapshot -------------------------------------------------------------------------------


def append_after_snapshot() -> Scene:
    """n3 was cut off, and gets a snapshot up to entry 5. Then comes what n1 had sent it first: entry 2."""
    scene = Scene(3)
    scene.elect(N1, (N2, N3))
    scene.talk(N1, N2, N3)
    scene.propose(N1, b"2")
    late = scene.take(AppendEntriesRequest, N1, N3)
    scene.propose(N1, b"3", b"4", b"5")
    scene.talk(N1, N2)
    scene.lose_all()
    assert scene.state(N1).commit_index == 5
    assert scene.world.take_snapshot(N1, tail=0)
    scene.world.flush(N1)
    scene.world.unreachable(N1, N3)
    scene.world.expire(N1)
    for _ in range(6):
        scene.talk(N1, N3)
        while scene.world.nodes[N1].orders:
            scene.world.serve_snapshot(N1, 0)
    assert scene.world.nodes[N3].disk.snapshot_index == 5
    scene.hand_over(late)
    return scene


def test_append_after_a_snapshot_changes_nothing() -> None:
    """All that it brings is covered (Raft §7)."""
    scene = append_after_snapshot()

    assert (scene.state(N3).log.base_index, scene.state(N3).commit_index) == (5, 5)
    assert scene.world.nodes[N3].machine.digest == scene.world.nodes[N1].machine.digest


def test_append_after_a_snapshot_breaks_the_core_if_the_base_is_not_looked_at(monkeypatch: Patch) -> None:
    """It would cut into what is compacted, and that is said at once."""

    def blind(state: RaftState, request: AppendEntriesRequest, now: float) -> None:
        if request.entries and request.prev_log_index < state.log.base_index:
            state.persist_entries(request.entries, now)
        receive_append_entries.receive_append_entries(state, request, now)

    monkeypatch.setattr(core, "receive_append_entries", blind)

    assert breaks(append_after_snapshot) == "a core's state is consistent"


# --- Votes and restarts -----------------------------------------------------------------------------------------------


def vote_after_restart() -> Scene:
    """n1 and n3 stand in one term. n2 votes for n1, crashes, starts again, and is asked by n3."""
    scene = Scene(3)
    for candidate in (N1, N3):
        while scene.state(candidate).role is not Role.PRE_CANDIDATE:
            scene.world.expire(candidate)
        scene.deliver(PreVoteRequest, candidate, N2)
        scene.deliver(PreVoteResponse, N2, candidate)
    assert [(scene.state(name).role, scene.state(name).current_term) for name in (N1, N3)] == [(Role.CANDIDATE, 1)] * 2
    scene.deliver(RequestVoteRequest, N1, N2)
    scene.world.crash(N2)
    scene.world.start(N2)
    scene.deliver(RequestVoteRequest, N3, N2)
    return scene


def test_vote_outlives_a_restart() -> None:
    """Term and vote are on disk before the vote leaves (Raft Figure 2, "persistent state")."""
    scene = vote_after_restart()

    (first,) = scene.take(RequestVoteResponse, N2, N1)
    (second,) = scene.take(RequestVoteResponse, N2, N3)
    assert first.message == RequestVoteResponse(Term(1), vote_granted=True)
    assert second.message == RequestVoteResponse(Term(1), vote_granted=False)


def test_vote_that_does_not_wait_for_the_disk_breaks_durability(monkeypatch: Patch) -> None:
    """It is told before anybody can be sure of it."""
    monkeypatch.setattr(RaftState, "hard_state_gate", None)

    assert breaks(vote_after_restart) == "durable before visible"


def test_vote_that_a_restart_forgets_breaks_recovery(monkeypatch: Patch) -> None:
    """The disk has it; a core that starts without it could vote again."""

    def forgetful(**values: Any) -> RaftState:
        return RaftState(**{**values, "voted_for": None})

    monkeypatch.setattr(core, "RaftState", forgetful)

    assert breaks(vote_after_restart) == "recovery yields all that was acknowledged"


# --- A crash right after an acknowledgement ---------------------------------------------------------------------------


def crash_after_acknowledgement() -> Scene:
    """n2 acknowledges entry 2, by which n1 commits it, and crashes at once; then n1 is gone, and n2 and n3 elect."""
    scene = Scene(3)
    scene.elect(N1, (N2, N3))
    scene.talk(N1, N2, N3)
    scene.propose(N1, b"2")
    for packet in scene.take(AppendEntriesRequest, N1, N2):
        scene.world.pool.append(packet)
        scene.world.deliver(len(scene.world.pool) - 1)
    scene.world.sync(N2, 1)
    answers = scene.take(AppendEntriesResponse, N2, N1)
    scene.world.crash(N2)
    scene.hand_over(answers)
    scene.world.crash(N1)
    scene.world.start(N2)
    scene.lose_all()
    scene.elect(N2, (N3,))
    return scene


def test_acknowledged_entry_outlives_a_crash() -> None:
    """What was committed by it is in the log of the next leader (Raft §5.4.3)."""
    scene = crash_after_acknowledgement()

    assert scene.state(N1).commit_index == 2
    assert scene.state(N2).log.term_at(LogIndex(2)) == 1


def test_acknowledgement_that_does_not_wait_for_the_disk_breaks_durability(monkeypatch: Patch) -> None:
    """The entry would be committed, and on one disk only."""
    monkeypatch.setattr(RaftState, "log_gate", lambda state, index: None)

    assert breaks(crash_after_acknowledgement) == "durable before visible"


# --- Figure 8 ---------------------------------------------------------------------------------------------------------


def figure_8() -> Scene:
    """Figure 8 with one entry in each message: n1 sends its old entry again, and n5 could still win without it.

    ::

        n1  1:1 2:1 3:3        leads terms 1 and 3; by now 2:1 is on n1 to n4
        n5  1:1 2:2            led term 2, with its own entry alone
    """
    scene = Scene(5)
    everyone = (N1, N2, N3, N4, N5)
    scene.elect(N1, everyone[1:])
    scene.talk(*everyone)
    scene.propose(N1, b"2")
    scene.deliver(AppendEntriesRequest, N1, N2)
    scene.world.crash(N1)
    scene.lose_all()
    scene.elect(N5, (N3, N4))
    scene.world.flush(N5)
    scene.world.crash(N5)
    scene.lose_all()
    scene.world.start(N1)
    scene.elect(N1, (N2, N3, N4))
    scene.world.flush(N1)
    # The no-op of the new term is sent first, and refused by those who lack what is before it; each gets one more.
    for _ in range(2):
        for follower in (N3, N4):
            scene.deliver(AppendEntriesRequest, N1, follower)
            scene.deliver(AppendEntriesResponse, follower, N1)
            if scene.state(follower).log.last_index >= 2:
                scene.take(AppendEntriesRequest, N1, follower)
    return scene


def test_figure_8_commits_no_entry_of_an_earlier_term() -> None:
    """A majority has it, and that proves nothing (Raft §5.4.2)."""
    scene = figure_8()

    holders = [name for name, node in scene.world.nodes.items() if node.disk.holds(LogIndex(2), Term(1))]
    assert holders == [N1, N2, N3, N4]
    assert scene.world.nodes[N5].disk.end == (2, 2)
    assert scene.state(N1).progress[N4].match_index == 2
    assert scene.state(N1).commit_index == 0


def test_figure_8_breaks_survival_if_entries_are_committed_by_counting(monkeypatch: Patch) -> None:
    """n5 could win from the disks as they are, and would replace what is committed."""

    def by_counting(state: RaftState) -> bool:
        match_indexes = {peer: progress.match_index for peer, progress in state.progress.items()}
        match_indexes[state.node_id] = state.durable_index
        index = LogIndex(quorum_value(state.configuration, match_indexes))
        if index <= state.commit_index:
            return False
        commit.commit_up_to(state, index)
        return True

    for module in (core, replication):
        monkeypatch.setattr(module, "maybe_commit", by_counting)

    assert breaks(figure_8) == "committed survives elections"
