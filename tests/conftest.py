"""How hard hypothesis looks, and how tests are shared out among processes.

``HYPOTHESIS_PROFILE`` is ``default`` (seconds), ``ci`` (minutes) or ``nightly``. ``hunt`` is for mutants
(``tests/mutants``): whether a test fails is all that is asked, so nothing is made small.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.sharing import dealt

# A schedule's length, and so its time, varies by orders of magnitude: a deadline for each says nothing.
settings.register_profile("default", max_examples=100, deadline=None)
settings.register_profile(
    "ci", max_examples=1500, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", parent=settings.get_profile("ci"), max_examples=20_000)
settings.register_profile(
    "hunt", parent=settings.get_profile("default"), phases=[Phase.explicit, Phase.generate], database=None
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Workers for each processor: a third of what tests take is waiting, for processes that start and for elections.
WORKERS_EACH = 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Say how many processes ``--numprocesses auto`` makes."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return WORKERS_EACH * processors


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let every worker begin with long tests, so that in the end, when one has nothing left, no other is in one."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers > 1:
        items[:] = dealt(items, workers)
