"""What the tests of discovery by Consul stand on: a clock that they move, and no network."""

import pytest
import trio
from trio.testing import MockClock

from tests.fake_consul import dial


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """A clock that stands still: what is to happen later happens when the test says so."""
    monkeypatch.setattr(trio, "open_tcp_stream", dial)
    return MockClock()
