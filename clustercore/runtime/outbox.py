"""A bounded queue of messages for one link, with the task that sends them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs

from clustercore.interfaces.messages import Message
from clustercore.interfaces.transport import Link
from clustercore.runtime.signals import Wakeup

__all__ = ["Mail", "Outbox"]

# Raft's own window keeps the messages to one peer to a handful; this many means that the link has stopped moving.
MAX_MESSAGES = 256


@attrs.define(eq=False)
class Mail:
    """A message that waits, and who wants to know what becomes of it."""

    message: Message
    # Called right before the message is handed to the link: from then on it may have arrived.
    on_sent: Callable[[], None] | None
    # Called instead when the message is dropped unsent.
    on_dropped: Callable[[], None] | None


class Outbox:
    """Messages waiting for one link, in order. When full the oldest is dropped: Raft sends what matters again."""

    def __init__(self) -> None:
        self._mails: deque[Mail] = deque()
        self._wakeup = Wakeup()

    def post(
        self,
        message: Message,
        on_sent: Callable[[], None] | None = None,
        on_dropped: Callable[[], None] | None = None,
    ) -> Mail:
        """Queue a message; what is returned serves to withdraw it."""
        if len(self._mails) >= MAX_MESSAGES:
            self._drop(self._mails.popleft())
        mail = Mail(message, on_sent, on_dropped)
        self._mails.append(mail)
        self._wakeup.set()
        return mail

    def withdraw(self, mail: Mail) -> bool:
        """Take back a message that was neither sent nor dropped, telling nobody; return False if it was."""
        if mail not in self._mails:
            return False
        self._mails.remove(mail)
        return True

    async def wait(self) -> None:
        """Wait until there is something to send."""
        while not self._mails:
            await self._wakeup.wait()

    async def send_all(self, link: Link) -> None:
        """Send what is there and what comes, until cancelled or the link fails.

        Raises: TransportError, as ``Link.send``.
        """
        while True:
            await self.wait()
            while self._mails:
                mail = self._mails.popleft()
                if mail.on_sent is not None:
                    mail.on_sent()
                await link.send(mail.message)

    def drop_all(self) -> None:
        """Drop everything that waits."""
        while self._mails:
            self._drop(self._mails.popleft())

    def _drop(self, mail: Mail) -> None:
        if mail.on_dropped is not None:
            mail.on_dropped()
