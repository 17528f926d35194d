"""The key-value client, as the commands use it.

The framework imports no plugin, so the client's class comes from an entry point of its own group, and what the commands
rely on is written down here. ``clustercore_kv`` says what each method promises.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, cast

from clustercore.cli.remote import open_transport
from clustercore.interfaces import ConfigError, ServiceTransport
from clustercore.runtime.plugins import PluginInterface, load_plugin

__all__ = ["KV_CLIENT", "KvClient", "KvClientFactory", "KvEvent", "KvPair", "all_pairs", "load_kv_client"]
__all__ += ["open_kv_client"]

# A page of a scan: enough that asking costs little beside using it, and small enough to be quick.
_PAGE_PAIRS = 1000


class Revised(Protocol):
    """An answer that names a revision: the log index of a change, 0 if there was none."""

    @property
    def revision(self) -> int:
        """The revision."""


class DeleteResult(Revised, Protocol):
    """What ``delete`` answers."""

    @property
    def deleted(self) -> bool:
        """False if the key was absent before."""


class CasResult(Revised, Protocol):
    """What ``cas`` answers."""

    @property
    def swapped(self) -> bool:
        """Whether the key was as expected, and is set."""

    @property
    def value(self) -> bytes | None:
        """When not swapped: what is there, None if the key is absent."""


class GetResult(Revised, Protocol):
    """What ``get`` answers."""

    @property
    def value(self) -> bytes | None:
        """None if the key is absent."""

    @property
    def applied_index(self) -> int:
        """The last command applied to the state that was read."""


class KvPair(Revised, Protocol):
    """A key and its value."""

    @property
    def key(self) -> str:
        """The key."""

    @property
    def value(self) -> bytes:
        """The value."""


class ScanResult(Protocol):
    """What ``scan`` answers: one page."""

    @property
    def pairs(self) -> Sequence[KvPair]:
        """Sorted by key."""

    @property
    def more(self) -> bool:
        """Whether there are keys after the last of these."""


class KvEvent(Revised, Protocol):
    """One change of one key."""

    @property
    def key(self) -> str:
        """The key."""

    @property
    def value(self) -> bytes | None:
        """The value set; None if the key was deleted."""


class KvClient(Protocol):
    """A client of the key-value service. It tries again what is known not to be done, until it is cancelled."""

    @property
    def failures(self) -> Mapping[str, str]:
        """Why each node failed last, by address; one that answered since is missing."""

    async def put(self, key: str, value: bytes, *, retry_unknown: bool = False) -> Revised:
        """Set a key's value. Raises: OutcomeUnknown, InvalidCommand, ServiceError."""

    async def delete(self, key: str, *, retry_unknown: bool = False) -> DeleteResult:
        """Remove a key. Raises: as ``put``."""

    async def cas(
        self, key: str, value: bytes, *, expected: bytes | int | None, retry_unknown: bool = False
    ) -> CasResult:
        """Set a key's value if the key has the expected value or revision, or is absent. Raises: as ``put``."""

    async def get(self, key: str, *, local: bool = False) -> GetResult:
        """Read a key. Raises: InvalidCommand, ServiceError."""

    async def scan(self, prefix: str = "", *, limit: int = 0, start_after: str = "", local: bool = False) -> ScanResult:
        """Read one page of keys. Raises: as ``get``."""

    def watch(
        self, prefix: str = "", *, after_revision: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[KvEvent]]:
        """Follow changes, each told once, in order."""


class KvClientFactory(Protocol):
    """The client's class."""

    def __call__(self, transport: ServiceTransport, addresses: Sequence[str]) -> KvClient:
        """Make a client of the nodes at these addresses, over a transport that is entered."""


KV_CLIENT: PluginInterface[object] = PluginInterface("client", "clustercore.clients", None)


def load_kv_client() -> KvClientFactory:
    """Return the client's class. Raises: PluginError if it is not installed."""
    # A Protocol cannot be told from its lack at run time; the tests hold the shipped client to it.
    return cast(KvClientFactory, load_plugin(KV_CLIENT, "kv"))


@asynccontextmanager
async def open_kv_client(
    transport_name: str, addresses: Sequence[str], cluster_id: str = ""
) -> AsyncIterator[KvClient]:
    """Open a transport and a client over it. A signal that ends commands ends the block.

    Args: as ``open_transport``.
    Raises: PluginError; ConfigError if the transport cannot carry a service; in a group, what the block raises.
    """
    client = load_kv_client()
    async with open_transport(transport_name, nodes=addresses, cluster_id=cluster_id) as transport:
        yield client(as_service_transport(transport, transport_name), addresses)


async def all_pairs(
    client: KvClient, prefix: str = "", *, start_after: str = "", local: bool = False, limit: float = math.inf
) -> AsyncIterator[KvPair]:
    """Yield the keys that start with a prefix and their values, in order, ``limit`` at most.

    Many are read in pages, and each page is of its own moment. Raises: as ``KvClient.scan``.
    """
    while limit > 0:
        page = await client.scan(prefix, limit=int(min(limit, _PAGE_PAIRS)), start_after=start_after, local=local)
        for pair in page.pairs:
            yield pair
        if not page.more or not page.pairs:
            return
        limit -= len(page.pairs)
        start_after = page.pairs[-1].key


def as_service_transport(transport: object, name: str) -> ServiceTransport:
    """Return the transport if it can carry the key-value service. Raises: ConfigError."""
    if not isinstance(transport, ServiceTransport):
        raise ConfigError(f"--transport {name}: it carries no services, and the key-value client needs one; try grpc")
    return transport
