"""The fixture ``sim`` for pytest: an application's own tests in the simulator, once for each of several seeds.

Pytest finds this by the entry point ``pytest11``. It imports no more than it needs until a test asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import attrs
import pytest

if TYPE_CHECKING:
    from clustercore.interfaces import StateMachine
    from clustercore.testing.simulation import SimulatedWorld, Simulation, SimulationReport

__all__ = ["Sim", "sim"]

MachineT = TypeVar("MachineT", bound="StateMachine")

# Seeds of each test, where no option says otherwise: a second or so for a small scenario.
DEFAULT_SEEDS = 5


@attrs.frozen
class Sim:
    """What the fixture ``sim`` is: ``simulate`` with the seed that this run of the test has."""

    seed: int
    _test: str

    def run(
        self,
        machine: Callable[[], MachineT],
        scenario: Callable[[Simulation[MachineT]], Awaitable[None]],
        *,
        nodes: int | None = 3,
        check: Callable[[Simulation[MachineT]], Awaitable[None]] | None = None,
        digest: Callable[[MachineT], object] | None = None,
        world: SimulatedWorld | None = None,
    ) -> SimulationReport:
        """Run a scenario under faults; arguments and errors are those of ``simulate``.

        A failure says how to repeat it, and where its trace is.
        """
        from clustercore.testing.simulation import simulate

        return simulate(
            self.seed,
            nodes,
            machine=machine,
            scenario=scenario,
            check=check,
            digest=digest,
            world=world,
            name=self._test.rpartition("::")[2].partition("[")[0],
            replay=f"pytest {self._test.partition('[')[0]} --sim-seed {self.seed}",
        )


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("clustercore", "clustercore's simulator")
    group.addoption(
        "--sim-seeds",
        type=int,
        default=DEFAULT_SEEDS,
        metavar="N",
        help=f"run each test that uses the fixture sim with the seeds 0 to N-1 (default: {DEFAULT_SEEDS})",
    )
    group.addoption("--sim-seed", type=int, metavar="S", help="run each of them with this seed only")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each seed."""
    if "sim" in metafunc.fixturenames:
        seed = metafunc.config.getoption("sim_seed")
        seeds = range(metafunc.config.getoption("sim_seeds")) if seed is None else [seed]
        metafunc.parametrize("sim", seeds, indirect=True, ids=[f"seed{each}" for each in seeds])


@pytest.fixture
def sim(request: pytest.FixtureRequest) -> Sim:
    """Run the application's scenario in the simulator, with one seed: ``sim.run(MyMachine, scenario)``."""
    return Sim(request.param, request.node.nodeid)
