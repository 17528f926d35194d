"""Which addresses are worth telling to other machines."""

from __future__ import annotations

from ipaddress import ip_address

__all__ = ["is_for_peers"]


def is_for_peers(address: str) -> bool:
    """Say whether an address leads anywhere when it is used from another machine, as far as its form tells.

    A transport that listens on all interfaces may name the unspecified address (0.0.0.0, ::), which is no place.
    """
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        # Another transport's own form.
        return bool(address)
    try:
        return not ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return bool(host)
