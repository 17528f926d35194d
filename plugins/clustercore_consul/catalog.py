"""Members as Consul keeps them: what a registration is made of, and what is read out of an answer.

A service's metadata and tags are shared with whoever else uses Consul, so what belongs to clustercore is told apart by
a prefix. Nothing here does I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from clustercore.interfaces import ConfigError, Member, MemberMetadata, NodeId, split_address
from clustercore_consul.errors import ConsulError
from clustercore_consul.options import ConsulOptions

__all__ = ["CatalogEntry", "newest_of", "read_entries", "service_id", "to_registration", "ttl_check_id"]

# Of the keys in a service's metadata, and of its tags, those that are ours.
_PREFIX = "clustercore-"
_TAG_PREFIX = "clustercore."
_NODE_ID = f"{_PREFIX}node-id"
_ADDRESS = f"{_PREFIX}address"
# Who registered it: the node itself, or another on its behalf.
_REGISTRAR = f"{_PREFIX}registrar"
# What a node tells of itself: its name as it is, or in hexadecimal where Consul allows no such key.
_TOLD = f"{_PREFIX}told-"
_TOLD_HEX = f"{_PREFIX}hex-"

# Consul's limits on the metadata of a service: agent/structs/structs.go, ValidateServiceMetadata.
_KEY = re.compile(r"[a-zA-Z0-9_-]{1,100}")
_MAX_KEY_CHARS = 128
_MAX_VALUE_CHARS = 512
_MAX_PAIRS = 64

# From bad to good. An entry without checks is passing, as Consul sees it.
_STATUSES = ("critical", "warning", "passing")


@attrs.frozen
class CatalogEntry:
    """One instance of the service, as Consul tells it."""

    member: Member
    # Whose agent registered it, and where that agent's machine is.
    owner: str
    owner_address: str
    service_id: str
    registrar: NodeId
    # The worst of its checks and its machine's: "passing", "warning" or "critical".
    status: str
    # Whether its machine is lost: Consul's own check of the agent is critical. Then nobody can be asked to deregister.
    is_owner_lost: bool
    create_index: int

    @property
    def is_well(self) -> bool:
        """Whether Consul would send work there."""
        return _rank(self.status) > 0

    @property
    def is_own(self) -> bool:
        """Whether the node registered itself."""
        return self.registrar == self.member.node_id


def service_id(options: ConsulOptions, node_id: NodeId) -> str:
    """Return the id of a member's service: unique in one agent, whatever else it runs."""
    return f"{options.service}-{node_id}"


def ttl_check_id(service: str) -> str:
    """Return the id of the check that a node passes by telling its agent that it lives."""
    return f"{service}:ttl"


# --- Writing ---------------------------------------------------------------------------------------------------------


def to_registration(options: ConsulOptions, member: Member, registrar: NodeId) -> dict[str, Any]:
    """Return the body of a registration at the agent.

    Raises: ConfigError if Consul can never take this member.
    """
    host, port = _split(member.address)
    if "grpc" in options.checks and not port:
        raise ConfigError(
            f"node {member.node_id!r} is at {member.address!r}, and checks has 'grpc'; an agent asks at host:port only"
        )
    identity = service_id(options, member.node_id)
    return {
        "ID": identity,
        "Name": options.service,
        "Tags": [*_tags(member.metadata), *options.tags],
        "Meta": _meta(member, registrar),
        # For Consul's DNS and for eyes; nodes read the address in the metadata, which is in the transport's own form.
        "Address": host,
        "Port": port,
        "EnableTagOverride": False,
        "Checks": [_check(options, kind, identity, member) for kind in options.checks],
    }


def _tags(metadata: MemberMetadata) -> list[str]:
    told = {
        "cluster": metadata.cluster_id,
        "role": metadata.role,
        "protocol": str(metadata.protocol_version or ""),
    }
    return [f"{_TAG_PREFIX}{name}={value}" for name, value in told.items() if value]


def _meta(member: Member, registrar: NodeId) -> dict[str, str]:
    meta = {_NODE_ID: str(member.node_id), _ADDRESS: member.address, _REGISTRAR: str(registrar)}
    for name, value in member.metadata.to_mapping().items():
        key = f"{_TOLD}{name}" if _KEY.fullmatch(name) else f"{_TOLD_HEX}{name.encode().hex()}"
        if len(key) > _MAX_KEY_CHARS:
            raise ConfigError(f"node {member.node_id!r}: the name of the tag {name!r} is too long for Consul")
        meta[key] = value
    for key, value in meta.items():
        if len(value.encode()) > _MAX_VALUE_CHARS:
            raise ConfigError(
                f"node {member.node_id!r}: {key} has {len(value.encode())} bytes; Consul keeps up to {_MAX_VALUE_CHARS}"
            )
    if len(meta) > _MAX_PAIRS:
        raise ConfigError(
            f"node {member.node_id!r} tells {len(meta)} things of itself; Consul keeps up to {_MAX_PAIRS}"
        )
    return meta


def _check(options: ConsulOptions, kind: str, identity: str, member: Member) -> dict[str, Any]:
    # Nobody has seen a check fail yet, and the node serves: it registers itself only then.
    check: dict[str, Any] = {
        "Status": "passing",
        "DeregisterCriticalServiceAfter": _duration(options.deregister_after_s),
    }
    if kind == "ttl":
        return check | {"CheckID": ttl_check_id(identity), "Name": "heartbeat", "TTL": _duration(options.ttl_s)}
    check |= {
        "CheckID": f"{identity}:{kind}",
        "Name": kind,
        "Interval": _duration(options.check_interval_s),
        "Timeout": _duration(options.check_timeout_s),
    }
    if kind == "grpc":
        return check | {"GRPC": member.address, "GRPCUseTLS": options.grpc_check_tls}
    return check | {"HTTP": options.http_check}


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _split(address: str) -> tuple[str, int]:
    """Return host and port of an address, or nothing of either where it is in another transport's form."""
    try:
        return split_address(address)
    except ValueError:
        return "", 0


# --- Reading ---------------------------------------------------------------------------------------------------------


def read_entries(value: Any) -> list[CatalogEntry]:
    """Read the answer of ``/v1/health/service``. What others registered under the same name is left out.

    Raises: ConsulError if it is none.
    """
    if value is None:
        return []
    try:
        entries = [_read_entry(instance) for instance in value]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConsulError(f"the list of services is not as Consul's: {type(error).__name__}: {error}") from error
    return [entry for entry in entries if entry is not None]


def _read_entry(instance: Mapping[str, Any]) -> CatalogEntry | None:
    node, service, checks = instance["Node"], instance["Service"], instance.get("Checks") or ()
    meta: dict[str, str] = {str(key): str(value) for key, value in (service.get("Meta") or {}).items()}
    node_id = NodeId(meta.get(_NODE_ID, ""))
    if not node_id:
        return None
    host, port = service.get("Address") or node["Address"], int(service.get("Port") or 0)
    told = {key.removeprefix(_TOLD): value for key, value in meta.items() if key.startswith(_TOLD)}
    told |= {
        bytes.fromhex(key.removeprefix(_TOLD_HEX)).decode(): value
        for key, value in meta.items()
        if key.startswith(_TOLD_HEX)
    }
    statuses = [str(check["Status"]) for check in checks]
    address = meta.get(_ADDRESS) or (f"{host}:{port}" if port else "")
    return CatalogEntry(
        member=Member(node_id, address, MemberMetadata.from_mapping(told)),
        owner=str(node["Node"]),
        owner_address=str(node["Address"]),
        service_id=str(service["ID"]),
        registrar=NodeId(meta.get(_REGISTRAR, node_id)),
        status=min(statuses, key=_rank, default="passing"),
        is_owner_lost=any(check["CheckID"] == "serfHealth" and check["Status"] == "critical" for check in checks),
        create_index=int(service.get("CreateIndex", 0)),
    )


def newest_of(entries: Iterable[CatalogEntry]) -> dict[NodeId, CatalogEntry]:
    """Return one entry for each node, by its id.

    A node that moved to another machine is there twice until its old agent forgets it, and so is one that another node
    registered on its behalf: what it says itself counts, then what is well, then what is newer.
    """
    chosen: dict[NodeId, CatalogEntry] = {}
    for entry in entries:
        other = chosen.get(entry.member.node_id)
        if other is None or _preference(entry) > _preference(other):
            chosen[entry.member.node_id] = entry
    return chosen


def _preference(entry: CatalogEntry) -> tuple[bool, bool, int, str]:
    return entry.is_own, entry.is_well, entry.create_index, entry.owner


def _rank(status: str) -> int:
    # An unknown word, such as of a later Consul, counts as the worst.
    return _STATUSES.index(status) if status in _STATUSES else 0
