"""The protocol level: cores alone, with messages, disks and clocks as plain data, under an adversary that chooses.

A seed draws a world (``draw_plan``) and a schedule of choices (``draw_schedule``). ``runs.run_schedule`` carries it out
with every invariant checked after every event, and heals the cluster at the end; ``clustercore.testing.campaign`` runs
many. What a world is made of, and how to watch one, is in ``world``.
"""

from clustercore.testing.protocol.choices import Choice, Kind, draw_schedule
from clustercore.testing.protocol.plan import WorldPlan, draw_plan
from clustercore.testing.protocol.world import World

__all__ = ["Choice", "Kind", "World", "WorldPlan", "draw_plan", "draw_schedule"]
