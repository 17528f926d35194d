"""The Transport contract, rule by rule: see ``clustercore.interfaces.transport``.

The contract lets a transport lose, repeat and reorder messages. The kit runs it on a network that does none of that,
and there every message has to arrive; only the order may be declared to be nobody's promise.
"""

from __future__ import annotations

from clustercore.testing.conformance.transport_bench import TransportBench
from clustercore.testing.conformance.transport_links import LinkRules
from clustercore.testing.conformance.transport_messages import MessageRules
from clustercore.testing.conformance.transport_serving import ServingRules

__all__ = ["TransportConformance"]


class TransportConformance(LinkRules, ServingRules, MessageRules):
    """Derive from it, and say in ``make`` how the transport is made.

    ``nobody``, ``no_addresses``, ``is_at_host_and_port``, ``keeps_order``, ``make_at`` and ``send_nonsense`` are there
    to be overridden where what they say is not so.
    """

    def left_out(self) -> dict[str, str]:
        """Return the rules that say nothing of this transport, by the name of the test, each with the reason."""
        reasons = super().left_out()
        if self.make().max_message_bytes is None:
            reasons["test_refuses_a_message_that_is_too_large_and_goes_on"] = (
                "max_message_bytes says: there is no limit"
            )
        if not self.is_at_host_and_port and type(self).send_nonsense is TransportBench.send_nonsense:
            reasons["test_takes_no_message_from_nonsense"] = (
                "is_at_host_and_port is False, send_nonsense not overridden"
            )
        if type(self).make_at is TransportBench.make_at:
            reasons["test_serve_at_a_taken_address_is_an_error"] = "make_at is not overridden"
        return reasons
