"""The ranges of a node's numbers."""

import math
from typing import Any

import pytest

from clustercore.interfaces import ConfigError
from clustercore.raft.config import RaftConfig
from clustercore.runtime.config import NodeConfig


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("max_pending_proposals", 1),
        ("max_pending_bytes", 1),
        ("max_command_bytes", 1),
        ("snapshot_entries", 1),
        ("snapshot_tail_entries", 0),
        ("snapshot_tail_bytes", 0),
    ],
)
def test_counts_have_a_least_value(name: str, least: int) -> None:
    """The least value is taken, anything below is refused with name, value and bound."""
    rest: dict[str, Any] = {"max_command_bytes": 1} if name == "max_pending_bytes" else {}
    assert getattr(NodeConfig(**(rest | {name: least})), name) == least

    with pytest.raises(ConfigError, match=rf"{name} is {least - 1}; it must be at least {least}"):
        NodeConfig(**(rest | {name: least - 1}))


@pytest.mark.parametrize("name", ["connect_timeout_s", "reconnect_min_s", "reconnect_max_s", "forward_timeout_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_times_are_above_zero(name: str, value: float) -> None:
    """No time may be zero, negative or not a number."""
    times: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=rf"{name} is .*; it must be above 0 seconds"):
        NodeConfig(**times)


def test_the_longest_wait_is_at_least_the_shortest() -> None:
    """A wait between attempts cannot grow to less than it starts with."""
    NodeConfig(reconnect_min_s=1.0, reconnect_max_s=1.0)

    with pytest.raises(ConfigError, match=r"reconnect_max_s is 0.5; it must be at least reconnect_min_s \(1.0\)"):
        NodeConfig(reconnect_min_s=1.0, reconnect_max_s=0.5)


def test_one_command_fits_into_what_may_be_pending() -> None:
    """A command larger than all that may be held at once could never be proposed."""
    NodeConfig(max_command_bytes=100, max_pending_bytes=100)

    with pytest.raises(ConfigError, match=r"max_command_bytes is 101; it must be at most max_pending_bytes \(100\)"):
        NodeConfig(max_command_bytes=101, max_pending_bytes=100)


@pytest.mark.parametrize(
    ("append", "command", "chunk", "named"),
    [(5000, 4000, 10, "max_append"), (4000, 5000, 10, "max_command"), (4000, 10, 5000, "snapshot_chunk")],
)
def test_transport_must_carry_the_largest_message(append: int, command: int, chunk: int, named: str) -> None:
    """Entries that do not fit into a message would never reach a follower; the text names both limits."""
    config = NodeConfig(
        raft=RaftConfig(max_append_bytes=append, max_append_entries=10),
        max_command_bytes=command,
        snapshot_chunk_bytes=chunk,
        max_pending_proposals=20,
    )
    config.check_transport(None)
    config.check_transport(6184)

    with pytest.raises(ConfigError, match=rf"max_message_bytes.* 6183; .* at least 6184 with {named}_bytes = 5000"):
        config.check_transport(6183)
