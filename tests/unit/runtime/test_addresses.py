"""Which addresses are worth telling others."""

from __future__ import annotations

import pytest

from clustercore.runtime.addresses import is_for_peers


@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        ("127.0.0.1:7101", True),
        ("[::1]:7101", True),
        ("n1.example:7101", True),
        ("a", True),
        ("unix:/run/n1", True),
        ("0.0.0.0:7101", False),
        ("[::]:7101", False),
        ("0:0:0:0:0:0:0:0:7101", False),
        (":7101", False),
        ("", False),
    ],
)
def test_unspecified_addresses_are_for_nobody(address: str, is_one: bool) -> None:
    """They mean "all of mine" to who listens, and nothing to who calls. Other forms are the transport's own."""
    assert is_for_peers(address) is is_one
