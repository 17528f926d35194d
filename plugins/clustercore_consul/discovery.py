"""The Discovery contract on Consul: a watch, a keeper for each member that is registered here, and what is known."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from types import MappingProxyType

import trio

from clustercore.interfaces import FollowingDiscovery, Member, NodeHealth, NodeId
from clustercore_consul.catalog import CatalogEntry, service_id
from clustercore_consul.client import ConsulClient
from clustercore_consul.errors import ConsulError, ConsulRefused
from clustercore_consul.keeper import Keeper
from clustercore_consul.options import CheckKind, ConsistencyMode, ConsulOptions
from clustercore_consul.pacing import failure_pauses
from clustercore_consul.removal import deregister, take_from_agent
from clustercore_consul.watch import CatalogWatch

__all__ = ["ConsulDiscovery"]

log = logging.getLogger(__name__)


class ConsulDiscovery(FollowingDiscovery):
    """Finds the nodes in Consul's catalog, and registers this one there through the agent of its machine.

    A node says every third of ``ttl_s`` that it lives. One that does not is critical after ``ttl_s``: it is told in
    ``members`` still, for its address has not changed, and not ``in_service``. After ``deregister_after_s`` its agent
    takes it out. One that lives and was taken out, or that Consul has lost, registers itself again with its next beat.

    The members are those of the last answer that could be believed, for however long Consul is away.

    Args:
        url: Of the agent of this machine.
        service: What the nodes are called in Consul; one name for each cluster.
        token: The ACL token: a secret, which travels in a header alone.
        token_file: A file that holds the token instead. It is read again when Consul refuses the token.
        tls_certificate: With an https ``url``: path of the certificate to show to an agent that asks for one, in PEM.
        tls_key: Path of its key.
        tls_authority: Path of the certificates of those who may have signed the agent's; the system's by default.
        datacenter: Which to ask for the members; the agent's own by default.
        tags: To be given to this node's service, beside those that say its cluster, role and protocol.
        checks: How Consul learns whether the node is well: "ttl" (it says so), "grpc" or "http" (its agent asks).
        ttl_s: How long a node that says nothing counts as alive, in seconds, at least 10.
        http_check: The URL to ask, for the check "http".
        grpc_check_tls: Whether the agent is to use TLS for the check "grpc".
        check_interval_s: How often the agent asks, in seconds.
        check_timeout_s: How long it waits for an answer, in seconds.
        deregister_after_s: When the agent takes out a node that is critical, in seconds, at least 60.
        consistency: Of the watch: "stale" (any server answers), "default" (the leader) or "consistent".
        max_stale_s: How long a server may not have heard its leader for its answer to be believed, in seconds.
        wait_s: How long one blocking query waits for a change, in seconds.
        timeout_s: How long every other request may take, in seconds; a beat at most a sixth of ``ttl_s``.

    Raises:
        ConfigError: an option is not what it has to be.
    """

    is_read_only = False

    def __init__(
        self,
        url: str = "http://127.0.0.1:8500",
        service: str = "clustercore",
        *,
        token: str = "",
        token_file: Path | str = "",
        tls_certificate: Path | str = "",
        tls_key: Path | str = "",
        tls_authority: Path | str = "",
        datacenter: str = "",
        tags: Sequence[str] = (),
        checks: Sequence[CheckKind] = ("ttl",),
        ttl_s: float = 30.0,
        http_check: str = "",
        grpc_check_tls: bool = False,
        check_interval_s: float = 10.0,
        check_timeout_s: float = 2.0,
        deregister_after_s: float = 3600.0,
        consistency: ConsistencyMode = "stale",
        max_stale_s: float = 10.0,
        wait_s: float = 60.0,
        timeout_s: float = 5.0,
    ) -> None:
        super().__init__("consul")
        self._options = ConsulOptions.checked(
            url=url,
            service=service,
            token=token,
            token_file=token_file,
            tls_certificate=tls_certificate,
            tls_key=tls_key,
            tls_authority=tls_authority,
            datacenter=datacenter,
            tags=tags,
            checks=checks,
            ttl_s=ttl_s,
            http_check=http_check,
            grpc_check_tls=grpc_check_tls,
            check_interval_s=check_interval_s,
            check_timeout_s=check_timeout_s,
            deregister_after_s=deregister_after_s,
            consistency=consistency,
            max_stale_s=max_stale_s,
            wait_s=wait_s,
            timeout_s=timeout_s,
        )
        self._rng = Random()
        self._watch = CatalogWatch(self._options, self._known, self._rng, self._see)
        # The node of this process: the one that was registered first.
        self._self_id: NodeId | None = None
        # Tells how it is.
        self._ask_health: Callable[[], NodeHealth] = NodeHealth
        # Whom this process keeps registered.
        self._keepers: dict[NodeId, Keeper] = {}
        # One for each node that is registered or deregistered just now, so that the two do not mix.
        self._turns: dict[NodeId, trio.Lock] = {}

    async def follow(self) -> None:
        await self._watch.run()

    # --- Members ---

    @property
    def statuses(self) -> Mapping[NodeId, str]:
        """How Consul says that each node is, by its last answer: "passing", "warning" or "critical"."""
        return MappingProxyType({node_id: entry.status for node_id, entry in self._watch.entries.items()})

    # --- Registrations ---

    def use_health(self, ask: Callable[[], NodeHealth]) -> None:
        self._ask_health = ask

    async def register(self, member: Member) -> None:
        if self._self_id is None:
            self._self_id = member.node_id
        async with self._turn_of(member.node_id):
            keeper = self._keepers.get(member.node_id)
            if keeper is not None:
                keeper.change(member)
            elif self._registers_itself(member.node_id):
                # It is in the catalog by its own doing, and keeps itself there: a second registration would outlive it.
                self._known.register(member)
                return
            else:
                keeper = self._start_keeper(member, self._self_id)
            await keeper.wait_registered()
            self._known.register(member)

    async def deregister(self, node_id: NodeId) -> None:
        async with self._turn_of(node_id):
            keeper = self._keepers.pop(node_id, None)
            if keeper is not None:
                await keeper.stop()
            if await self._deregister(node_id, None if keeper is None else service_id(self._options, node_id)):
                self._known.forget(node_id)
            else:
                self._known.withdraw(node_id)

    async def _deregister(self, node_id: NodeId, registered_here: str | None) -> bool:
        """Return whether Consul has forgotten the node; wait for a Consul that does not answer."""
        pauses = failure_pauses(self._rng)
        complaint = ""
        async with ConsulClient(self._options) as client:
            while True:
                try:
                    return await deregister(self._options, client, self._watch, node_id, registered_here)
                except ConsulRefused as error:
                    log.error("node %s cannot be deregistered: %s", node_id, error)
                    return False
                except ConsulError as error:
                    if str(error) != complaint:
                        complaint = str(error)
                        log.warning("node %s is not deregistered yet: %s", node_id, error)
                    await trio.sleep(pauses.draw(error.retry_after_s))

    def _start_keeper(self, member: Member, self_id: NodeId) -> Keeper:
        assert self._nursery is not None, "within `async with`"
        # Of another node it is known here that it is well, or nobody would register it.
        ask = self._ask_health if member.node_id == self_id else NodeHealth
        keeper = Keeper(self._options, member, self_id, self._rng, ask)
        self._keepers[member.node_id] = keeper
        self._nursery.start_soon(keeper.run)
        return keeper

    def _registers_itself(self, node_id: NodeId) -> bool:
        entry = self._watch.entries.get(node_id)
        return entry is not None and entry.is_own and node_id != self._self_id

    def _see(self, entries: Iterable[CatalogEntry]) -> None:
        """Stand back where a node that was registered on its behalf has registered itself."""
        entries = list(entries)
        own = {entry.member.node_id for entry in entries if entry.is_own}
        for node_id, keeper in list(self._keepers.items()):
            if keeper.is_on_behalf and node_id in own:
                log.info("node %s has registered itself", node_id)
                registrars = {entry.registrar for entry in entries if entry.member.node_id == node_id}
                assert self._nursery is not None, "the watch runs within the block"
                del self._keepers[node_id]
                self._nursery.start_soon(self._stand_back, keeper, self._self_id in registrars)

    async def _stand_back(self, keeper: Keeper, is_apart: bool) -> None:
        await keeper.stop()
        if is_apart:
            # Another agent has the node's own, so what this agent has is the one made on its behalf.
            await self._take_back(keeper.member.node_id)

    async def _take_back(self, node_id: NodeId) -> None:
        name = service_id(self._options, node_id)
        async with ConsulClient(self._options) as client:
            try:
                await take_from_agent(client, name)
            except ConsulError as error:
                # Nobody says that it lives any more, so the agent takes it out by itself.
                log.info("node %s: what was registered on its behalf stays for a while: %s", node_id, error)

    @asynccontextmanager
    async def _turn_of(self, node_id: NodeId) -> AsyncIterator[None]:
        lock = self._turns.setdefault(node_id, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._turns.pop(node_id, None)
