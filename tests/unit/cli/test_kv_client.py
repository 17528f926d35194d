"""What the commands do with any key-value client."""

from __future__ import annotations

import math
from typing import cast

import pytest

from clustercore.cli.kv_client import KvClient, all_pairs
from clustercore_kv import KvPair, ScanResult

KEYS = [f"key {number:04}" for number in range(2500)]


class Store:
    """Answers scans as the service does, and notes what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []

    async def scan(self, prefix: str = "", *, limit: int = 0, start_after: str = "", local: bool = False) -> ScanResult:
        self.asked.append((limit, start_after))
        left = [key for key in KEYS if key.startswith(prefix) and key > start_after]
        return ScanResult(tuple(KvPair(key, b"value", 1) for key in left[:limit]), len(left) > limit, 1)


@pytest.mark.parametrize(
    ("limit", "asked"),
    [
        (math.inf, [(1000, ""), (1000, KEYS[999]), (1000, KEYS[1999])]),
        (1200, [(1000, ""), (200, KEYS[999])]),
        (1000, [(1000, "")]),
        (7, [(7, "")]),
    ],
)
async def test_all_pairs_are_read_in_pages_up_to_the_limit(limit: float, asked: list[tuple[int, str]]) -> None:
    """Each key comes once, in order, and no page asks for more than is wanted."""
    store = Store()

    keys = [pair.key async for pair in all_pairs(cast(KvClient, store), "key", limit=limit)]

    assert keys == KEYS[: None if math.isinf(limit) else int(limit)]
    assert store.asked == asked
