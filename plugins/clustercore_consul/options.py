"""What a user may set of discovery by Consul, checked once, where the configuration comes in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeAlias, get_args
from urllib.parse import urlsplit

import attrs

from clustercore.interfaces import ConfigError
from clustercore_consul.secret import Secret
from clustercore_consul.tls import ConsulTls

__all__ = ["CheckKind", "ConsistencyMode", "ConsulOptions"]

# How Consul finds out whether a registered node is well: the node tells its agent (ttl), or the agent asks the node.
CheckKind: TypeAlias = Literal["ttl", "grpc", "http"]
# How much a reading costs and how new it is: any server answers, the leader does, the leader asks a quorum first.
ConsistencyMode: TypeAlias = Literal["stale", "default", "consistent"]

# Consul drops a check whose time to live is shorter than a beat that was delayed once: see hashicorp/consul#3852.
MIN_TTL_S = 10.0
# Consul raises anything shorter to this, silently.
MIN_DEREGISTER_S = 60.0
# Consul cuts a longer wait to this, silently.
MAX_WAIT_S = 600.0
# More than this of one answer is no list of a cluster's nodes.
MAX_ANSWER_BYTES = 16 * 1024 * 1024


@attrs.frozen
class ConsulOptions:
    """The options. What they mean is in docs/reference/consul.md."""

    url: str
    service: str
    secret: Secret
    tls: ConsulTls | None
    datacenter: str
    tags: tuple[str, ...]
    checks: tuple[CheckKind, ...]
    ttl_s: float
    http_check: str
    grpc_check_tls: bool
    check_interval_s: float
    check_timeout_s: float
    deregister_after_s: float
    consistency: ConsistencyMode
    max_stale_s: float
    wait_s: float
    timeout_s: float

    @property
    def beat_interval_s(self) -> float:
        """How often a node tells its agent that it lives: two beats may be lost."""
        return self.ttl_s / 3

    @property
    def beat_timeout_s(self) -> float:
        """How long one beat may take: less than a sixth of the time to live, so that a slow one is made again."""
        return min(self.timeout_s, 0.9 * self.ttl_s / 6)

    @property
    def wait_timeout_s(self) -> float:
        """How long a blocking query may take: Consul adds up to a sixteenth to the wait, and answers take time."""
        return self.wait_s + self.wait_s / 16 + self.timeout_s

    @classmethod
    def checked(
        cls,
        *,
        url: str,
        service: str,
        token: str,
        token_file: Path | str,
        tls_certificate: Path | str,
        tls_key: Path | str,
        tls_authority: Path | str,
        datacenter: str,
        tags: Iterable[str],
        checks: Iterable[CheckKind],
        ttl_s: float,
        http_check: str,
        grpc_check_tls: bool,
        check_interval_s: float,
        check_timeout_s: float,
        deregister_after_s: float,
        consistency: ConsistencyMode,
        max_stale_s: float,
        wait_s: float,
        timeout_s: float,
    ) -> ConsulOptions:
        """Check the values as they came from a user.

        Raises: ConfigError, naming the option, its value and what is allowed.
        """
        is_tls = _check_url("url", url).startswith("https:")
        kinds = _check_kinds(checks)
        if ("http" in kinds) != bool(http_check):
            raise ConfigError(
                f"http_check = {http_check!r}: expected the URL that the agent is to ask, with 'http' in checks, or "
                "neither"
            )
        if http_check:
            _check_url("http_check", http_check, is_base=False)
        if not isinstance(grpc_check_tls, bool):
            raise ConfigError(f"grpc_check_tls = {grpc_check_tls!r}: expected true or false")
        if consistency not in get_args(ConsistencyMode):
            raise ConfigError(f"consistency = {consistency!r}: expected one of {', '.join(get_args(ConsistencyMode))}")
        return cls(
            url=url.rstrip("/"),
            service=_check_text("service", service),
            secret=Secret.checked(token, token_file),
            tls=ConsulTls.checked(tls_certificate, tls_key, tls_authority, is_tls=is_tls),
            datacenter=_check_text("datacenter", datacenter, may_be_empty=True),
            tags=tuple(_check_text("tags", tag) for tag in _check_list("tags", tags)),
            checks=kinds,
            ttl_s=_check_seconds("ttl_s", ttl_s, MIN_TTL_S),
            http_check=http_check,
            grpc_check_tls=grpc_check_tls,
            check_interval_s=_check_seconds("check_interval_s", check_interval_s, 1),
            check_timeout_s=_check_seconds("check_timeout_s", check_timeout_s, 0.1, check_interval_s),
            deregister_after_s=_check_seconds("deregister_after_s", deregister_after_s, MIN_DEREGISTER_S),
            consistency=consistency,
            max_stale_s=_check_seconds("max_stale_s", max_stale_s, 0),
            wait_s=_check_seconds("wait_s", wait_s, 1, MAX_WAIT_S),
            timeout_s=_check_seconds("timeout_s", timeout_s, 0.1, 60),
        )


def _check_seconds(name: str, value: object, low: float, high: float = 10 * 365 * 86400.0) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} = {value!r}: expected a number of seconds")
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{name} = {value!r}: expected seconds from {low:g} to {high:g}")
    return float(value)


def _check_text(name: str, value: object, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str) or not value.isprintable() or not (value or may_be_empty):
        what = "a printable text" if may_be_empty else "a printable text that is not empty"
        raise ConfigError(f"{name} = {value!r}: expected {what}")
    return value


def _check_list(name: str, value: object) -> list[object]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(f"{name} = {value!r}: expected a list")
    return list(value)


def _check_kinds(value: object) -> tuple[CheckKind, ...]:
    kinds = _check_list("checks", value)
    known = get_args(CheckKind)
    if not kinds or any(kind not in known for kind in kinds) or len(set(map(str, kinds))) < len(kinds):
        raise ConfigError(f"checks = {kinds!r}: expected a list of some of {', '.join(known)}, each once")
    # In one order, so that a check's position says nothing.
    return tuple(kind for kind in known if kind in kinds)


def _check_url(name: str, value: object, *, is_base: bool = True) -> str:
    """Refuse what is no URL of a server. Who is meant to be asked is told by the host alone: no secret belongs here."""
    expected = "a URL such as 'http://127.0.0.1:8500'"
    if not isinstance(value, str):
        raise ConfigError(f"{name} = {value!r}: expected {expected}")
    if "@" in value.partition("://")[2].partition("/")[0]:
        # Not the value: it may hold a password.
        raise ConfigError(f"{name}: expected {expected}, without user or password; a token has options of its own")
    if not _is_url(value, is_base=is_base):
        raise ConfigError(f"{name} = {value!r}: expected {expected}")
    return value


def _is_url(value: str, *, is_base: bool) -> bool:
    try:
        parts = urlsplit(value)
        is_place = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    is_text = value.isascii() and value.isprintable() and " " not in value
    return is_place and is_text and not (is_base and (parts.path.strip("/") or parts.query or parts.fragment))
