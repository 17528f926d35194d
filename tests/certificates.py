"""Certificates for the tests of TLS, made by an authority of their own."""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path

import attrs
import trustme

__all__ = ["Authority", "Files"]


@attrs.frozen
class Files:
    """A certificate, its key, and the authority to trust, as a transport's options."""

    tls_certificate: str
    tls_key: str
    tls_authority: str

    @property
    def options(self) -> dict[str, str]:
        """The options, by name."""
        return attrs.asdict(self)


class Authority:
    """Signs certificates for nodes that serve at 127.0.0.1."""

    def __init__(self, folder: Path | None = None) -> None:
        self._kept = None if folder else tempfile.TemporaryDirectory()
        self.folder = folder or Path(self._kept.name if self._kept else "")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._authority = trustme.CA()
        self.certificate = self.folder / "authority.pem"
        self._authority.cert_pem.write_to_path(self.certificate)

    def issue(self, *names: str, until: datetime.datetime | None = None, trusts: Authority | None = None) -> Files:
        """Make a certificate that names 127.0.0.1 and the given names, or overwrite the one of the first name.

        Args:
            names: Of the node; the first also names the files.
            until: When it expires.
            trusts: Who may have signed the peers' certificates, if not this authority.
        """
        issued = self._authority.issue_cert("127.0.0.1", *names, not_after=until)
        certificate, key = self.folder / f"{names[0]}.pem", self.folder / f"{names[0]}.key"
        # The key first, and each at once, as a careful administrator does it.
        for path, content in (
            (key, issued.private_key_pem.bytes()),
            (certificate, b"".join(blob.bytes() for blob in issued.cert_chain_pems)),
        ):
            fresh = path.with_suffix(path.suffix + ".new")
            fresh.write_bytes(content)
            fresh.replace(path)
        return Files(str(certificate), str(key), str((trusts or self).certificate))
