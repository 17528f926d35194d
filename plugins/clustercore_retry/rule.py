"""One rule of a classification: which errors it is for, and what it says of them. ``classifier`` applies it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import attrs

from clustercore.interfaces import ConfigError, ErrorCategory, RuleRow

__all__ = ["GRPC_STATUSES", "RetryRule", "type_name"]

# By number: grpc doc/statuscodes.md.
GRPC_STATUSES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)


@attrs.frozen(kw_only=True)
class RetryRule:
    """Errors that meet all of its conditions are of its category.

    Raises: ConfigError if it has no condition, or one that cannot be met.
    """

    category: ErrorCategory
    # An exception's class, for it and its subclasses; or, so that nothing must be imported, the name of the top package
    # it comes from, a colon and its name: "httpx:ConnectError", "builtins:ValueError".
    error_type: type[BaseException] | str | None = None
    # Such as "UNAVAILABLE".
    grpc_status: str | None = None
    # The first and the last status, inclusive; or one status.
    http_status: tuple[int, int] | int | None = None
    # Such as "ECONNRESET". One that the platform does not have meets no error.
    errno_name: str | None = None
    # What getaddrinfo says, such as "EAI_AGAIN".
    resolver_code: str | None = None
    # A regular expression, searched for in the error's text, whatever the case.
    message: str | None = None
    # Whether the server says when to come back.
    has_hint: bool | None = None
    # Any other condition. It should be quick, and must not change the error.
    when: Callable[[BaseException], bool] | None = None
    # False: never tried again, whatever the category allows.
    is_retried: bool = True
    # Whether such an error proves that the call had no effect: never sent, or refused before anything was done.
    is_certainly_undone: bool = False
    # What ``explain`` tells; the default is made of the conditions.
    name: str = attrs.field(default=attrs.Factory(lambda rule: "; ".join(rule.conditions()), takes_self=True))

    def __attrs_post_init__(self) -> None:
        """Check the conditions."""
        if not self.name:
            raise ConfigError(f"a rule for {self.category} has no condition; give it at least one")
        if self.grpc_status is not None and self.grpc_status not in GRPC_STATUSES:
            raise ConfigError(f"grpc_status is {self.grpc_status!r}; it must be one of {', '.join(GRPC_STATUSES)}")
        if self.http_status is not None and not 100 <= self.http_range[0] <= self.http_range[1] <= 599:
            raise ConfigError(f"http_status is {self.http_status}; it must be within 100 to 599, the first one lower")
        if isinstance(self.error_type, str) and not re.fullmatch(r"\w+:[\w.]+", self.error_type):
            raise ConfigError(f"error_type is {self.error_type!r}; it must be like 'httpx:ConnectError'")
        if self.message is not None:
            try:
                re.compile(self.message)
            except re.error as error:
                raise ConfigError(f"message is {self.message!r}; it must be a regular expression: {error}") from None

    @property
    def http_range(self) -> tuple[int, int]:
        """The statuses it is for, the last one inclusive; only for a rule that has some."""
        assert self.http_status is not None
        return self.http_status if isinstance(self.http_status, tuple) else (self.http_status, self.http_status)

    def conditions(self) -> Iterator[str]:
        """Yield the conditions in words."""
        if self.grpc_status is not None:
            yield f"gRPC {self.grpc_status}"
        if self.http_status is not None:
            first, last = self.http_range
            yield f"HTTP {first}" if first == last else f"HTTP {first} to {last}"
        if self.error_type is not None:
            yield _shown(self.error_type if isinstance(self.error_type, str) else type_name(self.error_type))
        if self.errno_name is not None:
            yield self.errno_name
        if self.resolver_code is not None:
            yield self.resolver_code
        if self.message is not None:
            yield f"text like /{self.message}/"
        if self.has_hint is not None:
            yield "with a server hint" if self.has_hint else "without a server hint"
        if self.when is not None:
            yield f"when {getattr(self.when, '__name__', repr(self.when))}"

    def row(self) -> RuleRow:
        """Return it as people read it."""
        return RuleRow(
            name=self.name,
            when="; ".join(self.conditions()) or "anything else",
            category=self.category,
            is_retried=self.is_retried,
            is_certainly_undone=self.is_certainly_undone,
        )


def type_name(kind: type[BaseException]) -> str:
    """Return a class as ``error_type`` names it: by top package, for where inside it a class is kept may change."""
    return f"{kind.__module__.partition('.')[0]}:{kind.__qualname__}"


def _shown(name: str) -> str:
    package, _, qualified = name.partition(":")
    return qualified if package == "builtins" else f"{package}.{qualified}"
