"""The transport's options and how it reads what a peer says of a call."""

from __future__ import annotations

import math
from typing import Any

import pytest
from grpclib.const import Status

from clustercore.interfaces import (
    ConfigError,
    LinkClosed,
    PeerTimeout,
    Service,
    ServiceError,
    SocketOptions,
    split_address,
)
from clustercore_grpc import GrpcTransport
from clustercore_grpc.errors import Outcome, outcome_of


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("listen", "localhost", "host:port"),
        ("listen", "localhost:70000", "0 to 65535"),
        ("listen", ":80", "host:port"),
        ("listen", "::1:80", "brackets"),
        ("listen", 80, "a string"),
        ("timeout", 0, "above 0"),
        ("timeout", float("nan"), "above 0"),
        ("timeout", float("inf"), "finite"),
        ("timeout", "2", "a number"),
        ("timeout", True, "a number"),
        ("keepalive_time_ms", 0, "from 10 to"),
        ("keepalive_timeout_ms", 1.5, "whole number"),
        ("max_message_bytes", 1 << 31, "to 1073741824"),
        ("tls_key", 7, "a file"),
        ("cluster_id", "x" * 129, "128 printable"),
        ("max_connections", 0, "from 1 to 1000"),
        ("max_pending", True, "whole number"),
        ("wait_for_ready", 1, "true or false"),
    ],
)
def test_option_out_of_bounds_is_a_config_error(option: str, value: Any, allowed: str) -> None:
    """The error names the option, its value and what is allowed."""
    with pytest.raises(ConfigError, match=option) as caught:
        GrpcTransport(**{option: value})

    assert repr(value) in str(caught.value)
    assert allowed in str(caught.value)


def test_options_are_kept_in_seconds() -> None:
    """Milliseconds outside are seconds inside."""
    options = SocketOptions.checked(
        listen="[::1]:7000",
        timeout=1,
        keepalive_time_ms=250,
        keepalive_timeout_ms=500,
        max_message_bytes=4096,
        token="t",
        tls_certificate="",
        tls_key="",
        tls_authority="",
    )

    assert options == SocketOptions("::1", 7000, 1, 0.25, 0.5, 4096, b"t", None)


@pytest.mark.parametrize(
    ("address", "expected"), [("node:1", ("node", 1)), ("10.0.0.1:65535", ("10.0.0.1", 65535)), ("[::1]:0", ("::1", 0))]
)
def test_address_is_split(address: str, expected: tuple[str, int]) -> None:
    """A host is a name, an IPv4 address, or an IPv6 address in brackets."""
    assert split_address(address) == expected


def test_service_of_the_node_itself_cannot_be_offered() -> None:
    """An application cannot take over Raft's own service."""
    with pytest.raises(ConfigError, match=r"clustercore\.v1\.Raft"):
        GrpcTransport().offer([Service("clustercore.v1.Raft")])


@pytest.mark.parametrize(
    ("headers", "trailers", "expected"),
    [
        ([(":status", "200")], [("grpc-status", "0")], Outcome(Status.OK, "")),
        ([(":status", "200"), ("grpc-status", "12")], None, Outcome(Status.UNIMPLEMENTED, "")),
        (
            [(":status", "200")],
            [("grpc-status", "3"), ("grpc-message", "no%20key")],
            Outcome(Status.INVALID_ARGUMENT, "no key"),
        ),
        ([(":status", "404")], None, Outcome(Status.UNIMPLEMENTED, "HTTP status 404")),
        ([(":status", "502")], None, Outcome(Status.UNAVAILABLE, "HTTP status 502")),
        ([(":status", "200")], None, Outcome(Status.UNKNOWN, "no grpc-status")),
        ([(":status", "200")], [("grpc-status", "x")], Outcome(Status.UNKNOWN, "")),
        (None, None, Outcome(Status.UNAVAILABLE, "HTTP status missing")),
        *(
            (
                [(":status", "200")],
                [("grpc-status", "14"), ("grpc-retry-pushback-ms", said)],
                Outcome(Status.UNAVAILABLE, "", meant),
            )
            for said, meant in (("1500", 1.5), ("0", 0.0), ("-1", math.inf), ("soon", math.inf), ("", math.inf))
        ),
    ],
)
def test_outcome_is_read_from_headers_and_trailers(headers: Any, trailers: Any, expected: Outcome) -> None:
    """The status is the trailers', else the headers', else what the HTTP status means."""
    assert outcome_of(headers, trailers) == expected


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status.INVALID_ARGUMENT, ServiceError),
        (Status.UNIMPLEMENTED, ServiceError),
        (Status.NOT_FOUND, ServiceError),
        (Status.RESOURCE_EXHAUSTED, ServiceError),
        (Status.DEADLINE_EXCEEDED, PeerTimeout),
        (Status.UNAVAILABLE, LinkClosed),
        (Status.INTERNAL, LinkClosed),
        (Status.CANCELLED, LinkClosed),
    ],
)
def test_status_says_whether_repeating_is_of_use(status: Status, error: type[Exception]) -> None:
    """Refusals are final, a deadline is a timeout, and after all else the outcome is unknown."""
    assert type(Outcome(status, "why").error("Put at a:1")) is error
