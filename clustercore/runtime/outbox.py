"""A bounded queue of messages for one link, with the task that sends them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs

from clustercore.interfaces.messages import ForwardProposals, Message, ProposalsApplied
from clustercore.interfaces.transport import Link
from clustercore.raft.messages import AppendEntriesRequest, InstallSnapshotRequest
from clustercore.runtime.signals import Wakeup

__all__ = ["Mail", "Outbox", "size_of"]

# Raft's own window keeps the messages to one peer to a handful; this many means that the link has stopped moving.
MAX_MESSAGES = 256
# And so do so many bytes: a leader's whole window and the proposals that are forwarded at once, by default.
MAX_BYTES = 8 * 1024 * 1024


# What is sent within the turn of whoever posts it takes no more: to encode and copy so much takes some 10 us.
MAX_BYTES_AT_ONCE = 16 * 1024


@attrs.define(eq=False)
class Mail:
    """A message that waits, and who wants to know what becomes of it."""

    message: Message
    size_bytes: int
    # Called right before the message is handed to the link: from then on it may have arrived.
    on_sent: Callable[[], None] | None
    # Called instead when the message is dropped unsent.
    on_dropped: Callable[[], None] | None


class Outbox:
    """Messages waiting for one link, in order. When full the oldest is dropped: Raft sends what matters again.

    One message may be of any size. Of answers, which nobody gives again, whoever makes them bounds the number, and
    waits for ``has_room``: with ``drops`` False none is dropped.
    """

    def __init__(self, *, drops: bool = True, on_room: Callable[[], None] = lambda: None) -> None:
        """Begin empty; ``on_room`` is called when a message left."""
        self._drops = drops
        self._on_room = on_room
        self._mails: deque[Mail] = deque()
        self._bytes = 0
        self._is_sending = False
        self._wakeup = Wakeup()
        # The link that what is posted goes to, while there is one, and what whoever is at its other end understands.
        self._link: Link | None = None
        self._is_understood: Callable[[Message], bool] = lambda message: True

    @property
    def has_room(self) -> bool:
        """Whether less waits than is allowed."""
        return len(self._mails) < MAX_MESSAGES and self._bytes < MAX_BYTES

    @property
    def is_idle(self) -> bool:
        """Whether everything posted was handed to the link, or dropped."""
        return not self._mails and not self._is_sending

    def post(
        self,
        message: Message,
        on_sent: Callable[[], None] | None = None,
        on_dropped: Callable[[], None] | None = None,
    ) -> Mail:
        """Queue a message, or send it if it need not wait; what is returned serves to withdraw it."""
        mail = Mail(message, size_of(message), on_sent, on_dropped)
        if self._maybe_send(mail):
            return mail
        while (
            self._drops
            and self._mails
            and (len(self._mails) >= MAX_MESSAGES or self._bytes + mail.size_bytes > MAX_BYTES)
        ):
            self._drop(self._take_first())
        self._mails.append(mail)
        self._bytes += mail.size_bytes
        self._wakeup.set()
        return mail

    def _maybe_send(self, mail: Mail) -> bool:
        """Hand a message to the link within this very turn, if nothing is before it and nobody asks what becomes of it.

        For a heartbeat or its answer, waking the task that sends costs more than sending.
        """
        return (
            self._link is not None
            and self.is_idle
            and mail.on_sent is None
            and mail.on_dropped is None
            and mail.size_bytes <= MAX_BYTES_AT_ONCE
            and self._is_understood(mail.message)
            and self._link.send_nowait(mail.message)
        )

    def withdraw(self, mail: Mail) -> bool:
        """Take back a message that was neither sent nor dropped, telling nobody; return False if it was."""
        if mail not in self._mails:
            return False
        self._mails.remove(mail)
        self._bytes -= mail.size_bytes
        return True

    async def wait(self) -> None:
        """Wait until there is something to send."""
        while not self._mails:
            await self._wakeup.wait()

    async def send_all(self, link: Link, is_understood: Callable[[Message], bool] = lambda message: True) -> None:
        """Send what is there and what comes, until cancelled or the link fails.

        Args:
            is_understood: Says whether who is at the other end understands a message. Others are dropped: they were
                posted when it was a newer version.

        Raises: TransportError, as ``Link.send``.
        """
        self._link, self._is_understood = link, is_understood
        try:
            while True:
                await self.wait()
                while self._mails:
                    await self._send_first(link)
        finally:
            self._link = None

    async def _send_first(self, link: Link) -> None:
        mail = self._take_first()
        if not self._is_understood(mail.message):
            self._drop(mail)
            return
        if mail.on_sent is not None:
            mail.on_sent()
        self._is_sending = True
        try:
            await link.send(mail.message)
        finally:
            self._is_sending = False
        self._on_room()

    def drop_all(self) -> None:
        """Drop everything that waits."""
        while self._mails:
            self._drop(self._take_first())

    def _take_first(self) -> Mail:
        mail = self._mails.popleft()
        self._bytes -= mail.size_bytes
        return mail

    def _drop(self, mail: Mail) -> None:
        if mail.on_dropped is not None:
            mail.on_dropped()


def size_of(message: Message) -> int:
    """Return about how many bytes a message takes: what it carries for others, or nothing to speak of."""
    match message:
        case AppendEntriesRequest(entries=entries):
            return sum(len(entry.encoded) for entry in entries)
        case ForwardProposals(commands=parts) | ProposalsApplied(results=parts):
            return sum(map(len, parts))
        case InstallSnapshotRequest(data=data):
            return len(data)
        case _:
            return 0
