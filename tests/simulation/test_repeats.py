"""One seed decides everything: the same one gives the same trace, wherever it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from clustercore.testing.simulation import Chance, draw_world, simulate
from clustercore.testing.simulation.clients import MapClients
from clustercore.testing.simulation.map_machine import MapMachine
from tests.unit.repository import ROOT

SEED = 11


def hash_of(seed: int) -> str:
    """Run one seed and return the hash of all that was recorded."""
    clients = MapClients()
    world = draw_world(seed, nodes=3, faults_s=10)
    return simulate(
        seed, machine=MapMachine, scenario=clients.scenario, check=clients.check, world=world, with_hash=True
    ).trace_hash


PROGRAM = f"import sys; from tests.simulation.test_repeats import hash_of; sys.stdout.write(hash_of({SEED}))"


def run_in(python: str, **environment: str) -> str:
    """Return the hash that another process prints."""
    # Nothing of the environment's that is compiled is needed, so its libraries serve other versions of Python too.
    paths = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), sysconfig.get_path("purelib")])
    return subprocess.run(
        [python, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def other_pythons() -> list[str]:
    """Return an interpreter of each other version that is installed and supported."""
    found: dict[str, str] = {}
    for minor in range(11, 20):
        name = f"python3.{minor}"
        places = [shutil.which(name), *map(str, Path.home().glob(f".pyenv/versions/3.{minor}*/bin/{name}"))]
        for place in filter(None, places):
            works = subprocess.run([place, "-c", "import ssl"], capture_output=True, check=False).returncode == 0
            if works and minor != sys.version_info.minor:
                found.setdefault(name, place)
    return list(found.values())


@pytest.mark.slow
def test_seed_repeats_bit_for_bit_in_one_process_and_in_another() -> None:
    """Twice here, and in two more processes, each with its own hashes of texts."""
    first = hash_of(SEED)

    assert hash_of(SEED) == first
    assert hash_of(SEED + 1) != first
    for hash_seed in ("1", "4711"):
        assert run_in(sys.executable, PYTHONHASHSEED=hash_seed) == first


@pytest.mark.slow
def test_seed_repeats_bit_for_bit_on_another_version_of_python() -> None:
    """Nothing of a run depends on how a version of Python draws, sorts or hashes."""
    pythons = other_pythons()
    if not pythons:
        pytest.skip("no other supported version of Python is installed")
    first = hash_of(SEED)

    assert {python: run_in(python) for python in pythons} == dict.fromkeys(pythons, first)


def test_chance_is_the_same_for_ever() -> None:
    """These numbers may never change: seeds that are kept as tests would mean something else."""
    chance = Chance(7)
    items = list(range(8))
    chance.shuffle(items)

    assert items == [5, 4, 6, 7, 0, 3, 1, 2]
    assert [chance.randint(1, 6) for _ in range(6)] == [4, 1, 3, 1, 1, 3]
    assert chance.choice("abcdef") == "e"
    assert chance.some("abcdef", 3) == ["f", "e", "d"]
    assert chance.exponential(2.0) == pytest.approx(1.0106166596275632)
    assert chance.part("disk").random() == Chance("7/disk").random()


def test_chance_of_parts_is_independent() -> None:
    """What one part draws changes nothing for another."""
    one, other = Chance(1), Chance(1)
    one.random()

    assert one.part("network").random() == other.part("network").random()
    assert one.part("network").random() != one.part("disk").random()


def test_chance_of_an_empty_range_is_refused() -> None:
    """As with Python's own generator."""
    with pytest.raises(ValueError, match="empty"):
        Chance(1).randrange(3, 3)


def test_world_is_drawn_from_its_seed() -> None:
    """The same for the same seed; among many seeds every size of a cluster, and every fault."""
    worlds = [draw_world(seed) for seed in range(200)]

    assert worlds == [draw_world(seed) for seed in range(200)]
    assert {world.nodes for world in worlds} == set(range(1, 8))
    drawn = {fault for world in worlds for fault in world.faults}
    assert drawn >= {"one_way", "bridge", "pause", "flip_bit", "misdirect", "lose_disk", "come_back"}
    assert {world.network.is_ordered for world in worlds} == {True, False}
    assert max(rate for world in worlds for rate in world.clock_rates) > 1.5
    assert all(world.describe().startswith(f"nodes={world.nodes}") for world in worlds)
