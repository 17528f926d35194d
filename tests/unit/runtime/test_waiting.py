"""What a node waits for: in its log at a slow pace, and in its status."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import attrs
import pytest
import trio
from trio.testing import MockClock

from clustercore.interfaces import (
    ConfigError,
    Configuration,
    DiscoverySnapshot,
    LogIndex,
    NodeId,
    NodeStatus,
    Role,
    Server,
    Term,
)
from clustercore.interfaces.storage import StorageIdentity
from clustercore.runtime.founding import Founding, FoundingWatch
from clustercore.runtime.membership_duties import MembershipDuties
from clustercore.runtime.waiting import Waiting
from clustercore_memory import MemoryNetwork, MemoryTransport
from tests.unit.raft.building import follower

A, B, C = (NodeId(name) for name in "abc")


async def test_what_lasts_is_said_again_ever_more_seldom(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """At once when it changes, then after 10, 20, 40 s and so on, every five minutes at the least."""
    caplog.set_level(logging.INFO, "clustercore")
    waiting = Waiting("node a")
    for _ in range(1000):
        waiting.say("waits for b")
        await trio.sleep(1)
    # At 0, 10, 30, 70, 150, 310, 610 and 910 s.
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.INFO, "node a waits for b"),
        *[(logging.WARNING, "node a waits for b")] * 7,
    ]
    caplog.clear()

    waiting.say("waits for c")
    assert (waiting.text, caplog.messages) == ("waits for c", ["node a waits for c"])
    await trio.sleep(10)
    waiting.say("waits for c")
    assert caplog.messages == ["node a waits for c"] * 2
    waiting.end()
    assert waiting.text == ""


def learner_of(members: Configuration, leader_id: NodeId | None = None) -> NodeStatus:
    """What b answers, which knows these members."""
    zero = LogIndex(0)
    return NodeStatus(B, Role.FOLLOWER, Term(1), leader_id, zero, zero, LogIndex(1), zero, 0, (), members)


def members(*voters: str) -> Configuration:
    """These voters, and the learner b."""
    return Configuration.of(voters, learners=["b"], cluster_id="a-01")


@pytest.mark.parametrize(
    ("answers", "is_lost"),
    [
        ([learner_of(members("a"))], True),
        ([learner_of(members("a"), leader_id=C)], False),
        ([learner_of(members("a", "c"))], False),
        ([learner_of(members("a")), learner_of(members("a", "c"))], False),
        ([learner_of(members("a")), learner_of(Configuration.of("xyz", cluster_id="x-01"), leader_id=C)], True),
    ],
)
async def test_founder_that_was_the_only_voter_says_how_its_learners_get_out(
    answers: Sequence[NodeStatus], is_lost: bool
) -> None:
    """Its storage is lost, and nobody is seen who could lead: they would wait for a leader for ever (issue 6)."""
    watch = FoundingWatch(
        A,
        Founding(3, "a"),
        transport=MemoryTransport(MemoryNetwork(), "a"),
        known=lambda: DiscoverySnapshot(0, (), "a test"),
        found=lambda: None,
        timeout_s=1.0,
    )

    watch._look_at_cluster(answers)

    said = (
        "was the only voter of cluster a-01, as b know it, and has lost its storage: that cluster has no leader. "
        "Unless a node that is not seen here leads it, nothing was ever agreed on there: empty the storages of b, and "
        "start them again"
    )
    assert watch.waiting.text == (said if is_lost else "")


def test_cluster_that_is_to_be_founded_has_a_name_of_bounded_length() -> None:
    """With what is added to it, its id is as long as a name may be."""
    assert Founding(3, "f" * 200, "c" * 21).label(A) == "c" * 21 + "." + "f" * 200
    with pytest.raises(ConfigError, match="cluster and founder have 223 bytes together; at most 222 are allowed"):
        Founding(3, "f" * 200, "c" * 22).label(A)


async def test_learner_that_hears_no_leader_says_so(mock_clock: MockClock) -> None:
    """With the voters that it knows of. As long as it hears one, and as a voter, it waits for nothing."""
    learner = Server(B, is_voter=False)
    core = follower("ab", node="b", configuration=Configuration.with_servers([Server(A), learner], cluster_id="a-01"))
    duties = MembershipDuties(
        transport=MemoryTransport(MemoryNetwork(), "b"),
        identity=lambda: StorageIdentity(B, "once", 1, "a-01"),
        state=lambda: core.state,
        known=lambda: DiscoverySnapshot(0, (), "a test"),
        join=None,
        founding=None,
        on_removed=lambda: None,
        election_timeout_s=1.0,
    )
    core.state.leader_protected_until = trio.current_time() + 1.0
    assert duties.waiting == ""

    mock_clock.jump(1.5)

    assert duties.waiting == "is a learner of cluster a-01, and hears no leader; its voters are a"
    core.state.configurations.reset(LogIndex(0), attrs.evolve(Configuration.of("ab"), cluster_id="a-01"))
    assert duties.waiting == ""
