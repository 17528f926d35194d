"""What an adversary may choose next: kinds of choices, each with two numbers, and how often a seed takes each.

A choice names a kind and two numbers, which are taken modulo whatever there is to choose from when its turn comes. So
every list of choices is a schedule, each choice is one draw, and leaving choices out of a failing schedule leaves one.
"""

from __future__ import annotations

import random
from enum import Enum

from clustercore.testing.protocol.plan import CHAOS, WorldPlan

__all__ = ["FAULTS", "OPENING", "ORDERED_LINKS_LACK", "WEIGHTS", "Choice", "Kind", "draw_schedule"]


class Kind(Enum):
    """The kinds of choices."""

    DELIVER_OLDEST = "deliver the oldest message"
    DELIVER_ANY = "deliver some message"
    # The first number is the place of the sender, the second that of the receiver. However many other messages there
    # are, it means the same: a schedule of these can be made short.
    DELIVER_LINK = "deliver the next message from one node to another"
    DUPLICATE = "deliver a message and keep it"
    REPLAY = "deliver once more what was delivered long ago"
    DROP = "lose a message"
    DROP_SNAPSHOT = "lose a part of a snapshot"
    SYNC = "finish some writes"
    REPORT = "tell the core of finished writes"
    FLUSH = "finish all writes and tell the core"
    HEARTBEAT = "wake the leader at its deadline"
    EXPIRE = "wake a node at its deadline"
    LATE = "wake a node whose deadline has passed, and let some hear it"
    WAIT = "let some time pass"
    PROPOSE = "propose"
    READ = "ask for an index to read at"
    TRANSFER = "hand over"
    CHANGE_MEMBERS = "change the members"
    CRASH = "crash"
    CRASH_AFTER_PROMISE = "crash right after a vote or an acknowledgement has left"
    START = "start what has crashed"
    LOSE_DISK = "lose a disk"
    COME_BACK = "a removed node comes back with an empty disk"
    UNREACHABLE = "break a connection"
    SNAPSHOT = "take a snapshot"
    SERVE = "send a snapshot"
    PARTITION = "cut the network in two"
    CUT_ONE_WAY = "let some be heard by nobody, or hear nobody"
    BRIDGE = "leave two halves that only one node reaches both of"
    ISOLATE_LEADER = "cut off the leader"
    RECONNECT = "mend the network"
    # Much of what is waiting is done, in order: without such spells a schedule makes little way.
    CALM = "calm"
    # The same between some of the nodes, while what goes to the others or comes from them is delayed.
    AMONG = "some talk among themselves"
    # Some hear their leader for long enough that the others take it for lost.
    REIGN = "some are led on"
    # A node asks for votes and some answer; nothing else goes on, and what a winner sends is on its way.
    STAND = "a node stands"
    # The same, and it is heard by all but the one that leads.
    DEPOSE = "another is elected behind the leader's back"
    # The others commit, and forget what it lacks: it needs a snapshot.
    FALL_BEHIND = "a node falls behind what is compacted"


# A kind and two numbers.
Choice = tuple[Kind, int, int]

# How often a seeded schedule has each: enough calm to elect and commit, enough trouble to need it again.
WEIGHTS: dict[Kind, float] = {
    Kind.DELIVER_OLDEST: 22,
    Kind.DELIVER_ANY: 8,
    Kind.DELIVER_LINK: 2,
    Kind.DUPLICATE: 3,
    Kind.REPLAY: 2,
    Kind.DROP: 1.5,
    Kind.DROP_SNAPSHOT: 0.5,
    Kind.SYNC: 8,
    Kind.REPORT: 6,
    Kind.FLUSH: 16,
    Kind.HEARTBEAT: 9,
    Kind.EXPIRE: 1.2,
    Kind.LATE: 2,
    Kind.WAIT: 2,
    Kind.PROPOSE: 10,
    Kind.READ: 5,
    Kind.TRANSFER: 1,
    Kind.CHANGE_MEMBERS: 6,
    Kind.CRASH: 0.8,
    Kind.CRASH_AFTER_PROMISE: 0.8,
    Kind.START: 3,
    # Only in the few worlds that are for it, and only where the cluster can bear it.
    Kind.LOSE_DISK: 3,
    Kind.COME_BACK: 1,
    Kind.UNREACHABLE: 0.8,
    Kind.SNAPSHOT: 4,
    Kind.SERVE: 12,
    Kind.PARTITION: 0.5,
    Kind.CUT_ONE_WAY: 0.4,
    Kind.BRIDGE: 0.3,
    Kind.ISOLATE_LEADER: 0.4,
    Kind.RECONNECT: 1.6,
    Kind.CALM: 1.2,
    Kind.AMONG: 1.5,
    Kind.REIGN: 0.7,
    Kind.STAND: 1.5,
    Kind.DEPOSE: 0.7,
    Kind.FALL_BEHIND: 0.6,
}

# What makes trouble: how wild a world is multiplies these.
FAULTS = frozenset(
    {
        Kind.DUPLICATE,
        Kind.REPLAY,
        Kind.DROP,
        Kind.DROP_SNAPSHOT,
        Kind.EXPIRE,
        Kind.CRASH,
        Kind.CRASH_AFTER_PROMISE,
        Kind.LOSE_DISK,
        Kind.COME_BACK,
        Kind.UNREACHABLE,
        Kind.PARTITION,
        Kind.CUT_ONE_WAY,
        Kind.BRIDGE,
        Kind.ISOLATE_LEADER,
    }
)
# Links that keep the order also repeat nothing.
ORDERED_LINKS_LACK = frozenset({Kind.DUPLICATE, Kind.REPLAY})

# A leader is elected and commits something: what goes wrong then is more than an election that nobody wins.
OPENING: tuple[Choice, ...] = (
    # Whoever has just started helps nobody to depose the leader it may have had, by a clock that may be slow.
    (Kind.WAIT, 10, 10),
    (Kind.WAIT, 10, 10),
    (Kind.STAND, 0, 0xFFFF),
    (Kind.CALM, 59, 0),
    (Kind.PROPOSE, 0, 1),
    (Kind.CALM, 59, 0),
)


def draw_schedule(plan: WorldPlan, length: int) -> list[Choice]:
    """Return choices that follow from the plan's seed: about ``length``, the opening and a crash among them."""
    rng = random.Random(f"schedule {plan.seed}")
    wildness = CHAOS[plan.chaos]
    weights: list[float] = []
    for kind, weight in WEIGHTS.items():
        # Each seed has its own mixture, so that some have slow disks, some many crashes, and so on: what is rare in the
        # average of all is then common in some (Groce et al., "Swarm Testing", ISSTA 2012).
        factor = rng.choice([0.1, 0.5, 1, 1, 2]) * (wildness if kind in FAULTS else 1)
        weights.append(0.0 if _is_pointless(kind, plan) else weight * factor)

    def draw(count: int) -> list[Choice]:
        kinds = rng.choices(list(WEIGHTS), weights, k=max(0, count))
        return [(kind, rng.getrandbits(16), rng.getrandbits(16)) for kind in kinds]

    # Mostly at once; at times after some elections that were left to chance.
    before = rng.choice([0, 0, 0, length // 4])
    recovered: list[Choice] = []
    if before:
        recovered = [(Kind.RECONNECT, 0, 0), *[(Kind.START, 0, 0)] * len(plan.names), *OPENING[:2]]
        # Whose log is behind cannot win.
        recovered += [(Kind.STAND, place, 0xFFFF) for place in range(plan.voters)]
        # And there may be much to catch up with.
        recovered += [(Kind.CALM, 59, 0), (Kind.HEARTBEAT, 0, 0)] * 4
    schedule = [*draw(before), *recovered, *OPENING, *draw(length - before - len(recovered) - len(OPENING))]
    # Whatever else is drawn, somebody crashes once.
    place = rng.randint(before + len(recovered) + len(OPENING), len(schedule))
    schedule[place:place] = [(Kind.CRASH, rng.getrandbits(16), rng.getrandbits(16))]
    return schedule


def _is_pointless(kind: Kind, plan: WorldPlan) -> bool:
    """Whether a kind does nothing in a world, or is not for it."""
    if kind in ORDERED_LINKS_LACK:
        return plan.has_ordered_links
    if kind in (Kind.COME_BACK, Kind.CHANGE_MEMBERS):
        return plan.spares == 0
    return kind is Kind.LOSE_DISK and not plan.loses_disks
