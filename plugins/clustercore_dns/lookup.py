"""Questions to a name server, and what becomes of the answers: members, and how long they may be believed.

All that is foreign here (dnspython, RFC 1035, 2308, 2782) becomes ours: a list of members, or LookupFailed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import attrs
import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.resolver

from clustercore.interfaces import ConfigError, Member, NodeId, format_address, split_address

__all__ = ["Found", "Lookup", "LookupFailed", "make_resolver"]


class LookupFailed(Exception):
    """The name server did not answer, or not the question: nothing is known anew."""


@attrs.frozen
class Found:
    """What was answered, and for how long."""

    members: tuple[Member, ...]
    # How long the answer may be believed, in seconds; infinity if it does not say.
    ttl_s: float


def make_resolver(server: str, timeout_s: float) -> dns.asyncresolver.Resolver:
    """Return a resolver that asks a server, or those of this machine's configuration if none is named.

    Raises: ConfigError if it is no address, or the machine has no configuration.
    """
    if not server:
        try:
            resolver = dns.asyncresolver.Resolver()
        except dns.resolver.NoResolverConfiguration as error:
            raise ConfigError(f"server is not given, and this machine has no resolver configured: {error}") from error
    else:
        resolver = dns.asyncresolver.Resolver(configure=False)
        try:
            host, port = split_address(server)
            resolver.nameservers = [dns.nameserver.Do53Nameserver(str(ip_address(host)), port)]
        except ValueError as error:
            raise ConfigError(
                f"server = {server!r}: expected an IP address and port, such as '10.0.0.10:53' or '[fd00::10]:53'"
            ) from error
    resolver.lifetime = timeout_s
    return resolver


class Lookup:
    """Asks for the members of one cluster.

    Args:
        service: The full name of SRV records; empty if hosts are asked for.
        hosts: The full names of hosts.
        port: Where the hosts serve.
        server, timeout_s: As ``make_resolver``.

    Raises: ConfigError.
    """

    def __init__(self, service: str, hosts: Sequence[str], port: int, *, server: str, timeout_s: float) -> None:
        self._service = _name_of(service) if service else None
        self._hosts = [_name_of(host) for host in hosts]
        self._port = port
        self._timeout_s = timeout_s
        self._resolver = make_resolver(server, timeout_s) if server else None
        # Always said: dnspython keeps the first one that it finds by itself.
        self._backend = dns.asyncbackend.get_backend("trio")

    def open(self) -> None:
        """Read this machine's configuration, if no server is named.

        Raises: ConfigError if there is none.
        """
        if self._resolver is None:
            self._resolver = make_resolver("", self._timeout_s)

    async def ask(self) -> Found:
        """Ask for everybody; it is open.

        Cancellation: nothing happens.
        Raises: LookupFailed, if anything is not answered.
        """
        if self._service is not None:
            return await self._ask_service(self._service)
        found = [await self._ask_host(host) for host in self._hosts]
        members = tuple(member for one in found for member in one.members)
        return Found(members, min((one.ttl_s for one in found), default=math.inf))

    async def _ask_service(self, service: dns.name.Name) -> Found:
        records, ttl_s = await self._resolve(service, "SRV")
        # A target "." says that the service is not there (RFC 2782).
        there = [record for record in records if record.target != dns.name.root]
        members = tuple(
            Member(_id_of(record.target), format_address(_text_of(record.target), record.port)) for record in there
        )
        return Found(members, ttl_s)

    async def _ask_host(self, host: dns.name.Name) -> Found:
        shortest_s = math.inf
        for kind in ("A", "AAAA"):
            records, ttl_s = await self._resolve(host, kind)
            shortest_s = min(shortest_s, ttl_s)
            if records:
                # The lowest of several: any would do, and it has to be the same each time.
                address = min(record.address for record in records)
                return Found((Member(_id_of(host), format_address(address, self._port)),), shortest_s)
        return Found((), shortest_s)

    async def _resolve(self, name: dns.name.Name, kind: str) -> tuple[Sequence[Any], float]:
        """Return the records of a name, none if there are none, and for how long that holds.

        dnspython types all records alike, whatever fields their kind has.
        """
        assert self._resolver is not None
        try:
            answer = await self._resolver.resolve(
                name, kind, raise_on_no_answer=False, search=False, backend=self._backend
            )
        except dns.resolver.NXDOMAIN as error:
            return (), _ttl_of(error.response(name))  # type: ignore[no-untyped-call]  # as dnspython has it
        except (dns.exception.DNSException, OSError) as error:
            raise LookupFailed(f"{_text_of(name)} {kind}: {str(error) or type(error).__name__}") from error
        return tuple(answer.rrset or ()), _ttl_of(answer.response)


def _name_of(text: str) -> dns.name.Name:
    try:
        return dns.name.from_text(text)
    except (dns.exception.DNSException, UnicodeError) as error:
        raise ConfigError(f"{text!r} is no name of the DNS: {error}") from error


def _id_of(name: dns.name.Name) -> NodeId:
    """Return a node's id: the first label of its host, as Kubernetes names the pods of a StatefulSet."""
    return NodeId(name.labels[0].decode("ascii", "backslashreplace"))


def _text_of(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True)


def _ttl_of(response: dns.message.Message) -> float:
    """Return how long an answer holds: the shortest of its chain, or of the zone for what is not there (RFC 2308)."""
    if not isinstance(response, dns.message.QueryMessage):
        return math.inf
    ttl_s = response.resolve_chaining().minimum_ttl
    return ttl_s if 0 <= ttl_s < dns.ttl.MAX_TTL else math.inf
