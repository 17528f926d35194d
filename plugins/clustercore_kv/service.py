"""The service clustercore.v1.KeyValue: a client's requests, answered on the node's own listener.

What became of a command is told inside the response, as an error that says what is known; an error of the transport
means that the transport failed. Only a request that is no such message raises, ServiceError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from clustercore.interfaces import (
    ClusterError,
    InvalidCommand,
    MalformedMessage,
    NodeHandle,
    NodeId,
    NodeStopped,
    NotLeader,
    ProposalRefused,
    Service,
)
from clustercore_kv._proto.clustercore.v1 import KvErrorCode
from clustercore_kv._proto.descriptor import FILE_DESCRIPTOR
from clustercore_kv.codec import encode_command, encode_get_result, encode_scan_result, split_result
from clustercore_kv.errors import WatchFellBehind
from clustercore_kv.limits import check_command, check_prefix
from clustercore_kv.protocol import (
    SERVICE,
    Failure,
    decode_cas_request,
    decode_delete_request,
    decode_get_request,
    decode_put_request,
    decode_scan_request,
    decode_watch_request,
    encode_events_response,
    encode_failure_response,
    encode_fell_behind_response,
    encode_result_response,
)
from clustercore_kv.values import Command, Get, Refused, Scan

if TYPE_CHECKING:
    from clustercore_kv.machine import KeyValueMachine

__all__ = ["KeyValueService"]

# A command that finds no leader for so long is answered as not done. Shorter than a transport waits for an answer
# (2 s): after that its client could not tell any more.
_GIVE_UP_S = 1.0


class KeyValueService:
    """Answers requests at one node: writes through the log, reads by a read index, or at once where the client says so.

    Every handler takes and returns encoded messages. Cancelling one leaves the outcome of its command unknown.
    """

    def __init__(self, machine: KeyValueMachine, node: NodeHandle) -> None:
        self._machine = machine
        self._node = node

    def service(self) -> Service:
        """Return the handlers by the names that kv.proto gives them."""
        return Service(
            SERVICE,
            unary={
                "Put": self.put,
                "Get": self.get,
                "Delete": self.delete,
                "Cas": self.cas,
                "Scan": self.scan,
            },
            streams={"Watch": self.watch},
            descriptor=FILE_DESCRIPTOR,
        )

    async def put(self, request: bytes) -> bytes:
        """Answer a PutRequest with a PutResponse. Raises: ServiceError."""
        return await self._propose(decode_put_request(request))

    async def delete(self, request: bytes) -> bytes:
        """Answer a DeleteRequest with a DeleteResponse. Raises: ServiceError."""
        return await self._propose(decode_delete_request(request))

    async def cas(self, request: bytes) -> bytes:
        """Answer a CasRequest with a CasResponse. Raises: ServiceError."""
        return await self._propose(decode_cas_request(request))

    async def get(self, request: bytes) -> bytes:
        """Answer a GetRequest with a GetResponse. Raises: ServiceError."""
        command, local = decode_get_request(request)
        return await (self._read_local(command) if local else self._read(command))

    async def scan(self, request: bytes) -> bytes:
        """Answer a ScanRequest with a ScanResponse. Raises: ServiceError."""
        command, local = decode_scan_request(request)
        return await (self._read_local(command) if local else self._read(command))

    async def watch(self, request: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Answer a WatchRequest with WatchResponses, until the watch falls behind. Raises: ServiceError."""
        wanted = decode_watch_request(request)
        try:
            check_prefix(wanted.prefix)
        except InvalidCommand as error:
            await send(self._failure(KvErrorCode.INVALID, str(error)))
            return
        watcher = self._machine.watch(wanted.prefix, wanted.after_revision)
        try:
            watcher.check_held()
            await send(encode_events_response((), watcher.revision))
            while True:
                batch = await watcher.receive()
                await send(encode_events_response(batch.events, batch.revision))
        except WatchFellBehind as error:
            await send(encode_fell_behind_response(error))

    async def _propose(self, command: Command) -> bytes:
        """Send a command through the log and return the response, whatever becomes of it."""
        try:
            applied = await self._node.propose(encode_command(command), give_up_s=_GIVE_UP_S)
            result = split_result(applied.result)
        except InvalidCommand as error:
            return self._failure(KvErrorCode.INVALID, str(error))
        except (NotLeader, ProposalRefused, NodeStopped) as error:
            return self._failure(KvErrorCode.NOT_DONE, str(error))
        except MalformedMessage as error:
            # Applied, and the leader answered something else: only a leader of another version can.
            return self._failure(KvErrorCode.OUTCOME_UNKNOWN, f"the leader's answer cannot be read: {error}")
        except ClusterError as error:
            # OutcomeUnknown, and whatever a node may come to raise: then it is not known to be harmless either.
            return self._failure(KvErrorCode.OUTCOME_UNKNOWN, str(error))
        if isinstance(result, Refused):
            return self._failure(KvErrorCode.INVALID, result.message)
        return encode_result_response(result)

    async def _read(self, command: Get | Scan) -> bytes:
        """Answer with everything that was committed before the request."""
        try:
            with trio.move_on_after(_GIVE_UP_S):
                read = await self._node.read(encode_command(command))
                result = split_result(read.value)
                if isinstance(result, Refused):
                    return self._failure(KvErrorCode.INVALID, result.message)
                return encode_result_response(result)
        except InvalidCommand as error:
            return self._failure(KvErrorCode.INVALID, str(error))
        except (ClusterError, MalformedMessage) as error:
            # A read changes nothing, so whatever keeps it from being answered, it is not done.
            return self._failure(KvErrorCode.NOT_DONE, str(error))
        return self._failure(KvErrorCode.NOT_DONE, f"no leader answered within {_GIVE_UP_S} s")

    async def _read_local(self, command: Get | Scan) -> bytes:
        """Answer from what this node has applied."""
        await trio.lowlevel.checkpoint()
        try:
            check_command(command)
        except InvalidCommand as error:
            return self._failure(KvErrorCode.INVALID, str(error))
        if isinstance(command, Get):
            return encode_result_response(encode_get_result(self._machine.get(command.key)))
        page = self._machine.scan(command.prefix, command.limit, command.start_after)
        return encode_result_response(encode_scan_result(page))

    def _failure(self, code: KvErrorCode, message: str) -> bytes:
        return encode_failure_response(Failure(code, message, self._leader_id()))

    def _leader_id(self) -> NodeId | None:
        try:
            return self._node.status().leader_id
        except NodeStopped:
            return None
