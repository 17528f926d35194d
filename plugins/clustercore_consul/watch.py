"""The blocking query: one task that asks Consul for changes, again and again, by the documented rules.

See hashicorp/consul website/content/api-docs/features/blocking.mdx. An index that goes backwards is begun anew, one
below 1 is taken for 1, a return is not a change, and the rate of asking has a limit. Beyond that, an answer is believed
only if the server that gave it can know: one without a leader, one that lags, one that names nobody and one that went
back in time each need the word of the leader, and until that comes the last good members hold.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from random import Random

import trio

from clustercore.interfaces import KnownMembers, NodeId
from clustercore_consul.catalog import CatalogEntry, newest_of, read_entries
from clustercore_consul.client import Answer, ConsulClient, segment
from clustercore_consul.errors import ConsulError, ConsulRefused
from clustercore_consul.options import ConsulOptions
from clustercore_consul.pacing import RateLimit, failure_pauses

__all__ = ["CatalogWatch"]

log = logging.getLogger(__name__)

# A cluster that forms, or is restarted node by node, changes about as often in a row; then one query a second is quick
# enough for whoever looks for an address.
_BURST = 10
_INTERVAL_S = 1.0


class CatalogWatch:
    """Follows the instances of the service, and tells ``known`` of them.

    Args:
        options: Of the plugin.
        known: Is told of every answer that can be believed, and of every one that cannot.
        rng: For the pauses after failures.
        on_entries: Called with all instances of each answer that was believed.
    """

    def __init__(
        self,
        options: ConsulOptions,
        known: KnownMembers,
        rng: Random,
        on_entries: Callable[[Sequence[CatalogEntry]], None],
    ) -> None:
        self._options = options
        self._known = known
        self._on_entries = on_entries
        self._pauses = failure_pauses(rng)
        self._rate = RateLimit(burst=_BURST, interval_s=_INTERVAL_S)
        # What to wait behind; 0 to be answered at once.
        self._index = 0
        # The index of the last answer that was believed.
        self._believed_index = 0
        # What was believed last, by id.
        self.entries: dict[NodeId, CatalogEntry] = {}
        # Until when members that are missing may be on their way back, for Consul has lost what it knew (Trio's clock).
        self._lost_until = -float("inf")

    async def run(self) -> None:
        """Ask until cancelled, over a connection of its own."""
        async with ConsulClient(self._options) as client:
            while True:
                await self._rate.wait()
                try:
                    await self._ask(client)
                except ConsulError as error:
                    self._known.fail(str(error))
                    # What is behind the index now is not known: the next answer is to come at once.
                    self._index = 0
                    await trio.sleep(self._pauses.draw(error.retry_after_s))
                else:
                    self._pauses.reset()

    async def read(self, client: ConsulClient) -> list[CatalogEntry]:
        """Return all instances, as the leader knows them once a quorum has confirmed that it leads.

        Raises: ConsulError.
        """
        answer = await client.get(self._path, consistency="consistent")
        self._check_allowed(answer)
        return read_entries(answer.value)

    @property
    def _path(self) -> str:
        return f"/v1/health/service/{segment(self._options.service)}"

    async def _ask(self, client: ConsulClient) -> None:
        """Ask once and take the answer. Raises: ConsulError if there is none that can be believed."""
        edits = self._known.edits
        answer = await client.get(
            self._path,
            consistency=self._options.consistency,
            index=self._index,
            wait_s=self._options.wait_s,
            timeout_s=self._options.wait_timeout_s if self._index else None,
        )
        self._check_allowed(answer)
        entries = read_entries(answer.value)
        self._check_current(answer, entries, edits)
        went_back = answer.index < self._believed_index
        if (not entries or went_back) and self._options.consistency != "consistent":
            # Perhaps another server answered, which is behind: its leader knows.
            edits = self._known.edits
            answer = await client.get(self._path, consistency="consistent")
            self._check_allowed(answer)
            entries = read_entries(answer.value)
            went_back = answer.index < self._believed_index
        self._check_nothing_lost(entries, went_back=went_back)
        self._take(entries, edits, answer.lag_s)
        # Behind 0 nothing is waited for. So it is asked where something was registered here since the question was put,
        # too: of that node this answer counts for nothing, and another may not come for a long time.
        self._index = 0 if went_back or edits != self._known.edits else max(1, answer.index)
        self._believed_index = answer.index

    def _check_allowed(self, answer: Answer) -> None:
        if answer.is_filtered:
            raise ConsulRefused(f"the token does not allow to see every instance of service {self._options.service!r}")

    def _check_current(self, answer: Answer, entries: Sequence[CatalogEntry], edits: int) -> None:
        """Refuse what a server says that is cut off from its leader, unless nothing is known yet."""
        if not answer.is_led:
            complaint = "the server that answered has no leader"
        elif answer.lag_s > self._options.max_stale_s:
            complaint = f"the server that answered has not heard its leader for {answer.lag_s:g} s"
        else:
            return
        if entries and self._known.newest is None:
            self._take(entries, edits, answer.lag_s)
        raise ConsulError(complaint)

    def _check_nothing_lost(self, entries: Sequence[CatalogEntry], *, went_back: bool) -> None:
        """Hold on to the members when Consul has lost them.

        A Consul that was restored, or began anew without data, has another index. The nodes that live register again
        with their next beat; until each of them had the time to, one that is missing is not gone.
        """
        now = trio.current_time()
        if went_back and self.entries:
            self._lost_until = now + self._options.ttl_s
        missing = self.entries.keys() - {entry.member.node_id for entry in entries}
        if missing and now < self._lost_until:
            # The new index is the one to go on from: it is not lost again.
            self._believed_index = 0
            raise ConsulError(
                f"it has lost what it knew, and tells nothing of {', '.join(map(repr, sorted(missing)))}, who may "
                "register again"
            )

    def _take(self, entries: Sequence[CatalogEntry], edits: int, lag_s: float) -> None:
        """Raises: ConsulError if this cannot be right."""
        newest = newest_of(entries)
        is_believed = self._known.tell(
            [entry.member for entry in newest.values()],
            as_of=time.time() - lag_s,
            asked_at=edits,
            unwell=[node_id for node_id, entry in newest.items() if not entry.is_well],
        )
        if not is_believed:
            raise ConsulError(self._known.complaint)
        self.entries = newest
        self._on_entries(entries)
