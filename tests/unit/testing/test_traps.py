"""What the traps for state machines notice, and what they leave alone."""

from __future__ import annotations

import datetime
import io
import logging
import os
import random
import secrets
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from clustercore.testing.conformance.traps import CLOCK, ENVIRONMENT, IO, RANDOMNESS, watched

HERE = Path(__file__)


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        pytest.param(time.time, CLOCK, id="time"),
        pytest.param(time.perf_counter_ns, CLOCK, id="perf_counter_ns"),
        pytest.param(lambda: datetime.datetime.now(tz=datetime.UTC), CLOCK, id="now"),
        pytest.param(datetime.date.today, CLOCK, id="today"),
        pytest.param(random.random, RANDOMNESS, id="random"),
        pytest.param(lambda: random.choice([1, 2]), RANDOMNESS, id="choice"),
        pytest.param(lambda: os.urandom(4), RANDOMNESS, id="urandom"),
        pytest.param(secrets.token_hex, RANDOMNESS, id="secrets"),
        pytest.param(uuid.uuid4, RANDOMNESS, id="uuid4"),
        pytest.param(HERE.read_bytes, IO, id="read_bytes"),
        pytest.param(HERE.exists, IO, id="exists"),
        pytest.param(os.getpid, IO, id="getpid"),
        pytest.param(lambda: socket.socket().close(), IO, id="socket"),
        pytest.param(lambda: os.environ.get("HOME"), ENVIRONMENT, id="environ.get"),
        pytest.param(lambda: os.getenv("HOME"), ENVIRONMENT, id="getenv"),
        pytest.param(lambda: "HOME" in os.environ, ENVIRONMENT, id="in environ"),
        pytest.param(lambda: dict(os.environ), ENVIRONMENT, id="all of environ"),
        pytest.param(lambda: print(end=""), IO, id="print"),  # noqa: T201 - what is trapped
    ],
)
def test_trap_notices(ask: Callable[[], object], kind: str) -> None:
    """A question whose answer differs from node to node is noted, by its kind and place."""
    with watched() as found:
        ask()

    assert kind in {each for each, _ in found}


@pytest.mark.parametrize(
    "do",
    [
        pytest.param(random.Random(7).random, id="a generator of its own"),
        pytest.param(lambda: logging.getLogger("quiet").warning("a line"), id="logging"),
        pytest.param(lambda: __import__("colorsys"), id="import"),
        pytest.param(lambda: sorted({"b": 1, "a": 2}.items()), id="plain computing"),
        pytest.param(lambda: io.BytesIO(b"a line").readline(), id="a file in memory"),
        pytest.param(lambda: threading.Lock().acquire(), id="a lock"),
        pytest.param(lambda: datetime.datetime.fromtimestamp(0, tz=datetime.UTC).isoformat(), id="a given time"),
    ],
)
def test_trap_leaves_alone(do: Callable[[], object], caplog: pytest.LogCaptureFixture) -> None:
    """What gives the same everywhere, and what the interpreter and ``logging`` do for themselves, is not noted."""
    sys.modules.pop("colorsys", None)

    with watched() as found:
        do()

    assert found == []


def test_trap_gives_the_profiler_back() -> None:
    """Whoever profiles the tests goes on doing so, also when the body raises."""

    def profile(*_: object) -> None:
        return

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        with pytest.raises(ZeroDivisionError), watched():
            _ = 1 / 0
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(before)
