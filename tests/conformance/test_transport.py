"""Every transport that ships keeps the Transport contract, and that of application services."""

from __future__ import annotations

import importlib.util
import itertools
from importlib import import_module
from typing import Any, ClassVar

import pytest

from clustercore.interfaces import ServiceTransport
from clustercore.testing.conformance import ServiceTransportConformance
from clustercore.testing.simulation.network import SimulatedNetwork
from clustercore.testing.simulation.transport import SimulatedTransport
from clustercore_memory import MemoryNetwork, MemoryTransport
from tests.certificates import Authority

_GRPC_IS_INSTALLED = all(importlib.util.find_spec(name) for name in ("clustercore_grpc", "grpclib", "trio_asyncio"))
_HTTP_IS_INSTALLED = importlib.util.find_spec("h11") is not None

# The transports' own limit for an answer, in seconds: a loaded machine keeps within it.
PATIENCE_S = 3.0
# A limit that a message can pass in little time.
MAX_MESSAGE_BYTES = 4 << 20


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The options of a transport with TLS. All nodes of the kit share the certificate, so it names them all."""
    return Authority(tmp_path_factory.mktemp("authority")).issue("a", "b", "n1", "n2").options


# --- In one process --------------------------------------------------------------------------------------------------


class _InProcess(ServiceTransportConformance):
    """Transports of one test are on one network, each at an address of its own, and lose patience soon."""

    nobody = "nobody"
    is_at_host_and_port = False
    # What holds the time after which a call is given up.
    timeout: ClassVar[str]

    def make_network(self) -> Any:
        """Return what joins the transports."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.network, self.numbers = self.make_network(), itertools.count(1)
        monkeypatch.setattr(self.timeout, 0.2)

    def make(self) -> ServiceTransport:
        return self.make_at(f"node-{next(self.numbers)}")

    def make_at(self, address: str) -> ServiceTransport:
        raise NotImplementedError


class TestMemory(_InProcess):
    timeout = "clustercore_memory.transport.CALL_TIMEOUT_S"

    def make_network(self) -> MemoryNetwork:
        return MemoryNetwork()

    def make_at(self, address: str) -> ServiceTransport:
        return MemoryTransport(self.network, address or "nowhere")


class TestSimulated(_InProcess):
    timeout = "clustercore.testing.simulation.transport.CALL_TIMEOUT_S"

    def make_network(self) -> SimulatedNetwork:
        return SimulatedNetwork()

    def make_at(self, address: str) -> ServiceTransport:
        return SimulatedTransport(self.network, address or "nowhere")


# --- Over sockets ----------------------------------------------------------------------------------------------------


class _OverSockets(ServiceTransportConformance):
    """A transport that waits for answers as long as one may take on a loaded machine."""

    # The transport's module and class, imported where it is used: its extra may not be installed.
    module: ClassVar[str]
    name: ClassVar[str]
    options: dict[str, Any] = {}  # noqa: RUF012  # read only; those with TLS have their own

    def make(self) -> ServiceTransport:
        return self.make_at("127.0.0.1:0")

    def make_at(self, address: str) -> ServiceTransport:
        kind = getattr(import_module(self.module), self.name)
        made: ServiceTransport = kind(
            listen=address or "127.0.0.1:0", timeout=PATIENCE_S, max_message_bytes=MAX_MESSAGE_BYTES, **self.options
        )
        return made

    @pytest.mark.slow
    async def test_call_without_an_answer_times_out(self) -> None:
        """As the kit says, once the transport's own limit has passed."""
        await super().test_call_without_an_answer_times_out()


class _WithTls(_OverSockets):
    @pytest.fixture(autouse=True)
    def _options(self, certificates: dict[str, str]) -> None:
        self.options = dict(certificates)


class TestTcp(_OverSockets):
    module, name = "clustercore_tcp", "TcpTransport"


class TestTcpWithTls(_WithTls, TestTcp):
    pass


@pytest.mark.skipif(not _HTTP_IS_INSTALLED, reason="needs the extra clustercore[http]")
class TestHttp(_OverSockets):
    module, name = "clustercore_http", "HttpTransport"


class TestHttpWithTls(_WithTls, TestHttp):
    pass


@pytest.mark.skipif(not _GRPC_IS_INSTALLED, reason="needs the extra clustercore[grpc]")
class TestGrpc(_OverSockets):
    module, name = "clustercore_grpc", "GrpcTransport"


class TestGrpcWithTls(_WithTls, TestGrpc):
    pass
