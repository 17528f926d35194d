"""``clustercore demo``: three processes, a ``kill -9``, and every acknowledged write read back."""

from clustercore.cli.demo.command import demo

__all__ = ["demo"]
