"""TLS between nodes: three files, read again when they change, and names in certificates that are held to.

Both sides show a certificate and check the other's, so whoever holds none that the authority signed gets no further
than the handshake. A node's certificate names, as DNS names, the hosts of its address and its node id: the client
checks the first against the address it dialled (RFC 9110 §4.3.4), and both check the second against what the other says
in its Hello, so that one node's certificate is of no use for passing as another.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Collection
from pathlib import Path
from typing import Any

from clustercore.interfaces.errors import ConfigError, LinkClosed
from clustercore.interfaces.messages import Hello, HelloResponse, Message

__all__ = ["TlsFiles", "certificate_names", "check_claim"]

# Of a name that a stranger says.
_SHOWN_CHARACTERS = 255

log = logging.getLogger("clustercore")

# Device, inode, size and time of change of each file: what differs when one was replaced or rewritten.
_Stamp = tuple[tuple[int, int, int, int], ...]


class TlsFiles:
    """The certificate, key and authority that a transport was given, as contexts for the ``ssl`` module.

    The files are looked at before each handshake, and read again when one has changed: a renewed certificate needs no
    restart. Files that cannot be read then are reported to the log, once, and the last good ones go on being used.
    Connections that are open stay as they are.

    Args:
        certificate: Path of the node's own certificate, in PEM, followed by those that lead to the authority if any.
        key: Path of its private key, in PEM, without a password.
        authority: Path of the certificates, in PEM, of those who may have signed a peer's certificate.

    Raises: ConfigError if one of the files cannot be used.
    """

    def __init__(self, certificate: Path | str, key: Path | str, authority: Path | str) -> None:
        self._paths = (str(certificate), str(key), str(authority))
        try:
            self._stamp: _Stamp = self._read_stamp()
            self._client, self._server = self._load()
        except (OSError, ValueError) as exc:
            raise ConfigError(
                "tls_certificate = {!r}, tls_key = {!r}, tls_authority = {!r}: {}".format(*self._paths, exc)
            ) from exc
        # The state of the files that could not be used when last looked at.
        self._failed: _Stamp | None = None

    @classmethod
    def checked(cls, certificate: Path | str, key: Path | str, authority: Path | str) -> TlsFiles | None:
        """Make one of a transport's options ``tls_certificate``, ``tls_key`` and ``tls_authority``.

        Returns: None if all are empty: no TLS.
        Raises: ConfigError if only some are, or a file cannot be used.
        """
        paths = {"tls_certificate": certificate, "tls_key": key, "tls_authority": authority}
        for name, path in paths.items():
            if not isinstance(path, Path | str):
                raise ConfigError(f"{name} = {path!r}: expected the path of a file")
        missing = [name for name, path in paths.items() if not path]
        if len(missing) == len(paths):
            return None
        if missing:
            raise ConfigError(f"{missing[0]} is missing; TLS needs all of {', '.join(paths)}")
        return cls(certificate, key, authority)

    def client_context(self) -> ssl.SSLContext:
        """Return the context for dialling: it shows our certificate, and checks the peer's and its host name."""
        self._refresh()
        return self._client

    def server_context(self) -> ssl.SSLContext:
        """Return the context for accepting: it shows our certificate, and demands one of the peer."""
        self._refresh()
        return self._server

    def _refresh(self) -> None:
        stamp: _Stamp | None = None
        try:
            stamp = self._read_stamp()
            if stamp in (self._stamp, self._failed):
                return
            self._client, self._server = self._load()
        except (OSError, ValueError) as exc:
            # Perhaps one of the files is just being replaced; the next handshake after a change looks again.
            log.warning("the TLS files %s have changed and cannot be used: %s", ", ".join(self._paths), exc)
            self._failed = stamp
        else:
            self._stamp = stamp
            self._failed = None
            log.info("the TLS files %s were read again", ", ".join(self._paths))

    def _read_stamp(self) -> _Stamp:
        found = [os.stat(path) for path in self._paths]
        return tuple((one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns) for one in found)

    def _load(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        certificate, key, authority = self._paths
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.verify_mode = ssl.CERT_REQUIRED
        for context in (client, server):
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(certificate, key)
            context.load_verify_locations(authority)
        return client, server


def certificate_names(certificate: Any) -> frozenset[str] | None:
    """Return the DNS names of a peer's certificate, as ``getpeercert`` gives it; None if there is none (no TLS)."""
    if not certificate:
        return None
    return frozenset(value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS")


def check_claim(message: Message, names: Collection[str] | None) -> None:
    """Hold a peer that introduces itself to the names in its certificate; None for one that has shown none.

    Raises: LinkClosed if it claims to be a node that its certificate does not name.
    """
    if names is None or not isinstance(message, Hello | HelloResponse) or message.node_id in names:
        return
    named = ", ".join(sorted(names)) or "nobody"
    raise LinkClosed(
        f"the peer says it is node {message.node_id[:_SHOWN_CHARACTERS]!r}, and its certificate names {named}"
    )
