"""TLS to the agent: whom a node trusts, what it shows, and files that are renewed while it runs."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from clustercore.interfaces import Member, NodeId
from clustercore_consul import ConsulDiscovery
from tests.certificates import Authority, Files
from tests.fake_consul import FakeConsul, Reply, instance
from tests.unit.consul.opened import HEALTH, A
from tests.waiting import until


def serving(files: Files, *, asks: bool = False) -> FakeConsul:
    """Return a Consul with this certificate that knows node a, and may ask for a client's."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.tls_authority)
    context.load_cert_chain(files.tls_certificate, files.tls_key)
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
    fake = FakeConsul(tls=context)
    fake.put(instance("a", "host:1"))
    return fake


async def test_agent_is_known_by_its_authority(tmp_path: Path) -> None:
    """The authority alone is enough for an agent that asks for no certificate; registering works as in the clear."""
    files = Authority(tmp_path).issue("agent")
    fake = serving(files)
    async with fake.running(), ConsulDiscovery(fake.url, tls_authority=files.tls_authority) as discovery:
        assert (await discovery.members()).members == (A,)
        await discovery.register(Member(NodeId("b"), "host:2"))
        assert len((await discovery.members()).members) == 2


async def test_agent_may_ask_for_a_certificate(tmp_path: Path) -> None:
    """It is shown the node's own."""
    authority = Authority(tmp_path)
    fake, own = serving(authority.issue("agent"), asks=True), authority.issue("node")
    discovery = ConsulDiscovery(
        fake.url, tls_certificate=own.tls_certificate, tls_key=own.tls_key, tls_authority=own.tls_authority
    )
    async with fake.running(), discovery:
        assert (await discovery.members()).members == (A,)


@pytest.mark.parametrize("trusts_system", [True, False])
async def test_agent_of_another_authority_is_told_nothing(
    tmp_path: Path, trusts_system: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever shows a certificate of a stranger gets no request, and so no token; the log says why."""
    stranger, trusted = Authority(tmp_path / "stranger"), Authority(tmp_path / "trusted").issue("agent")
    async with serving(stranger.issue("agent")).running() as fake:
        authority = "" if trusts_system else trusted.tls_authority
        async with ConsulDiscovery(fake.url, token="secret", tls_authority=authority) as discovery:
            await until(lambda: "does not help" in caplog.text)

        assert fake.heard == []
        assert discovery._known.newest is None
    assert "certificate verify failed" in caplog.text


@pytest.mark.slow
async def test_renewed_files_are_read_with_the_next_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An authority that replaces another needs no restart; a file that is half written is read again later."""
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(old.certificate.read_bytes())
    fake = serving(old.issue("agent"))
    async with fake.running(), ConsulDiscovery(fake.url, tls_authority=trusted) as discovery:
        before = await discovery.members()
        await fake.wait_asked(HEALTH, 2)
        renewed = new.issue("agent")
        assert fake.tls is not None
        fake.tls.load_cert_chain(renewed.tls_certificate, renewed.tls_key)
        trusted.write_bytes(b"half of a certificate")
        # The connection that is open goes on until something goes wrong on it.
        fake.script(Reply(body=[], cut_after=1), HEALTH)
        fake.wake()
        stale = await discovery.changed(before.version)
        assert stale.is_stale
        await until(lambda: "TLS files cannot be used" in caplog.text)
        trusted.write_bytes(new.certificate.read_bytes())
        fresh = await discovery.changed(stale.version)

    assert fresh.members == stale.members == (A,)
    assert not fresh.is_stale
