"""The queue of messages for one link."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clustercore.interfaces import (
    AppendEntriesRequest,
    Entry,
    EntryKind,
    ForwardProposals,
    LinkClosed,
    LogIndex,
    Message,
    NodeId,
    ProposalsApplied,
    StatusRequest,
    Term,
)
from clustercore.runtime.outbox import MAX_BYTES, MAX_BYTES_AT_ONCE, MAX_MESSAGES, Outbox, size_of
from tests.snapshots import install_request, snapshot
from tests.unit.runtime.fakes import FakeLink


async def test_send_all_sends_in_order_what_is_there_and_what_comes(nursery: trio.Nursery) -> None:
    """Messages leave in the order in which they were posted."""
    outbox, link = Outbox(), FakeLink()
    outbox.post(StatusRequest(1))
    outbox.post(StatusRequest(2))
    nursery.start_soon(outbox.send_all, link)
    await wait_all_tasks_blocked()
    outbox.post(StatusRequest(3))
    await wait_all_tasks_blocked()

    assert link.sent == [StatusRequest(1), StatusRequest(2), StatusRequest(3)]


async def test_post_to_a_full_outbox_drops_the_oldest() -> None:
    """The queue is bounded, and its newest messages are worth most; whoever posted a dropped one hears of it."""
    outbox, dropped = Outbox(), list[int]()
    for number in range(MAX_MESSAGES + 2):
        outbox.post(StatusRequest(number), on_dropped=partial(dropped.append, number))
    assert dropped == [0, 1]

    outbox.drop_all()

    assert dropped == list(range(MAX_MESSAGES + 2))


async def test_post_drops_the_oldest_until_the_rest_fits() -> None:
    """The queue is bounded in bytes too; but a message larger than all of it has its turn."""
    outbox, dropped = Outbox(), list[int]()
    third = bytes(MAX_BYTES // 3)
    for number in range(4):
        outbox.post(ForwardProposals(number, (third,)), on_dropped=partial(dropped.append, number))
    assert dropped == [0]

    large = outbox.post(ForwardProposals(4, (bytes(MAX_BYTES + 1),)), on_dropped=partial(dropped.append, 4))

    assert dropped == [0, 1, 2, 3]
    assert not outbox.has_room
    assert outbox.withdraw(large)
    assert outbox.has_room


async def test_outbox_of_answers_drops_none_and_tells_when_there_is_room(nursery: trio.Nursery) -> None:
    """Whoever fills it waits for room instead."""
    told: list[str] = []
    outbox, link = Outbox(drops=False, on_room=lambda: told.append("room")), FakeLink()
    messages = [ForwardProposals(number, (bytes(MAX_BYTES),)) for number in range(3)]
    for message in messages:
        outbox.post(message)
    assert not outbox.has_room

    nursery.start_soon(outbox.send_all, link)
    await wait_all_tasks_blocked()

    assert link.sent == messages
    assert told == ["room"] * 3
    assert outbox.has_room


def test_size_of_a_message_is_what_it_carries() -> None:
    """What has a bound of its own, and is small, counts for nothing."""
    entries = tuple(Entry.create(LogIndex(n), Term(1), EntryKind.COMMAND, bytes(100)) for n in (1, 2))
    term, node = Term(1), NodeId("a")
    messages: dict[Message, int] = {
        AppendEntriesRequest(term, node, LogIndex(0), Term(0), LogIndex(0), entries): 2 * len(entries[0].encoded),
        ForwardProposals(1, (b"ab", b"c")): 3,
        ProposalsApplied(1, term, LogIndex(1), (b"abcd", b"")): 4,
        install_request(snapshot(1, data=bytes(7))): 7,
        StatusRequest(): 0,
    }

    assert {message: size_of(message) for message in messages} == messages


async def test_on_sent_comes_before_the_link_has_the_message(nursery: trio.Nursery) -> None:
    """From the moment a link may have a message it counts as sent; one behind it that waits does not."""
    outbox, link, log = Outbox(), FakeLink(), list[str]()
    link.hold()
    for name in ("first", "second"):
        outbox.post(StatusRequest(), on_sent=partial(log.append, f"{name} sent"))

    nursery.start_soon(outbox.send_all, link)
    await wait_all_tasks_blocked()

    assert log == ["first sent"]
    assert link.sent == []


async def test_each_message_is_either_sent_or_dropped() -> None:
    """After a link fails, what was handed to it is not dropped as well, and the rest is."""
    outbox, link, log = Outbox(), FakeLink(), list[str]()
    for number in range(3):
        outbox.post(
            StatusRequest(number),
            on_sent=partial(log.append, f"{number} sent"),
            on_dropped=partial(log.append, f"{number} dropped"),
        )
    link.close_after(1)

    with pytest.raises(LinkClosed):
        await outbox.send_all(link)
    outbox.drop_all()

    assert log == ["0 sent", "1 sent", "2 dropped"]


async def test_withdraw_takes_back_a_message_that_was_not_sent(nursery: trio.Nursery) -> None:
    """A message that is withdrawn never leaves, and nobody is told; one that has left cannot be."""
    outbox, link, log = Outbox(), FakeLink(), list[str]()
    link.hold()
    mails = [outbox.post(StatusRequest(number), on_dropped=lambda: log.append("dropped")) for number in range(3)]
    nursery.start_soon(outbox.send_all, link)
    await wait_all_tasks_blocked()

    assert [outbox.withdraw(mail) for mail in mails[:2]] == [False, True]
    link.release()
    await wait_all_tasks_blocked()

    assert link.sent == [StatusRequest(0), StatusRequest(2)]
    assert log == []


async def test_wait_returns_only_with_something_to_send(nursery: trio.Nursery) -> None:
    """A message that is dropped before anyone looked wakes nobody for nothing."""
    outbox, woken = Outbox(), list[str]()

    async def wait() -> None:
        await outbox.wait()
        woken.append("woken")

    outbox.post(StatusRequest())
    outbox.drop_all()
    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert woken == []

    outbox.post(StatusRequest())
    await wait_all_tasks_blocked()
    assert woken == ["woken"]


async def test_post_sends_at_once_what_a_link_takes_without_waiting(nursery: trio.Nursery) -> None:
    """While nothing waits, no turn of a task passes between posting a message and sending it."""
    outbox, link = Outbox(), FakeLink()
    link.sends_nowait = True
    nursery.start_soon(outbox.send_all, link)
    await wait_all_tasks_blocked()

    mail = outbox.post(StatusRequest(1))

    assert link.sent == [StatusRequest(1)]
    assert outbox.is_idle
    assert not outbox.withdraw(mail)


async def test_post_keeps_the_order_behind_what_waits(nursery: trio.Nursery) -> None:
    """What a link takes at once does not overtake what it has not taken yet, or is just being handed to it."""
    outbox, link = Outbox(), FakeLink()
    nursery.start_soon(outbox.send_all, link)
    await wait_all_tasks_blocked()
    outbox.post(StatusRequest(1))
    link.sends_nowait = True
    outbox.post(StatusRequest(2))
    link.hold()
    await wait_all_tasks_blocked()
    outbox.withdraw(next(iter(outbox._mails)))
    outbox.post(StatusRequest(3))
    assert link.sent == []

    link.release()
    await wait_all_tasks_blocked()

    assert link.sent == [StatusRequest(1), StatusRequest(3)]


async def test_post_leaves_to_the_task_what_is_large_or_followed(nursery: trio.Nursery) -> None:
    """Whoever posts is not held up by what takes long, and what becomes of a message is told from one place."""
    outbox, link, log = Outbox(), FakeLink(), list[str]()
    link.sends_nowait = True
    nursery.start_soon(outbox.send_all, link)
    await wait_all_tasks_blocked()
    outbox.post(ForwardProposals(1, (bytes(MAX_BYTES_AT_ONCE + 1),)))
    assert link.sent == []
    await wait_all_tasks_blocked()
    outbox.post(StatusRequest(2), on_sent=lambda: log.append("sent"))
    outbox.post(StatusRequest(3), on_dropped=lambda: log.append("dropped"))
    assert len(link.sent) == 1

    await wait_all_tasks_blocked()

    assert len(link.sent) == 3
    assert log == ["sent"]


async def test_post_sends_nothing_at_once_without_a_link_that_understands_it() -> None:
    """Where the other end does not understand a message it is dropped; after the link has ended it waits."""
    outbox, link = Outbox(), FakeLink()
    link.sends_nowait = True
    async with trio.open_nursery() as sending:
        sending.start_soon(outbox.send_all, link, lambda message: False)
        await wait_all_tasks_blocked()
        outbox.post(StatusRequest(1))
        await wait_all_tasks_blocked()
        assert outbox.is_idle
        sending.cancel_scope.cancel()
    outbox.post(StatusRequest(2))

    assert link.sent == []
    assert not outbox.is_idle
