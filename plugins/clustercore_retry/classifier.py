"""Finding the rule for an error. Pure and total: it raises nothing, waits for nothing and changes nothing."""

from __future__ import annotations

import errno
import logging
import re
import socket
import ssl
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from weakref import WeakKeyDictionary

from clustercore.interfaces import Classification, ErrorCategory, RuleRow, leaves_of
from clustercore_retry.facts import Facts, errno_name_of, facts_of, is_cancelled_here, resolver_code_of, text_of
from clustercore_retry.reading import read
from clustercore_retry.rule import RetryRule, type_name
from clustercore_retry.table import DEFAULT_RULE, NOT_ERRORS, RULES, SAME_NAMES, WRAPPERS

__all__ = ["Classifier"]

_logger = logging.getLogger(__name__)

# Wrappers inside wrappers: beyond this it is a circle, or as good as one.
_MAX_WRAPPERS = 8
# From the most to the least worth a retry, as the enumeration has them.
_RANK = {category: rank for rank, category in enumerate(ErrorCategory)}
# Where a walk from an error's class to its bases is over.
_ROOTS = frozenset({Exception, BaseException, object})
_PASSED_ON = Classification(category=None, rule="not an error of the call", is_retried=False)


class Classifier:
    """Finds which rule an error is under: a user's, the error's own ``category``, the table's, in this order.

    Args:
        rules: The user's. Of those that fit, the one with the most conditions counts; then the one whose type is
            nearest to the error's; then the first.
        wrappers: Further exceptions that only wrap another.
    """

    def __init__(self, rules: Sequence[RetryRule] = (), wrappers: Iterable[type[BaseException] | str] = ()) -> None:
        self._rules = tuple(rules)
        self._wrappers = WRAPPERS | {kind if isinstance(kind, str) else type_name(kind) for kind in wrappers}
        self._patterns = {
            rule.message: re.compile(rule.message, re.IGNORECASE)
            for rule in (*self._rules, *RULES)
            if rule.message is not None
        }
        # The table, by what is looked up; rules that are for one key keep their order.
        self._by_grpc: dict[str, list[RetryRule]] = {}
        self._by_http: dict[int, list[RetryRule]] = {}
        self._by_type: dict[str, list[RetryRule]] = {}
        self._by_code: dict[str, list[RetryRule]] = {}
        self._by_text: list[RetryRule] = []
        # Names are slow to make, and the classes few; those made and dropped by the program are not kept.
        self._known_names: WeakKeyDictionary[type[BaseException], tuple[str, ...]] = WeakKeyDictionary()
        for rule in RULES:
            self._index(rule)

    def rows(self) -> tuple[RuleRow, ...]:
        """Return all rules in words, in the order in which they are consulted."""
        return tuple(rule.row() for rule in (*self._rules, *RULES, DEFAULT_RULE))

    def classify(self, error: BaseException) -> Classification:
        """Return what an error is, and by which rule."""
        for _ in range(_MAX_WRAPPERS):
            if not isinstance(error, Exception) or not NOT_ERRORS.isdisjoint(self._names(type(error))):
                return _PASSED_ON
            if isinstance(error, BaseExceptionGroup):
                return self._classify_group(error)
            inner = self._wrapped(error)
            if inner is None:
                break
            error = inner
        return self._classify_one(error)

    # --- One error ----------------------------------------------------------------------------------------------------

    def _classify_one(self, error: BaseException) -> Classification:
        facts = facts_of(error)
        if is_cancelled_here(error, facts):
            return _PASSED_ON
        rule = self._user_rule(error, facts)
        if rule is not None:
            return _found(rule, facts)
        own = _own_category(error)
        if own is not None:
            return Classification(
                category=own,
                rule="error.category",
                is_retried=True,
                is_certainly_undone=read(error, "is_certainly_undone") is True,
                retry_after_s=facts.retry_after_s,
            )
        return _found(self._table_rule(error, facts), facts)

    def _user_rule(self, error: BaseException, facts: Facts) -> RetryRule | None:
        best: RetryRule | None = None
        best_score = (0, 0)
        for rule in self._rules:
            if not self._fits(rule, error, facts):
                continue
            # The classes between the error's own and the rule's, as a negative number: nearer is more.
            distance = -_distance(error, rule) if rule.error_type is not None else -len(type(error).__mro__)
            score = (sum(1 for _ in rule.conditions()), distance)
            if best is None or score > best_score:
                best, best_score = rule, score
        return best

    def _table_rule(self, error: BaseException, facts: Facts) -> RetryRule:
        candidates = self._candidates(error, facts)
        return next((rule for rule in candidates if self._is_refined(rule, error, facts)), DEFAULT_RULE)

    def _candidates(self, error: BaseException, facts: Facts) -> Iterator[RetryRule]:
        """Yield the table's rules for what the error says, its types and codes, then those that go by text."""
        if facts.grpc_status is not None:
            yield from self._by_grpc.get(facts.grpc_status, ())
        if facts.http_status is not None:
            yield from self._by_http.get(facts.http_status, ())
        if isinstance(error, OSError):
            yield from self._by_code.get(_code_name(error) or "", ())
        for name in self._names(type(error)):
            yield from self._by_type.get(name, ())
        yield from self._by_text

    def _names(self, kind: type[BaseException]) -> tuple[str, ...]:
        """Return the names by which the table may know a class, nearest first."""
        names = self._known_names.get(kind)
        if names is None:
            bases = takewhile(lambda base: base not in _ROOTS, kind.__mro__)
            parts = [type_name(base).partition(":") for base in bases]
            names = tuple(f"{SAME_NAMES.get(package, package)}:{name}" for package, _, name in parts)
            self._known_names[kind] = names
        return names

    def _is_refined(self, rule: RetryRule, error: BaseException, facts: Facts) -> bool:
        """Return whether the conditions hold that rules have beside what they are looked up by."""
        if rule.has_hint is not None and rule.has_hint is (facts.retry_after_s is None):
            return False
        return rule.message is None or self._patterns[rule.message].search(text_of(error)) is not None

    def _fits(self, rule: RetryRule, error: BaseException, facts: Facts) -> bool:
        """Return whether all of a user's rule's conditions hold."""
        return (
            (rule.grpc_status is None or rule.grpc_status == facts.grpc_status)
            and (rule.http_status is None or _is_within(rule.http_range, facts.http_status))
            and (rule.error_type is None or _distance(error, rule) < len(type(error).__mro__))
            and (rule.errno_name is None or _has_code(error, rule.errno_name))
            and (rule.resolver_code is None or _has_code(error, rule.resolver_code))
            and self._is_refined(rule, error, facts)
            and (rule.when is None or _holds(rule, error))
        )

    # --- Groups and wrappers ------------------------------------------------------------------------------------------

    def _classify_group(self, group: BaseExceptionGroup[BaseException]) -> Classification:
        """Return what the least retryable of its errors is; what none of them rules out is allowed."""
        found = [self.classify(leaf) for leaf in leaves_of(group)]
        passed_on = next((leaf for leaf in found if leaf.category is None), None)
        if passed_on is not None:
            return passed_on
        worst = max(found, key=lambda leaf: (not leaf.is_retried, _RANK[leaf.category or ErrorCategory.UNKNOWN_ERROR]))
        hints = [leaf.retry_after_s for leaf in found if leaf.retry_after_s is not None]
        return Classification(
            category=worst.category,
            rule=worst.rule if len(found) == 1 else f"group of {len(found)}: {worst.rule}",
            is_retried=worst.is_retried,
            is_certainly_undone=all(leaf.is_certainly_undone for leaf in found),
            retry_after_s=max(hints, default=None),
        )

    def _wrapped(self, error: BaseException) -> BaseException | None:
        if type_name(type(error)) not in self._wrappers:
            return None
        return error.__cause__ or error.__context__

    # --- The table ----------------------------------------------------------------------------------------------------

    def _index(self, rule: RetryRule) -> None:
        if rule.grpc_status is not None:
            self._by_grpc.setdefault(rule.grpc_status, []).append(rule)
        elif rule.http_status is not None:
            first, last = rule.http_range
            for status in range(first, last + 1):
                self._by_http.setdefault(status, []).append(rule)
        elif isinstance(rule.error_type, str):
            self._by_type.setdefault(rule.error_type, []).append(rule)
        elif rule.errno_name is not None or rule.resolver_code is not None:
            self._by_code.setdefault(rule.errno_name or rule.resolver_code or "", []).append(rule)
        else:
            self._by_text.append(rule)


def _found(rule: RetryRule, facts: Facts) -> Classification:
    return Classification(
        category=rule.category,
        rule=rule.name,
        is_retried=rule.is_retried,
        is_certainly_undone=rule.is_certainly_undone,
        retry_after_s=facts.retry_after_s,
    )


def _own_category(error: BaseException) -> ErrorCategory | None:
    category = read(error, "category")
    if isinstance(category, ErrorCategory):
        return category
    # As text it may come from another process, or mean something else.
    return next((known for known in ErrorCategory if known.value == category), None) if category else None


def _distance(error: BaseException, rule: RetryRule) -> int:
    """Return how many classes are between the error's and the rule's; as many as there are if it is none of them."""
    bases = type(error).__mro__
    for number, kind in enumerate(bases):
        if kind is rule.error_type or (isinstance(rule.error_type, str) and type_name(kind) == rule.error_type):
            return number
    return len(bases)


def _is_within(statuses: tuple[int, int], status: int | None) -> bool:
    return status is not None and statuses[0] <= status <= statuses[1]


def _code_name(error: OSError) -> str | None:
    """Return the name of the code: getaddrinfo's numbers and TLS's are not the operating system's."""
    if isinstance(error, socket.gaierror):
        return resolver_code_of(error)
    return None if isinstance(error, ssl.SSLError) else errno_name_of(error)


def _has_code(error: BaseException, name: str) -> bool:
    if not isinstance(error, OSError):
        return False
    # One number may have two names, as EAGAIN and EWOULDBLOCK have: only one of them is told.
    number = getattr(errno, name, None)
    return _code_name(error) in (name, errno.errorcode.get(number) if number is not None else name)


def _holds(rule: RetryRule, error: BaseException) -> bool:
    assert rule.when is not None
    try:
        return bool(rule.when(error))
    except Exception:
        _logger.warning("the condition of the rule %r failed; taken for not met", rule.name, exc_info=True)
        return False
