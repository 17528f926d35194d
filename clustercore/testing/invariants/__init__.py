"""What must hold in a world of cores after every event: one property a module, each with the section it is from.

``Invariants`` watches a world and checks them all; ``PROPERTIES`` lists them. A property of your own is a subclass of
``Invariant``.
"""

from clustercore.testing.invariants.facts import Facts, Invariant, Seen
from clustercore.testing.invariants.quorum_intersection import do_quorums_intersect
from clustercore.testing.invariants.watcher import PROPERTIES, Invariants

__all__ = ["PROPERTIES", "Facts", "Invariant", "Invariants", "Seen", "do_quorums_intersect"]
