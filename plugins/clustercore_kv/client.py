"""KeyValueClient: the key-value store, from outside the cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from types import MappingProxyType
from typing import Generic, TypeVar

import attrs

from clustercore.interfaces import (
    InvalidCommand,
    LinkClosed,
    MalformedMessage,
    OutcomeUnknown,
    PeerTimeout,
    PeerUnreachable,
    ProposalRefused,
    RetryPolicy,
    ServiceTransport,
)
from clustercore_kv._proto.clustercore.v1 import (
    CasRequest,
    DeleteRequest,
    GetRequest,
    KvErrorCode,
    PutRequest,
    ScanRequest,
)
from clustercore_kv.client_watch import KeyValueWatch, open_watch
from clustercore_kv.codec import (
    decode_cas_result,
    decode_delete_result,
    decode_get_result,
    decode_put_result,
    decode_scan_result,
)
from clustercore_kv.limits import check_key, check_prefix, check_scan, check_value
from clustercore_kv.protocol import SERVICE, Failure, decode_unary_response
from clustercore_kv.route import Route, Router
from clustercore_kv.values import CasResult, DeleteResult, GetResult, PutResult, Scan, ScanResult

__all__ = ["KeyValueClient"]

_T = TypeVar("_T")


class KeyValueClient:
    """Reads and writes the key-value store, through whichever node answers.

    Given one node or more, it asks the one that answered last, and the next one when that fails. What is known not to
    be done is tried again until it is done: bound the time with a cancel scope, or give a retry policy. What may have
    been done is not:

    - ``get`` and ``scan`` change nothing, and are always tried again.
    - ``put``, ``delete`` and ``cas`` raise OutcomeUnknown, unless called with ``retry_unknown=True``. A request whose
      outcome is unknown may be carried out later still, after newer writes: even a client that is alone may so
      find an older value in place of its newer one. Opt in where that cannot hurt: keys that are written once, or
      always with the same value; or a ``cas`` by revision, which is carried out at most once.

    Many tasks may use a client at once. It holds no resources.

    Cancellation: if the call is a write, its outcome is unknown.

    Every call can raise InvalidCommand, for what never will be done (an empty key, a value that is too large), and
    ServiceError, if what answers at an address is no such service.

    Args:
        transport: Carries the requests; entered by the caller, for as long as the client is used.
        addresses: Of one node or more of the cluster, in the transport's form.
        policy: Decides, once every node has failed, whether all are asked again, and when: an attempt is a round. The
            error that it gives up at is raised: OutcomeUnknown if some node may have carried out the request, else
            PeerUnreachable or ProposalRefused. A watch goes on without asking it. Its budget keeps many clients from
            making an outage worse. Without one, requests are tried until they are cancelled.
        rng: Spreads the pauses between attempts, where no policy does. The default is seeded by the system.
        first_pause_s: The pause after every node has failed once, in seconds; it doubles with each round.
        max_pause_s: What it grows to, in seconds.

    Raises: ConfigError.
    """

    def __init__(
        self,
        transport: ServiceTransport,
        addresses: Sequence[str],
        *,
        policy: RetryPolicy | None = None,
        rng: Random | None = None,
        first_pause_s: float = 0.02,
        max_pause_s: float = 1.0,
    ) -> None:
        self._transport = transport
        self._policy = policy
        self._router = Router(addresses, rng or Random(), first_pause_s, max_pause_s)

    @property
    def failures(self) -> Mapping[str, str]:
        """Why each node failed last, by address; one that answered since, or was never asked, is missing."""
        return MappingProxyType(self._router.failures)

    async def put(self, key: str, value: bytes, *, retry_unknown: bool = False) -> PutResult:
        """Set a key's value, whatever it was."""
        check_key(key)
        check_value("value", value)
        request = bytes(PutRequest(key=key, value=value))
        result, _ = await self._call("Put", request, decode_put_result, repeatable=retry_unknown)
        return result

    async def delete(self, key: str, *, retry_unknown: bool = False) -> DeleteResult:
        """Remove a key. After a retry, ``deleted`` is False also if the first attempt had deleted it."""
        check_key(key)
        request = bytes(DeleteRequest(key=key))
        result, _ = await self._call("Delete", request, decode_delete_result, repeatable=retry_unknown)
        return result

    async def cas(
        self, key: str, value: bytes, *, expected: bytes | int | None, retry_unknown: bool = False
    ) -> CasResult:
        """Set a key's value if the key is as expected.

        Args:
            expected: None: the key is absent. bytes: it has this value. int: its last change has this revision (0:
                absent), which also tells a value from the same one written again.
            retry_unknown: Try again when the outcome is unknown. ``swapped`` is then still true only if this call
                swapped; but where an attempt after the first finds the key not as expected, that may be the work of
                the first, and the call raises OutcomeUnknown.
        """
        check_key(key)
        check_value("value", value)
        request = CasRequest(key=key, value=value)
        if expected is None:
            request.expected_absent = True
        elif isinstance(expected, bytes):
            check_value("expected value", expected)
            request.expected_value = expected
        else:
            request.expected_revision = expected
        result, unknown = await self._call("Cas", bytes(request), decode_cas_result, repeatable=retry_unknown)
        if unknown and not result.swapped:
            raise OutcomeUnknown(
                f"the outcome of an earlier attempt is unknown, and now {key!r} is not as expected: it has revision "
                f"{result.revision}, which may be of that attempt or of another writer; read the key to find out"
            )
        return result

    async def get(self, key: str, *, local: bool = False) -> GetResult:
        """Read a key; ``value`` is None if it is absent.

        Args:
            local: Read what the answering node has applied, which may be stale. The default is linearizable: what
                was written before the call is seen.
        """
        check_key(key)
        request = bytes(GetRequest(key=key, local=local))
        result, _ = await self._call("Get", request, decode_get_result, repeatable=True)
        return result

    async def scan(self, prefix: str = "", *, limit: int = 0, start_after: str = "", local: bool = False) -> ScanResult:
        """Read one page of the keys that start with a prefix, in order.

        A page is one moment's state; different pages are of different moments.

        Args:
            prefix: Empty for all keys.
            limit: At most 10,000 keys; 0 stands for 1,000. A page of large values ends earlier, at 1 MiB.
            start_after: Only keys after this one: the last key of the page before.
            local: As in ``get``. Pages may come from different nodes, and a later page from an older state.
        """
        check_scan(Scan(prefix, limit, start_after))
        request = bytes(ScanRequest(prefix=prefix, limit=limit, start_after=start_after, local=local))
        result, _ = await self._call("Scan", request, decode_scan_result, repeatable=True)
        return result

    @asynccontextmanager
    async def watch(self, prefix: str = "", *, after_revision: int | None = None) -> AsyncIterator[KeyValueWatch]:
        """Follow the changes to the keys with a prefix: ``async with ... as watch: async for event in watch:``.

        Every change is told once, in order. Entering waits for a node; every change after that is told. When the
        connection is lost, the watch goes on at another node from where it was.

        Args:
            prefix: Empty for all keys.
            after_revision: Tell the changes after this one, also those already made: the ``applied_index`` of a scan
                or get, or the ``revision`` of an earlier watch. None: from now on.

        Raises: InvalidCommand, ServiceError; WatchFellBehind if ``after_revision`` is no longer held. Once inside,
            iterating raises the same.
        """
        check_prefix(prefix)
        async with open_watch(self._transport, Route(self._router), prefix, after_revision) as watch:
            yield watch

    async def _call(
        self, method: str, request: bytes, decode: Callable[[bytes], _T], *, repeatable: bool
    ) -> tuple[_T, bool]:
        """Ask node after node; return the result, and whether some attempt's outcome is unknown."""
        work = _Work(method, request, decode, repeatable)
        route = Route(self._router)
        if self._policy is not None:
            retrying = self._policy.bind(
                target=self._router.name, operation=f"{SERVICE}/{method}", is_idempotent=repeatable
            )
            return await retrying.call(self._ask_all, route, work), work.is_unknown
        while True:
            try:
                return await self._ask(route, work), work.is_unknown
            except (PeerUnreachable, ProposalRefused, OutcomeUnknown) as error:
                work.failed(error)
            await route.advance()

    async def _ask_all(self, route: Route, work: _Work[_T]) -> _T:
        """Ask every node once, until one answers. Raises: the error of the round; OutcomeUnknown if there is one."""
        worst: PeerUnreachable | ProposalRefused | OutcomeUnknown | None = None
        for _ in self._router.addresses:
            try:
                return await self._ask(route, work)
            except (PeerUnreachable, ProposalRefused, OutcomeUnknown) as error:
                work.failed(error)
                worst = worst if isinstance(worst, OutcomeUnknown) else error
            route.turn()
        assert worst is not None, "a client has one address at least"
        raise worst

    async def _ask(self, route: Route, work: _Work[_T]) -> _T:
        """Ask one node.

        Raises: PeerUnreachable, ProposalRefused if it is not done; OutcomeUnknown; InvalidCommand, ServiceError if it
            never will be.
        """
        address, method = route.address, work.method
        try:
            response = await self._transport.call(address, f"{SERVICE}/{method}", work.request)
            outcome = decode_unary_response(response)
            result = outcome if isinstance(outcome, Failure) else work.decode(outcome)
        except PeerUnreachable as error:
            route.failed(str(error))
            raise
        except (LinkClosed, PeerTimeout, MalformedMessage) as error:
            route.failed(str(error))
            raise OutcomeUnknown(
                f"{method} at {address} got no answer, and may or may not be carried out: {error}"
            ) from error
        if not isinstance(result, Failure):
            route.arrived()
            return result
        if result.code == KvErrorCode.INVALID:
            raise InvalidCommand(result.message)
        route.failed(result.message)
        if result.code == KvErrorCode.NOT_DONE:
            raise ProposalRefused(f"{method} at {address}: {result.message}")
        raise OutcomeUnknown(f"{method} at {address}: {result.message}")


@attrs.define
class _Work(Generic[_T]):
    """One request, whichever nodes it is put to."""

    method: str
    request: bytes
    decode: Callable[[bytes], _T]
    is_repeatable: bool
    # Whether some attempt's outcome is unknown.
    is_unknown: bool = False

    def failed(self, error: PeerUnreachable | ProposalRefused | OutcomeUnknown) -> None:
        """Take note that one node failed. Raises: the error, if no other may be asked after it."""
        if isinstance(error, OutcomeUnknown):
            if not self.is_repeatable:
                raise error
            self.is_unknown = True
