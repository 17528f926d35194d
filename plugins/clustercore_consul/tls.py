"""TLS to the agent: whom to trust, and what to show if the agent asks for it."""

from __future__ import annotations

import ssl
from pathlib import Path

from clustercore.interfaces import ConfigError

__all__ = ["ConsulTls"]


class ConsulTls:
    """The files, made into a context anew for each client, so that renewed files need no restart.

    An agent mostly shows a certificate of the operator's own authority, and asks for one only where it is told to: so
    the authority alone will do, and so will none, which trusts those that the system trusts.
    """

    def __init__(self, certificate: str, key: str, authority: str) -> None:
        self._certificate = certificate
        self._key = key
        self._authority = authority

    @classmethod
    def checked(
        cls, certificate: Path | str, key: Path | str, authority: Path | str, *, is_tls: bool
    ) -> ConsulTls | None:
        """Make it of the options ``tls_certificate``, ``tls_key`` and ``tls_authority``.

        Returns: None for a URL in the clear.
        Raises: ConfigError if a file cannot be used, a certificate is given without its key or the other way round, or
            files are given for a URL in the clear.
        """
        options = {"tls_certificate": certificate, "tls_key": key, "tls_authority": authority}
        given = {}
        for name, path in options.items():
            if not isinstance(path, (str, Path)):
                raise ConfigError(f"{name} = {path!r}: expected the path of a file")
            given[name] = "" if path == Path() else str(path)
        named = [name for name, path in given.items() if path]
        if not is_tls:
            if named:
                raise ConfigError(f"{named[0]} = {given[named[0]]!r}: is of no use with a url that is not https")
            return None
        if bool(given["tls_certificate"]) != bool(given["tls_key"]):
            missing = "tls_key" if given["tls_certificate"] else "tls_certificate"
            raise ConfigError(f"{missing} is missing; a certificate and its key go together")
        tls = cls(*given.values())
        try:
            tls.context()
        except (OSError, ValueError) as exc:
            told = ", ".join(f"{name} = {given[name]!r}" for name in named)
            raise ConfigError(f"{told}: {exc}") from exc
        return tls

    def context(self) -> ssl.SSLContext:
        """Read the files, and return a context that checks the agent's certificate and its host name.

        Raises: OSError or ValueError if a file cannot be used.
        """
        context = ssl.create_default_context(cafile=self._authority or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._certificate:
            context.load_cert_chain(self._certificate, self._key)
        return context
