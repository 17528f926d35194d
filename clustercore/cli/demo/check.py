"""Reading everything back from every node, and comparing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import trio

from clustercore.cli.demo.errors import DemoFailed
from clustercore.cli.demo.writes import Write
from clustercore.cli.kv_client import KvClient, all_pairs

__all__ = ["Comparison", "compare", "read_back"]

_READ_LIMIT_S = 120.0


@attrs.frozen
class Comparison:
    """What the nodes hold, against what was acknowledged."""

    # By node id: keys that were acknowledged, and are not there with their value.
    lost_by_node: Mapping[str, Sequence[str]]
    # Every node holds the same keys with the same values.
    is_same_everywhere: bool

    @property
    def lost(self) -> int:
        """How many acknowledged writes some node has lost."""
        return len({key for keys in self.lost_by_node.values() for key in keys})


def compare(acknowledged: Sequence[Write], contents: Mapping[str, Mapping[str, bytes]]) -> Comparison:
    """Compare what each node holds with what was acknowledged. ``contents`` is by node id, then by key."""
    held = list(contents.values())
    return Comparison(
        {
            node_id: [write.key for write in acknowledged if pairs.get(write.key) != write.value]
            for node_id, pairs in contents.items()
        },
        all(pairs == held[0] for pairs in held),
    )


async def read_back(node_id: str, client: KvClient) -> dict[str, bytes]:
    """Return everything that the one node asked by this client has applied. Raises: DemoFailed after a time."""
    with trio.move_on_after(_READ_LIMIT_S):
        return {pair.key: pair.value async for pair in all_pairs(client, local=True)}
    raise DemoFailed(f"node {node_id} could not be read within {_READ_LIMIT_S:g} s")
