"""Each kit catches a faulty plugin for each of its rules, and no rule is without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustercore.testing.conformance import (
    ConflictResolverConformance,
    Conformance,
    DiscoveryConformance,
    RecordStorageConformance,
    RetryPolicyConformance,
    ServiceTransportConformance,
    StateMachineConformance,
    StorageConformance,
    rules_of,
)
from tests.conformance.planted import discoveries, machines, records, resolvers, retries, services, storages, transports
from tests.conformance.planted.proxies import ProxyKit
from tests.conformance.planted.runner import Fault, rules_without_fault, run_rule

FAULTS: dict[type[Conformance], list[Fault]] = {
    ConflictResolverConformance: resolvers.FAULTS,
    StateMachineConformance: machines.FAULTS,
    DiscoveryConformance: discoveries.FAULTS,
    RecordStorageConformance: records.FAULTS,
    RetryPolicyConformance: retries.FAULTS,
    StorageConformance: storages.FAULTS,
    ServiceTransportConformance: transports.FAULTS + services.FAULTS,
}


# Rules that start processes, or try very many cases.
SLOW = {"test_other_processes_have_the_same_results", "test_memory_is_bounded"}
CASES = [
    pytest.param(fault, id=str(fault), marks=[pytest.mark.slow] if fault.rule in SLOW else [])
    for faults in FAULTS.values()
    for fault in faults
]


@pytest.mark.parametrize("fault", CASES)
def test_kit_catches_the_planted_fault(fault: Fault, tmp_path: Path) -> None:
    """The rule fails for a plugin that breaks it."""
    fault.assert_caught(tmp_path)


@pytest.mark.parametrize("kit", FAULTS, ids=lambda kit: kit.__name__)
def test_rule_has_a_planted_fault(kit: type[Conformance]) -> None:
    """There is no rule that might as well not be there."""
    assert rules_without_fault(kit, FAULTS[kit]) == []


@pytest.mark.parametrize("rule", rules_of(ProxyKit))
def test_rule_passes_for_the_transport_that_faults_are_planted_in(rule: str) -> None:
    """Without a fault, what the faulty ones are made of keeps each rule: a rule that fails fails for the fault."""
    kit = ProxyKit()
    if rule not in kit.left_out():
        run_rule(kit, rule)
