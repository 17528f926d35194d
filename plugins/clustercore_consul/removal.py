"""Deregistering: through the agent that owns the registration, for what is taken from the catalog alone comes back.

An agent writes what it has into the catalog again and again (hashicorp/consul#3169), so only a machine that is lost,
with its agent, is taken out there.
"""

from __future__ import annotations

import logging
from ipaddress import ip_address
from urllib.parse import urlsplit

import trio

from clustercore.interfaces import NodeId, format_address
from clustercore_consul.catalog import CatalogEntry
from clustercore_consul.client import ConsulClient, segment
from clustercore_consul.errors import ConsulError, ConsulUnknown
from clustercore_consul.options import ConsulOptions
from clustercore_consul.watch import CatalogWatch

__all__ = ["deregister", "take_from_agent"]

log = logging.getLogger(__name__)

# An agent tells the catalog at once, and looks after what it has not told about every minute.
_CONFIRM_S = 5.0
_CONFIRM_PAUSE_S = 0.05


async def deregister(
    options: ConsulOptions, client: ConsulClient, watch: CatalogWatch, node_id: NodeId, service_id: str | None
) -> bool:
    """Take every registration of a node out of Consul. Return whether the catalog has none any more.

    Args:
        options: Of the plugin.
        client: To the agent of this process.
        watch: Reads the catalog.
        node_id: Whom.
        service_id: What was registered from here, which the catalog need not know yet; None if nothing was.

    Raises: ConsulError if this process's agent does not answer.
    """
    entries = [entry for entry in await watch.read(client) if entry.member.node_id == node_id]
    here = {entry.service_id for entry in entries} | ({service_id} if service_id is not None else set())
    taken = sum([await take_from_agent(client, name) for name in sorted(here)])
    # Of the entries, one for each that was taken out here goes; what is left then is another agent's.
    entries = await _read_until(client, watch, node_id, len(entries) - taken)
    for entry in entries:
        if not await _take_from_other(options, client, entry):
            return False
    if not entries or not await _read_until(client, watch, node_id, 0):
        return True
    log.warning("node %s: its agent was told to deregister it, and Consul tells of it still", node_id)
    return False


async def _read_until(client: ConsulClient, watch: CatalogWatch, node_id: NodeId, count: int) -> list[CatalogEntry]:
    """Read the catalog until it has so many entries of a node, or less, for a while. Return those it has."""
    give_up_at = trio.current_time() + _CONFIRM_S
    while True:
        entries = [entry for entry in await watch.read(client) if entry.member.node_id == node_id]
        if len(entries) <= max(count, 0) or trio.current_time() >= give_up_at:
            return entries
        # The catalog learns of it from the agent, which tells nobody when it has.
        await trio.sleep(_CONFIRM_PAUSE_S)


async def take_from_agent(client: ConsulClient, service_id: str) -> bool:
    """Return whether it was there."""
    try:
        await client.get(f"/v1/agent/service/{segment(service_id)}")
        await client.put(f"/v1/agent/service/deregister/{segment(service_id)}")
    except ConsulUnknown:
        return False
    return True


async def _take_from_other(options: ConsulOptions, client: ConsulClient, entry: CatalogEntry) -> bool:
    """Return whether it was done. Raises: ConsulError if this process's agent does not answer."""
    if not entry.is_owner_lost:
        return await _ask_owner(options, entry)
    body = {"Node": entry.owner, "ServiceID": entry.service_id}
    if options.datacenter:
        body["Datacenter"] = options.datacenter
    await client.put("/v1/catalog/deregister", body)
    return True


async def _ask_owner(options: ConsulOptions, entry: CatalogEntry) -> bool:
    """Ask the agent of another machine, at the port of ours; many listen for their own machine alone."""
    why = ""
    if not _may_be_told(options, entry.owner_address):
        why = "the token would cross the network in the clear"
    else:
        try:
            async with ConsulClient(options, _owner_url(options.url, entry.owner_address)) as other:
                await take_from_agent(other, entry.service_id)
        except ConsulError as error:
            why = str(error)
    if why:
        log.warning(
            "node %s stays in Consul until its agent on %s takes it out: that agent was not told to: %s",
            entry.member.node_id,
            entry.owner,
            why,
        )
    return not why


def _may_be_told(options: ConsulOptions, address: str) -> bool:
    """Whether the token, if there is one, may go to another machine's agent."""
    if options.secret.is_empty or options.url.startswith("https:"):
        return True
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _owner_url(own_url: str, address: str) -> str:
    """Return the URL of another machine's agent."""
    own = urlsplit(own_url)
    return f"{own.scheme}://{format_address(address, own.port or (443 if own.scheme == 'https' else 80))}"
