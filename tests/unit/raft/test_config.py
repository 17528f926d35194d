"""The numbers a core is run with."""

from typing import Any

import pytest

from clustercore.raft.config import RaftConfig


def test_defaults_are_valid() -> None:
    """A configuration needs no arguments."""
    assert RaftConfig().election_timeout_s >= 2 * RaftConfig().heartbeat_interval_s


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"heartbeat_interval_s": 0}, "heartbeat_interval_s is 0; it must be above 0"),
        ({"heartbeat_interval_s": float("nan")}, "heartbeat_interval_s is nan"),
        ({"election_timeout_s": 0.19}, "election_timeout_s is 0.19; it must be at least twice"),
        ({"max_clock_drift": -0.1}, "max_clock_drift is -0.1; it must be at least 0 and below 1"),
        ({"max_clock_drift": 1}, "max_clock_drift is 1; it must be at least 0 and below 1"),
        ({"max_clock_drift": float("nan")}, "max_clock_drift is nan"),
        ({"disk_stall_s": 0}, "disk_stall_s is 0; it must be above 0"),
        ({"disk_stall_s": float("nan")}, "disk_stall_s is nan"),
        ({"snapshot_timeout_s": 0.9}, "snapshot_timeout_s is 0.9; it must be at least election_timeout_s"),
        ({"max_append_entries": 0}, "max_append_entries is 0; it must be at least 1"),
        ({"max_append_bytes": 0}, "max_append_bytes is 0; it must be at least 1"),
        ({"max_inflight_appends": 0}, "max_inflight_appends is 0; it must be at least 1"),
        ({"max_inflight_bytes": 0}, "max_inflight_bytes is 0; it must be at least 1"),
        ({"max_uncommitted_bytes": 0}, "max_uncommitted_bytes is 0; it must be at least 1"),
    ],
)
def test_value_out_of_range_is_refused_by_name(values: dict[str, Any], text: str) -> None:
    """The error names the value, what it is, and what is allowed."""
    with pytest.raises(ValueError, match=text):
        RaftConfig(**values)
