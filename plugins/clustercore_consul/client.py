"""One connection to an agent's HTTP API: a request, one answer, or a ``ConsulError`` that says why not.

What Consul says of its answers in headers is read here, and so are the tokens renewed. What to do about an error is
decided by those who ask.
"""

from __future__ import annotations

import json
import logging
import ssl
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import attrs
import httpx2
import trio

from clustercore_consul.errors import ConsulError, ConsulRefused, ConsulUnknown
from clustercore_consul.options import MAX_ANSWER_BYTES, ConsistencyMode, ConsulOptions

__all__ = ["Answer", "ConsulClient", "segment"]

log = logging.getLogger(__name__)

# Of an error's text, this much is told.
_MAX_TOLD_CHARS = 200
# Consul may ask to be left alone for as long as it likes; news of the cluster are not to wait for longer.
_MAX_RETRY_AFTER_S = 60.0
# Consul answers a beat for a check it does not know with 404, and up to 1.10 with 500 and one of these.
_UNKNOWN_TEXTS = ("does not have associated TTL", "Unknown check", "Unknown service", "unknown service ID")


@attrs.frozen
class Answer:
    """What Consul answered, and how much it is worth."""

    # Parsed JSON; None for an empty body.
    value: Any
    # X-Consul-Index, as it came; 0 if there was none.
    index: int
    # Whether the server that answered had a leader. True where Consul does not say.
    is_led: bool
    # How long ago that server last heard its leader, in seconds.
    lag_s: float
    # Whether the token did not allow to see all of it. Consul before 1.11 does not say, and it is False.
    is_filtered: bool


class ConsulClient:
    """Asks one agent, over one connection, one request at a time.

    After a request that failed or was cancelled it begins with a new connection, and with the TLS files as they are
    then, so nothing of a broken one is left behind.

    Life: ``async with client:``.
    """

    def __init__(self, options: ConsulOptions, url: str | None = None) -> None:
        """Do nothing yet.

        Args:
            options: Of the plugin.
            url: Of another agent than the one the options name.
        """
        self._options = options
        self._url = url or options.url
        self._http: httpx2.AsyncClient | None = None
        self._turn = trio.Lock()

    async def __aenter__(self) -> Self:
        """Do nothing: the first request connects."""
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self._drop()

    async def get(
        self,
        path: str,
        *,
        consistency: ConsistencyMode = "default",
        index: int = 0,
        wait_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Read something.

        Args:
            path: From "/v1" on, percent-encoded.
            consistency: How new the answer must be.
            index: Wait for a change after this one; 0 to be answered at once.
            wait_s: How long Consul may wait for a change.
            timeout_s: How long the request may take as a whole.

        Raises: ConsulError.
        """
        query: dict[str, str] = {}
        if self._options.datacenter:
            query["dc"] = self._options.datacenter
        if consistency != "default":
            query[consistency] = ""
        if index:
            query["index"] = str(index)
        if wait_s is not None and index:
            query["wait"] = f"{round(wait_s * 1000)}ms"
        return await self._ask("GET", path, query, None, timeout_s)

    async def put(
        self, path: str, body: object = None, *, query: dict[str, str] | None = None, timeout_s: float | None = None
    ) -> Answer:
        """Change something. Without an answer, it may or may not be changed.

        Raises: ConsulError.
        """
        return await self._ask("PUT", path, query or {}, body, timeout_s)

    async def _ask(
        self, method: str, path: str, query: dict[str, str], body: object, timeout_s: float | None
    ) -> Answer:
        """Ask, and once more with another token if the token was refused and there is another."""
        timeout_s = self._options.timeout_s if timeout_s is None else timeout_s
        content = b"" if body is None else json.dumps(body).encode()
        with trio.move_on_after(timeout_s):
            async with self._turn:
                try:
                    return await self._ask_once(method, path, query, content)
                except ConsulRefused:
                    if not self._reload_token():
                        raise
                log.info("the token of Consul was read again, for %s %s was refused with the one before", method, path)
                return await self._ask_once(method, path, query, content)
        raise ConsulError(f"{method} {path}: no answer within {timeout_s:g} s")

    def _reload_token(self) -> bool:
        try:
            return self._options.secret.reload()
        except ValueError as error:
            # It names the file, and never shows what is in it.
            raise ConsulRefused(f"the token is refused, and cannot be read again: {error}") from error

    async def _ask_once(self, method: str, path: str, query: dict[str, str], content: bytes) -> Answer:
        is_whole = False
        try:
            client = self._http = self._http or self._make_client()
            headers = self._options.secret.headers
            async with client.stream(method, path, params=query, content=content, headers=headers) as response:
                received = await self._read(response)
                is_whole = True
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError) as error:
            raise ConsulError(f"{method} {path}: {_why(error)}") from error
        finally:
            if not is_whole:
                await self._drop()
        return _judge(f"{method} {path}", response, received)

    async def _read(self, response: httpx2.Response) -> bytes:
        received = bytearray()
        size = 0
        # To leave the loop early would leave generators of the library unfinished, for the garbage collector to find.
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size <= MAX_ANSWER_BYTES:
                received += chunk
        if size > MAX_ANSWER_BYTES:
            raise httpx2.RemoteProtocolError(f"an answer of {size} bytes, where {MAX_ANSWER_BYTES} are the most")
        return bytes(received)

    def _make_client(self) -> httpx2.AsyncClient:
        """Raises: OSError if the TLS files cannot be read now."""
        tls = self._options.tls
        try:
            # In the clear nothing is verified; a context that trusts nobody costs nothing to make.
            verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if tls is None else tls.context()
        except (OSError, ValueError) as error:
            raise OSError(f"the TLS files cannot be used: {error}") from error
        # Nothing comes from the environment: no proxy between a node and its agent, and no password from a .netrc.
        # The time is kept by the scope around the whole request, connecting included.
        return httpx2.AsyncClient(
            base_url=self._url,
            verify=verify,
            trust_env=False,
            timeout=None,
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1),
            headers={"Accept": "application/json"},
        )

    async def _drop(self) -> None:
        """Close the connection, which waits for nobody. Cannot be cancelled."""
        client, self._http = self._http, None
        if client is not None:
            with trio.CancelScope(shield=True):
                await client.aclose()


def segment(text: str) -> str:
    """Return a text as one segment of a path, whatever is in it."""
    return quote(text, safe="")


def _why(error: BaseException) -> str:
    """Return what went wrong: the library's own errors are without words where they have a cause that has some."""
    kind, words, reason = type(error).__name__, str(error), error.__cause__ or error.__context__
    while not words and reason is not None:
        words, reason = str(reason), reason.__cause__ or reason.__context__
    return f"{kind}: {words}"


def _judge(what: str, response: httpx2.Response, received: bytes) -> Answer:
    """Read an answer. Raises: ConsulError for one that is none."""
    status, headers = response.status_code, response.headers
    if status != 200:
        told = received[:_MAX_TOLD_CHARS].decode("utf-8", errors="replace").strip()
        complaint = f"{what}: Consul answered {status}: {told}" if told else f"{what}: Consul answered {status}"
        if status in (401, 403):
            raise ConsulRefused(complaint)
        if status == 404 or any(text in told for text in _UNKNOWN_TEXTS):
            raise ConsulUnknown(complaint)
        raise ConsulError(complaint, _retry_after(headers.get("Retry-After", "")))
    try:
        value = json.loads(received) if received.strip() else None
    except ValueError as error:
        raise ConsulError(f"{what}: the answer is no JSON: {error}") from error
    return Answer(
        value=value,
        index=_whole_number(headers.get("X-Consul-Index", "")),
        is_led=headers.get("X-Consul-KnownLeader", "true").lower() != "false",
        lag_s=_whole_number(headers.get("X-Consul-LastContact", "")) / 1000,
        is_filtered=headers.get("X-Consul-Results-Filtered-By-ACLs", "").lower() == "true",
    )


def _whole_number(text: str) -> int:
    """Return a header's number, and 0 for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0


def _retry_after(text: str) -> float | None:
    """Return the seconds that a server asks for; a date, which no Consul sends, counts as nothing."""
    return min(float(text), _MAX_RETRY_AFTER_S) if text.isascii() and text.isdigit() else None
