"""Every retry policy that ships keeps the RetryPolicy contract; its own numbers are in tests/properties."""

from __future__ import annotations

from random import Random

from clustercore.interfaces import RetryPolicy
from clustercore.testing.conformance import RetryPolicyConformance
from clustercore_retry import CategoryRetryPolicy
from tests.unit.retry.samples import grpc_error, http_error


class TestCategory(RetryPolicyConformance):
    errors = (
        grpc_error("UNAVAILABLE"),
        grpc_error("DEADLINE_EXCEEDED"),
        http_error(409),
        http_error(429),
        http_error(500),
        http_error(503),
        http_error(401),
    )

    hints = (http_error(429, retry_after="7"), http_error(503, retry_after="2"))

    def make(self) -> RetryPolicy:
        self.now = 0.0
        return CategoryRetryPolicy(rng=Random(0), clock=lambda: self.now)

    def pass_time(self, policy: RetryPolicy, seconds: float) -> None:
        self.now += seconds
