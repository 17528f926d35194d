"""Asking a node from outside the cluster: what anybody may ask, over a link without a Hello."""

from __future__ import annotations

from collections.abc import Callable

import trio

from clustercore.interfaces.errors import LinkClosed, PeerTimeout
from clustercore.interfaces.messages import Message
from clustercore.interfaces.transport import Lane, Link, Transport

__all__ = ["RemoteNode"]


class RemoteNode:
    """Asks one node, over a link that is kept while it works. Several tasks take turns."""

    def __init__(self, transport: Transport, address: str, *, timeout_s: float) -> None:
        self.address = address
        self._transport = transport
        self._timeout_s = timeout_s
        self._turn = trio.Lock()
        self._link: Link | None = None
        self._last_request_id = 0

    async def ask(self, make_request: Callable[[int], Message], is_answer: Callable[[Message, int], bool]) -> Message:
        """Return the answer to a request, which is made with a number. It may be asked twice, if a kept link died.

        Cancellation: the link is closed.
        Raises: TransportError if the node cannot be reached, answers something else, or nothing in time.
        """
        try:
            with trio.fail_after(self._timeout_s):
                async with self._turn:
                    return await self._ask(make_request, is_answer)
        except trio.TooSlowError:
            raise PeerTimeout(f"{self.address} did not answer within {self._timeout_s:g} s") from None

    async def _ask(self, make_request: Callable[[int], Message], is_answer: Callable[[Message, int], bool]) -> Message:
        kept = self._link is not None
        try:
            return await self._ask_once(make_request, is_answer)
        except LinkClosed:
            # The link may have died long ago, unnoticed: only a fresh one says how the node is now.
            if not kept:
                raise
            return await self._ask_once(make_request, is_answer)

    async def _ask_once(
        self, make_request: Callable[[int], Message], is_answer: Callable[[Message, int], bool]
    ) -> Message:
        link = self._link or await self._transport.connect(self.address, Lane.CONTROL)
        # Kept again only after an answer, so that a late answer to an abandoned question is never read as the next.
        self._link = None
        self._last_request_id += 1
        answered = False
        try:
            request = make_request(self._last_request_id)
            await link.send(request)
            answer = await link.receive()
            if not is_answer(answer, self._last_request_id):
                raise LinkClosed(f"{self.address} answered {type(request).__name__} with {type(answer).__name__}")
            answered = True
        finally:
            if not answered:
                await link.aclose()
        self._link = link
        return answer

    async def aclose(self) -> None:
        """Close the link, if there is one."""
        if self._link is not None:
            await self._link.aclose()
            self._link = None
