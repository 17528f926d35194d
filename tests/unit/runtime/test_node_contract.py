"""A node is what its handle says, to the word."""

from __future__ import annotations

import inspect

import pytest

from clustercore import Node
from clustercore.interfaces import NodeHandle


@pytest.mark.parametrize("name", ["propose", "read", "leading"])
def test_node_promises_what_its_handle_does(name: str) -> None:
    """The contract is told to those who hold a node and to those who hold its handle: in the same words."""
    assert inspect.getdoc(vars(Node)[name]) == inspect.getdoc(vars(NodeHandle)[name])
