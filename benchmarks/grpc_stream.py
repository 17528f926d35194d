"""Measure one gRPC link between two processes: AppendEntries requests and their responses.

Usage: python benchmarks/grpc_stream.py [--pairs N] [--json FILE]

Each row keeps so many requests outstanding, with so many entries of 64 bytes in each. With one outstanding, the time a
pair takes is the round trip; with more, it is the throughput of the link.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import attrs
import trio

from clustercore.interfaces import (
    AppendEntriesRequest,
    AppendEntriesResponse,
    Entry,
    EntryKind,
    Lane,
    Link,
    LinkClosed,
    LogIndex,
    NodeId,
    Term,
)
from clustercore_grpc import GrpcTransport

# (requests outstanding, entries in each)
ROWS = ((1, 0), (1, 1), (1, 64), (16, 1), (16, 64))
COMMAND = bytes(64)


@attrs.frozen
class Result:
    """One row of the table."""

    outstanding: int
    entries: int
    pairs_per_s: float
    p50_us: float
    p99_us: float


async def answer(link: Link) -> None:
    """Answer each request at once, as a follower with an infinitely fast disk would."""
    while True:
        try:
            request = await link.receive()
            assert isinstance(request, AppendEntriesRequest)
            match_index = LogIndex(request.prev_log_index + len(request.entries))
            await link.send(AppendEntriesResponse(request.term, True, request.prev_log_index, match_index))
        except LinkClosed:
            return


async def serve() -> None:
    """Serve until killed; the first line of output is the address."""
    async with GrpcTransport() as transport, trio.open_nursery() as nursery:
        print(await nursery.start(transport.serve, answer), flush=True)


def make_request(entries: int) -> AppendEntriesRequest:
    """Make a request whose entries are encoded already, as the leader's are."""
    made = (Entry.create(LogIndex(i + 1), Term(7), EntryKind.COMMAND, COMMAND) for i in range(entries))
    return AppendEntriesRequest(Term(7), NodeId("node-1"), LogIndex(0), Term(0), LogIndex(0), tuple(made))


async def measure(link: Link, outstanding: int, entries: int, pairs: int) -> Result:
    """Exchange ``pairs`` requests and responses."""
    request = make_request(entries)
    started = time.perf_counter()
    took = await (
        one_by_one(link, request, pairs) if outstanding == 1 else pipelined(link, request, pairs, outstanding)
    )
    elapsed = time.perf_counter() - started
    took.sort()
    return Result(outstanding, entries, pairs / elapsed, took[pairs // 2] * 1e6, took[pairs * 99 // 100] * 1e6)


async def one_by_one(link: Link, request: AppendEntriesRequest, pairs: int) -> list[float]:
    """Send, wait for the response, and so on; returns what each pair took, in seconds."""
    took: list[float] = []
    for _ in range(pairs):
        started = time.perf_counter()
        await link.send(request)
        await link.receive()
        took.append(time.perf_counter() - started)
    return took


async def pipelined(link: Link, request: AppendEntriesRequest, pairs: int, outstanding: int) -> list[float]:
    """Send in one task and receive in another, ``outstanding`` apart; returns what each pair took, in seconds."""
    sent: list[float] = []
    took: list[float] = []
    room = trio.Semaphore(outstanding)

    async def send() -> None:
        for _ in range(pairs):
            await room.acquire()
            sent.append(time.perf_counter())
            await link.send(request)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for number in range(pairs):
            await link.receive()
            took.append(time.perf_counter() - sent[number])
            room.release()
    return took


async def run(address: str, pairs: int) -> list[Result]:
    """Measure every row over one link."""
    async with GrpcTransport() as transport, await transport.connect(address, Lane.BULK) as link:
        await measure(link, 1, 1, 200)
        return [await measure(link, outstanding, entries, pairs) for outstanding, entries in ROWS]


def main() -> None:
    """Start the other process, measure, print and write."""
    parser = argparse.ArgumentParser(description="Measure one gRPC link between two processes.")
    parser.add_argument("--pairs", type=int, default=5000, help="requests in each row (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        trio.run(serve)
        return
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as peer:
        try:
            assert peer.stdout is not None
            results = trio.run(run, peer.stdout.readline().strip(), options.pairs)
        finally:
            peer.kill()
    print(f"{'outstanding':>11} {'entries':>8} {'pairs/s':>9} {'entries/s':>10} {'p50 us':>8} {'p99 us':>8}")
    for r in results:
        rate = r.pairs_per_s * r.entries
        print(f"{r.outstanding:11} {r.entries:8} {r.pairs_per_s:9.0f} {rate:10.0f} {r.p50_us:8.0f} {r.p99_us:8.0f}")
    if options.json is not None:
        options.json.write_text(json.dumps([attrs.asdict(r) for r in results], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
