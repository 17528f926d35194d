"""The files of TLS: checked when they are named, read again when they change."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from clustercore.interfaces import (
    ConfigError,
    Hello,
    HelloResponse,
    LinkClosed,
    NodeId,
    StatusRequest,
    TlsFiles,
    certificate_names,
    check_claim,
)
from tests.certificates import Authority

N1, N2 = NodeId("n1"), NodeId("n2")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who signs."""
    return Authority(tmp_path)


def test_no_files_are_no_tls() -> None:
    """All three options left out means: in the clear."""
    assert TlsFiles.checked("", "", "") is None


@pytest.mark.parametrize("missing", ["tls_certificate", "tls_key", "tls_authority"])
def test_some_files_without_the_others_are_a_config_error(authority: Authority, missing: str) -> None:
    """The error names the option that is missing."""
    paths = authority.issue("n1").options | {missing: ""}

    with pytest.raises(ConfigError, match=f"{missing} is missing"):
        TlsFiles.checked(*paths.values())


@pytest.mark.parametrize("wrong", ["tls_certificate", "tls_key", "tls_authority"])
@pytest.mark.parametrize("content", [None, "nonsense"])
def test_file_that_cannot_be_used_is_a_config_error(
    authority: Authority, tmp_path: Path, wrong: str, content: str | None
) -> None:
    """A file that is not there, or is no PEM, is found out at once, with its path."""
    path = tmp_path / "wrong.pem"
    if content is not None:
        path.write_text(content)
    paths = authority.issue("n1").options | {wrong: str(path)}

    with pytest.raises(ConfigError, match=r"wrong\.pem"):
        TlsFiles.checked(*paths.values())


def test_key_of_another_certificate_is_a_config_error(authority: Authority) -> None:
    """A certificate is of no use with another's key."""
    first, second = authority.issue("n1"), authority.issue("n2")

    with pytest.raises(ConfigError, match="tls_key"):
        TlsFiles(first.tls_certificate, second.tls_key, first.tls_authority)


def test_contexts_are_kept_until_a_file_changes(authority: Authority) -> None:
    """The same context serves all handshakes; a new certificate gives another one, on both sides."""
    files = TlsFiles(*authority.issue("n1").options.values())
    client, server = files.client_context(), files.server_context()
    assert (files.client_context(), files.server_context()) == (client, server)

    authority.issue("n1")

    assert files.client_context() is not client
    assert files.server_context() is not server


def test_broken_replacement_leaves_the_good_files_in_use(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once, however often it is looked at; the next good files are taken."""
    issued = authority.issue("n1")
    files = TlsFiles(*issued.options.values())
    client = files.client_context()
    Path(issued.tls_certificate).write_text("half of a file")

    with caplog.at_level(logging.WARNING):
        assert files.client_context() is client
        assert files.server_context() is files.server_context()
    assert len(caplog.records) == 1
    assert "cannot be used" in caplog.text

    authority.issue("n1")
    assert files.client_context() is not client


def test_names_are_the_dns_names_of_the_certificate() -> None:
    """Addresses name hosts, and no node; without TLS there are no names at all."""
    told = {"subjectAltName": (("DNS", "n1"), ("DNS", "db.example"), ("IP Address", "10.0.0.1"))}

    assert certificate_names(told) == frozenset({"n1", "db.example"})
    assert certificate_names({"subject": ()}) == frozenset()
    assert certificate_names(None) is None


def test_claim_to_be_another_is_refused() -> None:
    """Only introductions claim anything, and only those with a certificate are held to it."""
    for message in (Hello(N1, N2), HelloResponse(N1)):
        check_claim(message, None)
        check_claim(message, frozenset({"n1", "host"}))
        with pytest.raises(LinkClosed, match="node 'n1', and its certificate names n2"):
            check_claim(message, frozenset({"n2"}))
        with pytest.raises(LinkClosed, match="names nobody"):
            check_claim(message, frozenset())
    check_claim(StatusRequest(), frozenset())
