"""A cluster of real nodes in one process, in virtual time, on a simulated network and simulated disks.

``simulate`` runs an application's scenario on it under faults, everything decided by one seed. The parts can be used
alone: ``run_cluster`` for a run that a test directs step by step, ``SimulatedDisk`` for a storage's crash tests.
"""

from clustercore.testing.simulation.chance import Chance
from clustercore.testing.simulation.cluster import SimulatedCluster, SimulatedNode, eventually
from clustercore.testing.simulation.disk import (
    Boundary,
    Content,
    SimulatedCrash,
    SimulatedDisk,
    SimulatedStorage,
    Unsynced,
)
from clustercore.testing.simulation.network import NetworkOptions, SimulatedNetwork
from clustercore.testing.simulation.records import SimulatedRecords
from clustercore.testing.simulation.running import run_cluster
from clustercore.testing.simulation.scheduler import Process, Scheduler
from clustercore.testing.simulation.simulating import Simulation, SimulationReport, simulate
from clustercore.testing.simulation.transport import SimulatedTransport
from clustercore.testing.simulation.worlds import MAX_NODES, QUIET, SimulatedWorld, draw_world

__all__ = [
    "MAX_NODES",
    "QUIET",
    "Boundary",
    "Chance",
    "Content",
    "NetworkOptions",
    "Process",
    "Scheduler",
    "SimulatedCluster",
    "SimulatedCrash",
    "SimulatedDisk",
    "SimulatedNetwork",
    "SimulatedNode",
    "SimulatedRecords",
    "SimulatedStorage",
    "SimulatedTransport",
    "SimulatedWorld",
    "Simulation",
    "SimulationReport",
    "Unsynced",
    "draw_world",
    "eventually",
    "run_cluster",
    "simulate",
]
