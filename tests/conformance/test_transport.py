"""Every transport that ships keeps the Transport contract, and that of application services."""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import pytest

from clustercore.interfaces import ServiceTransport
from clustercore.testing.conformance import ServiceTransportConformance
from clustercore.testing.simulation.network import SimulatedNetwork
from clustercore.testing.simulation.transport import SimulatedTransport
from clustercore_memory import MemoryNetwork, MemoryTransport
from clustercore_tcp import TcpTransport
from tests.certificates import Authority

_GRPC_IS_INSTALLED = all(importlib.util.find_spec(name) for name in ("clustercore_grpc", "grpclib", "trio_asyncio"))


_HTTP_IS_INSTALLED = importlib.util.find_spec("h11") is not None

# The transports' own limit for an answer, in seconds: a loaded machine keeps within it.
PATIENCE_S = 3.0
# A limit that a message can pass in little time.
MAX_MESSAGE_BYTES = 4 << 20


class _Patient(ServiceTransportConformance):
    """A kit whose transport waits for answers as long as one may take on a loaded machine."""

    @pytest.mark.slow
    async def test_call_without_an_answer_times_out(self) -> None:
        """As the kit says, once the transport's own limit has passed."""
        await super().test_call_without_an_answer_times_out()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The options of a transport with TLS. All nodes of the kit share the certificate, so it names them all."""
    return Authority(tmp_path_factory.mktemp("authority")).issue("a", "b", "n1", "n2").options


class TestMemory(ServiceTransportConformance):
    nobody = "nobody"
    is_at_host_and_port = False

    @pytest.fixture(autouse=True)
    def _network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All transports of one test are on one network, and lose patience soon."""
        self.network, self.numbers = MemoryNetwork(), itertools.count(1)
        monkeypatch.setattr("clustercore_memory.transport.CALL_TIMEOUT_S", 0.2)

    def make(self) -> ServiceTransport:
        return self.make_at(f"node-{next(self.numbers)}")

    def make_at(self, address: str) -> ServiceTransport:
        return MemoryTransport(self.network, address or "nowhere")


class TestTcp(_Patient):
    def make(self) -> ServiceTransport:
        return self.make_at("127.0.0.1:0")

    def make_at(self, address: str) -> ServiceTransport:
        return TcpTransport(listen=address or "127.0.0.1:0", timeout=PATIENCE_S, max_message_bytes=MAX_MESSAGE_BYTES)


class TestTcpWithTls(_Patient):
    @pytest.fixture(autouse=True)
    def _options(self, certificates: dict[str, str]) -> None:
        self.options: dict[str, Any] = dict(certificates)

    def make(self) -> ServiceTransport:
        return self.make_at("127.0.0.1:0")

    def make_at(self, address: str) -> ServiceTransport:
        return TcpTransport(
            listen=address or "127.0.0.1:0", timeout=PATIENCE_S, max_message_bytes=MAX_MESSAGE_BYTES, **self.options
        )


@pytest.mark.skipif(not _HTTP_IS_INSTALLED, reason="needs the extra clustercore[http]")
class TestHttp(_Patient):
    def make(self) -> ServiceTransport:
        return self.make_at("127.0.0.1:0")

    def make_at(self, address: str) -> ServiceTransport:
        from clustercore_http import HttpTransport

        return HttpTransport(listen=address or "127.0.0.1:0", timeout=PATIENCE_S, max_message_bytes=MAX_MESSAGE_BYTES)


@pytest.mark.skipif(not _HTTP_IS_INSTALLED, reason="needs the extra clustercore[http]")
class TestHttpWithTls(_Patient):
    @pytest.fixture(autouse=True)
    def _options(self, certificates: dict[str, str]) -> None:
        self.options: dict[str, Any] = dict(certificates)

    def make(self) -> ServiceTransport:
        return self.make_at("127.0.0.1:0")

    def make_at(self, address: str) -> ServiceTransport:
        from clustercore_http import HttpTransport

        return HttpTransport(
            listen=address or "127.0.0.1:0", timeout=PATIENCE_S, max_message_bytes=MAX_MESSAGE_BYTES, **self.options
        )


class TestSimulated(ServiceTransportConformance):
    nobody = "nobody"
    is_at_host_and_port = False

    @pytest.fixture(autouse=True)
    def _network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All transports of one test are on one network, and lose patience soon."""
        self.network, self.numbers = SimulatedNetwork(), itertools.count(1)
        monkeypatch.setattr("clustercore.testing.simulation.transport.CALL_TIMEOUT_S", 0.2)

    def make(self) -> ServiceTransport:
        return self.make_at(f"node-{next(self.numbers)}")

    def make_at(self, address: str) -> ServiceTransport:
        return SimulatedTransport(self.network, address or "nowhere")


@pytest.mark.skipif(not _GRPC_IS_INSTALLED, reason="needs the extra clustercore[grpc]")
class TestGrpc(_Patient):
    def make(self) -> ServiceTransport:
        return self.make_at("127.0.0.1:0")

    def make_at(self, address: str) -> ServiceTransport:
        from clustercore_grpc import GrpcTransport

        return GrpcTransport(listen=address or "127.0.0.1:0", timeout=PATIENCE_S, max_message_bytes=MAX_MESSAGE_BYTES)


@pytest.mark.skipif(not _GRPC_IS_INSTALLED, reason="needs the extra clustercore[grpc]")
class TestGrpcWithTls(_Patient):
    @pytest.fixture(autouse=True)
    def _options(self, certificates: dict[str, str]) -> None:
        self.options: dict[str, Any] = dict(certificates)

    def make(self) -> ServiceTransport:
        return self.make_at("127.0.0.1:0")

    def make_at(self, address: str) -> ServiceTransport:
        from clustercore_grpc import GrpcTransport

        return GrpcTransport(
            listen=address or "127.0.0.1:0", timeout=PATIENCE_S, max_message_bytes=MAX_MESSAGE_BYTES, **self.options
        )
