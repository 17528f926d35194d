"""The service on the node's listener: what a client of another language sees, with the generated messages."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clustercore.interfaces import (
    InvalidCommand,
    InvariantError,
    NodeStopped,
    NotLeader,
    OutcomeUnknown,
    ProposalRefused,
    Service,
    ServiceError,
)
from clustercore_kv import Cas, Command, Delete, KeyValueMachine, Put, encode_command
from clustercore_kv._proto.clustercore.v1 import (
    CasRequest,
    CasResponse,
    CasResult,
    DeleteRequest,
    DeleteResponse,
    DeleteResult,
    GetRequest,
    GetResponse,
    GetResult,
    KvError,
    KvErrorCode,
    KvEvent,
    KvEventKind,
    KvEvents,
    KvFellBehind,
    KvPair,
    PutRequest,
    PutResponse,
    PutResult,
    ScanRequest,
    ScanResponse,
    ScanResult,
    WatchRequest,
    WatchResponse,
)
from tests.unit.kv.fakes import LEADER, FakeNode, do


def serve(machine: KeyValueMachine | None = None) -> tuple[FakeNode, Service]:
    """Return a node and its service."""
    node = FakeNode(machine or KeyValueMachine())
    (service,) = node.machine.services(node)
    return node, service


def test_service_has_the_methods_of_kv_proto() -> None:
    """The service's name and methods are those that clients generate from kv.proto."""
    _, service = serve()

    assert service.name == "clustercore.v1.KeyValue"
    assert set(service.unary) == {"Put", "Get", "Delete", "Cas", "Scan"}
    assert set(service.streams) == {"Watch"}


async def test_writes_are_proposed_and_reads_are_read() -> None:
    """Only what changes something goes through the log; each response holds what the machine answered."""
    node, service = serve()
    call = service.unary

    put = PutResponse.parse(await call["Put"](bytes(PutRequest(key="a", value=b"1"))))
    got = GetResponse.parse(await call["Get"](bytes(GetRequest(key="a"))))
    cas = CasResponse.parse(await call["Cas"](bytes(CasRequest(key="a", value=b"2", expected_value=b"1"))))
    failed = CasResponse.parse(await call["Cas"](bytes(CasRequest(key="a", value=b"3", expected_absent=True))))
    page = ScanResponse.parse(await call["Scan"](bytes(ScanRequest())))
    gone = DeleteResponse.parse(await call["Delete"](bytes(DeleteRequest(key="a"))))
    absent = GetResponse.parse(await call["Get"](bytes(GetRequest(key="a"))))

    assert put == PutResponse(result=PutResult(revision=1))
    assert got == GetResponse(result=GetResult(value=b"1", revision=1, applied_index=1))
    assert cas == CasResponse(result=CasResult(swapped=True, revision=2))
    assert failed == CasResponse(result=CasResult(swapped=False, revision=2, value=b"2"))
    assert page == ScanResponse(result=ScanResult(pairs=[KvPair(key="a", value=b"2", revision=2)], applied_index=3))
    assert gone == DeleteResponse(result=DeleteResult(deleted=True, revision=4))
    assert absent == GetResponse(result=GetResult(applied_index=4))
    assert (node.proposals, node.reads) == (4, 3)


async def test_local_reads_propose_nothing() -> None:
    """A local read answers from what the node has applied, with the index of that state, without the log."""
    node, service = serve()
    do(node.machine, Put("a", b"1"), 5)

    got = GetResponse.parse(await service.unary["Get"](bytes(GetRequest(key="a", local=True))))
    page = ScanResponse.parse(await service.unary["Scan"](bytes(ScanRequest(prefix="a", local=True))))

    assert got == GetResponse(result=GetResult(value=b"1", revision=5, applied_index=5))
    assert page == ScanResponse(result=ScanResult(pairs=[KvPair(key="a", value=b"1", revision=5)], applied_index=5))
    assert node.proposals == 0


@pytest.mark.parametrize("error", [NodeStopped("stopped"), InvariantError("bug")])
async def test_failed_reads_are_not_done(error: Exception) -> None:
    """A read changes nothing, so whatever keeps a node from answering it, it may be tried again."""
    node, service = serve()
    node.errors.append(error)

    response = GetResponse.parse(await service.unary["Get"](bytes(GetRequest(key="a"))))

    assert response == GetResponse(error=KvError(code=KvErrorCode.NOT_DONE, message=str(error), leader_id=LEADER))


async def test_read_that_finds_no_leader_is_not_done(autojump_clock: MockClock) -> None:
    """It is answered while the client still waits, as a proposal is."""
    node, service = serve()
    node.hangs = True

    response = GetResponse.parse(await service.unary["Get"](bytes(GetRequest(key="a"))))

    assert response.error is not None
    assert response.error.code == KvErrorCode.NOT_DONE
    assert trio.current_time() < 2


@pytest.mark.parametrize("command", [Put("a", b"1"), Delete("a"), Cas("a", b"1", None)])
def test_command_that_changes_something_is_no_query(command: Command) -> None:
    """It would change one replica only."""
    machine = KeyValueMachine()

    with pytest.raises(InvalidCommand, match="is no query"):
        machine.query(encode_command(command))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotLeader(LEADER, None), KvErrorCode.NOT_DONE),
        (ProposalRefused("full"), KvErrorCode.NOT_DONE),
        (NodeStopped("stopped"), KvErrorCode.NOT_DONE),
        (OutcomeUnknown("lost"), KvErrorCode.OUTCOME_UNKNOWN),
        (InvariantError("bug"), KvErrorCode.OUTCOME_UNKNOWN),
    ],
)
async def test_failures_travel_inside_the_response(error: Exception, code: KvErrorCode) -> None:
    """What the node says of a proposal becomes a code that tells a client what is known, and the leader."""
    node, service = serve()
    node.errors.append(error)

    response = PutResponse.parse(await service.unary["Put"](bytes(PutRequest(key="a", value=b"1"))))

    assert response == PutResponse(error=KvError(code=code, message=str(error), leader_id=LEADER))


async def test_stopping_node_answers_not_done() -> None:
    """A node that is leaving cannot say who leads, and still says that nothing was done."""
    node, service = serve()
    node.errors.append(NodeStopped("stopped"))
    node.is_stopped = True

    response = PutResponse.parse(await service.unary["Put"](bytes(PutRequest(key="a", value=b"1"))))

    assert response == PutResponse(error=KvError(code=KvErrorCode.NOT_DONE, message="stopped"))


async def test_proposals_give_up_while_the_client_still_waits() -> None:
    """Without a leader the answer is "not done", and comes before a transport's shortest patience of 2 s is over."""
    node, service = serve()

    await service.unary["Put"](bytes(PutRequest(key="a", value=b"1")))

    assert all(give_up_s is not None and give_up_s < 2 for give_up_s in node.give_up_s)
    assert len(node.give_up_s) == 1


@pytest.mark.parametrize(
    ("method", "request_bytes"),
    [
        ("Put", bytes(PutRequest(key="", value=b"1"))),
        ("Put", bytes(PutRequest(key="k" * 1025))),
        ("Get", bytes(GetRequest(key=""))),
        ("Get", bytes(GetRequest(key="", local=True))),
        ("Scan", bytes(ScanRequest(limit=10_001))),
        ("Scan", bytes(ScanRequest(limit=10_001, local=True))),
    ],
)
async def test_requests_beyond_a_limit_are_invalid(method: str, request_bytes: bytes) -> None:
    """A request that never will be done is answered with INVALID, through the log or not."""
    _, service = serve()

    response = GetResponse.parse(await service.unary[method](request_bytes))

    assert response.error is not None
    assert response.error.code == KvErrorCode.INVALID


@pytest.mark.parametrize(
    ("method", "request_bytes"),
    [
        ("Put", b"\x0a\x05ab"),
        ("Put", b"\x0a\x01\xff"),
        ("Get", b"\xff"),
        ("Delete", b"\x0d"),
        ("Cas", bytes(CasRequest(key="a", value=b"1"))),
        ("Scan", b"\x0a\x01\xff"),
    ],
)
async def test_malformed_requests_raise(method: str, request_bytes: bytes) -> None:
    """Bytes that are no such request are refused as malformed, and nothing is proposed."""
    node, service = serve()

    with pytest.raises(ServiceError, match=f"no clustercore.v1.KeyValue {method}Request"):
        await service.unary[method](request_bytes)

    assert node.proposals == 0


async def test_request_fields_of_newer_clients_are_passed_over() -> None:
    """A request with a field that is not known is answered: a newer client must be able to speak to an older node."""
    _, service = serve()

    response = PutResponse.parse(await service.unary["Put"](bytes(PutRequest(key="a", value=b"1")) + b"\x78\x01"))

    assert response == PutResponse(result=PutResult(revision=1))


async def test_watch_answers_at_once_then_tells_changes(nursery: trio.Nursery) -> None:
    """The first response tells where the watch begins; then the changes of the prefix come as they are applied."""
    node, service = serve()
    do(node.machine, Put("a", b"0"))
    responses: list[WatchResponse] = []

    async def send(data: bytes) -> None:
        responses.append(WatchResponse.parse(data))

    nursery.start_soon(service.streams["Watch"], bytes(WatchRequest(prefix="a")), send)
    await wait_all_tasks_blocked()
    do(node.machine, Put("a", b"1"))
    do(node.machine, Delete("a"))
    await wait_all_tasks_blocked()
    nursery.cancel_scope.cancel()

    put = KvEvent(kind=KvEventKind.PUT, key="a", value=b"1", revision=2)
    delete = KvEvent(kind=KvEventKind.DELETE, key="a", revision=3)
    assert responses == [
        WatchResponse(events=KvEvents(revision=1)),
        WatchResponse(events=KvEvents(events=[put, delete], revision=3)),
    ]


async def test_watch_that_falls_behind_ends_with_the_revision() -> None:
    """A client that takes its responses too slowly is told that it fell behind, and where; then the stream ends."""
    node, service = serve(KeyValueMachine(history_events=2))
    responses: list[WatchResponse] = []

    async def send(data: bytes) -> None:
        responses.append(WatchResponse.parse(data))
        if len(responses) == 1:
            for _ in range(5):
                do(node.machine, Put("a", b""))

    await service.streams["Watch"](bytes(WatchRequest()), send)

    assert responses[1:] == [WatchResponse(fell_behind=KvFellBehind(revision=0, oldest_revision=3))]


async def test_watch_after_revision_zero_is_not_from_now() -> None:
    """After revision 0 means from the very beginning, which is told from leaving it out, even when it is too old."""
    node, service = serve(KeyValueMachine(history_events=2))
    for _ in range(3):
        do(node.machine, Put("a", b""))
    responses: list[WatchResponse] = []

    async def send(data: bytes) -> None:
        responses.append(WatchResponse.parse(data))

    await service.streams["Watch"](bytes(WatchRequest(after_revision=0)), send)

    assert responses == [WatchResponse(fell_behind=KvFellBehind(revision=0, oldest_revision=1))]


async def test_watch_of_impossible_prefix_is_invalid() -> None:
    """A prefix that no key can have is answered with INVALID, and the stream ends."""
    _, service = serve()
    responses: list[WatchResponse] = []

    async def send(data: bytes) -> None:
        responses.append(WatchResponse.parse(data))

    await service.streams["Watch"](bytes(WatchRequest(prefix="p" * 1025)), send)

    assert [response.error.code for response in responses if response.error] == [KvErrorCode.INVALID]
