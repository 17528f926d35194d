"""What is counted of each target: calls and how they ended, how long they took, and what the connections carried."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import trio

from clustercore.interfaces.errors import PeerTimeout, TransportError

__all__ = ["CallStatistics", "Counters", "Ledger", "percentile"]

# Latencies kept of each target: enough for a 99th percentile, and of the recent past.
_LATENCIES = 1000
# Targets that are remembered; those not asked for longest are forgotten.
_TARGETS = 256


@attrs.frozen
class CallStatistics:
    """What was counted of one target since the start. Everything but ``in_flight`` and the latencies only grows."""

    # Attempts that were begun, streams and retries included.
    requests: int = 0
    # Those of them that are answered by a stream of responses.
    streams: int = 0
    ok: int = 0
    # By the name of the error.
    failed: Mapping[str, int] = attrs.field(factory=dict)
    # Given up by their caller.
    cancelled: int = 0
    retries: int = 0
    in_flight: int = 0
    # Of the last thousand that were answered, streams aside, in seconds; None if there was none.
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    latency_p99_s: float | None = None
    # On the wire, inside TLS if there is any.
    bytes_sent: int = 0
    bytes_received: int = 0
    connects: int = 0
    connects_failed: int = 0
    # Sent because nothing was heard for a while.
    pings: int = 0
    # Connections that were given up because the peer stayed silent.
    silences: int = 0
    # Connections on which the peer said that it goes away, and requests made once more because it had not looked at
    # them by then (gRFC A6, "transparent retries"). Those are not among ``retries``.
    goaways: int = 0
    transparent_retries: int = 0

    @property
    def success_rate(self) -> float | None:
        """The share of the requests that ended well, of those that ended; None if none did."""
        ended = self.ok + sum(self.failed.values())
        return self.ok / ended if ended else None

    @property
    def timeout_rate(self) -> float | None:
        """The share of them that were not answered in time; None if none ended."""
        ended = self.ok + sum(self.failed.values())
        return self.failed.get(PeerTimeout.__name__, 0) / ended if ended else None

    def as_json(self) -> dict[str, Any]:
        """Return it for ``json.dumps``."""
        return attrs.asdict(self) | {"success_rate": self.success_rate, "timeout_rate": self.timeout_rate}


@attrs.define(eq=False)
class Counters:
    """The counts of one target while they are being made."""

    requests: int = 0
    streams: int = 0
    ok: int = 0
    failed: Counter[str] = attrs.field(factory=Counter)
    cancelled: int = 0
    retries: int = 0
    in_flight: int = 0
    latencies_s: deque[float] = attrs.field(factory=lambda: deque(maxlen=_LATENCIES))
    bytes_sent: int = 0
    bytes_received: int = 0
    connects: int = 0
    connects_failed: int = 0
    pings: int = 0
    silences: int = 0
    goaways: int = 0
    transparent_retries: int = 0

    @contextmanager
    def counted(self, *, is_stream: bool = False) -> Iterator[None]:
        """Count the request that is made in the block, and how it ends.

        Args:
            is_stream: Its answer is a stream of responses, so how long it lasts is no latency.
        """
        self.requests += 1
        self.streams += is_stream
        self.in_flight += 1
        started = trio.current_time()
        try:
            yield
        except TransportError as exc:
            self.failed[type(exc).__name__] += 1
            raise
        except BaseException:
            self.cancelled += 1
            raise
        else:
            self.ok += 1
            if not is_stream:
                self.latencies_s.append(trio.current_time() - started)
        finally:
            self.in_flight -= 1

    def snapshot(self) -> CallStatistics:
        """Return the counts of this moment."""
        ordered = sorted(self.latencies_s)
        return CallStatistics(
            requests=self.requests,
            streams=self.streams,
            ok=self.ok,
            failed=dict(self.failed),
            cancelled=self.cancelled,
            retries=self.retries,
            in_flight=self.in_flight,
            latency_p50_s=percentile(ordered, 50) if ordered else None,
            latency_p95_s=percentile(ordered, 95) if ordered else None,
            latency_p99_s=percentile(ordered, 99) if ordered else None,
            bytes_sent=self.bytes_sent,
            bytes_received=self.bytes_received,
            connects=self.connects,
            connects_failed=self.connects_failed,
            pings=self.pings,
            silences=self.silences,
            goaways=self.goaways,
            transparent_retries=self.transparent_retries,
        )


class Ledger:
    """The counters of all targets."""

    def __init__(self) -> None:
        # The one asked for last at the end.
        self._counters: dict[str, Counters] = {}

    def of(self, target: str) -> Counters:
        """Return the counters of a target."""
        counters = self._counters.pop(target, None)
        if counters is None:
            counters = Counters()
            if len(self._counters) >= _TARGETS:
                del self._counters[next(iter(self._counters))]
        self._counters[target] = counters
        return counters

    def snapshot(self) -> dict[str, CallStatistics]:
        """Return the counts of this moment, by target."""
        return {target: counters.snapshot() for target, counters in sorted(self._counters.items())}


def percentile(ordered: Sequence[float], hundredths: int) -> float:
    """Return the least of the values that so many hundredths of them are not above: the nearest rank.

    Args:
        ordered: The values, one or more, the least first.
        hundredths: From 1 to 100.
    """
    return ordered[math.ceil(len(ordered) * hundredths / 100) - 1]
