"""What is raised when a property does not hold."""

from __future__ import annotations

from typing import ClassVar

from clustercore.interfaces.groups import leaves_of

__all__ = ["PropertyViolated", "RunUseless", "what_broke"]


class PropertyViolated(AssertionError):
    """A run of a simulated cluster broke a property. It is for people to look into; nothing can be done at run time.

    Args:
        name: The property, in a few words that stay the same: campaigns are compared by them.
        text: What was seen, with nodes, terms and indexes.
        source: Where the property is from: "Raft §5.2", "thesis §3.6.1", or who promises it.
        node: Where it showed, if that is one node.
    """

    kind: ClassVar[str] = "property"

    def __init__(self, name: str, text: str, source: str = "", node: str | None = None) -> None:
        super().__init__(text)
        self.name = name
        self.source = source
        self.node = node

    def __reduce__(self) -> tuple[type[PropertyViolated], tuple[str, str, str, str | None]]:
        """Let it cross from one process to another whole."""
        return type(self), (self.name, str(self), self.source, self.node)


class RunUseless(PropertyViolated):
    """A run exercised too little to say anything."""

    kind: ClassVar[str] = "useless"


def what_broke(error: BaseException) -> tuple[str, str]:
    """Return what a run broke that ended in an error: the properties by their names, and what was seen of each.

    Checks that fail at the same time are in one group; each is named once, in the order of the alphabet, which does not
    depend on which task was first. Where no property is concerned, it is the kind of the error.
    """
    told: dict[str, list[str]] = {}
    for leaf in leaves_of(error):
        name = leaf.name if isinstance(leaf, PropertyViolated) else type(leaf).__name__
        told.setdefault(name, []).append(str(leaf))
    if len(told) == 1:
        [(name, texts)] = told.items()
        return name, texts[0]
    return ", ".join(sorted(told)), "\n".join(f"{name}: {texts[0]}" for name, texts in sorted(told.items()))
