"""The contracts of the interfaces as tests: derive a class from a kit, say how your plugin is made, run pytest.

Each rule of a contract is one test, and each kit is itself tested: for every rule there is a faulty plugin that it must
catch. It needs the extra ``clustercore[testing]``, and so is no part of what ``clustercore.testing`` imports.
"""

import pytest

# Before they are imported: then a rule that fails shows the values it compared.
pytest.register_assert_rewrite(
    "clustercore.testing.conformance.conflict",
    "clustercore.testing.conformance.discovery",
    "clustercore.testing.conformance.links",
    "clustercore.testing.conformance.machine_runs",
    "clustercore.testing.conformance.records",
    "clustercore.testing.conformance.retry",
    "clustercore.testing.conformance.service_transport",
    "clustercore.testing.conformance.state_machine",
    "clustercore.testing.conformance.storage_crashes",
    "clustercore.testing.conformance.storage_log",
    "clustercore.testing.conformance.storage_snapshots",
    "clustercore.testing.conformance.storage_values",
    "clustercore.testing.conformance.transport_links",
    "clustercore.testing.conformance.transport_messages",
    "clustercore.testing.conformance.transport_serving",
)

from clustercore.testing.conformance.base import Conformance, rules_of  # noqa: E402 - see above
from clustercore.testing.conformance.conflict import ConflictResolverConformance  # noqa: E402
from clustercore.testing.conformance.discovery import DiscoveryConformance, DiscoverySource  # noqa: E402
from clustercore.testing.conformance.records import RecordStorageConformance  # noqa: E402
from clustercore.testing.conformance.retry import RetryPolicyConformance  # noqa: E402
from clustercore.testing.conformance.service_transport import ServiceTransportConformance  # noqa: E402
from clustercore.testing.conformance.state_machine import StateMachineConformance  # noqa: E402
from clustercore.testing.conformance.storage import StorageConformance  # noqa: E402
from clustercore.testing.conformance.transport import TransportConformance  # noqa: E402

__all__ = [
    "ConflictResolverConformance",
    "Conformance",
    "DiscoveryConformance",
    "DiscoverySource",
    "RecordStorageConformance",
    "RetryPolicyConformance",
    "ServiceTransportConformance",
    "StateMachineConformance",
    "StorageConformance",
    "TransportConformance",
    "rules_of",
]
