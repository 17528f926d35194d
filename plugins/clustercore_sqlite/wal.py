"""Tells a torn end of SQLite's write-ahead log from damage before its end.

SQLite reads its log up to the last commit whose checksums hold, and drops the rest without a word. After a power cut
that is right: the rest was never synced, so never acknowledged. But a bit that flips inside the log looks the same, and
would cost every commit after it, votes among them (Alagappan et al., "Protocol-Aware Recovery for Consensus-Based
Storage", FAST 2018, section 2). What tells the two apart is order: a commit is synced before the next one begins. A
whole, valid commit behind the damage, with a frame of yet another commit behind that, proves that the damaged frame had
been synced.

The last two commits cannot be told from a torn end; nothing but the log itself knows of them. The rule never takes a
torn end for damage, as long as a sync is honest and a write leaves the bytes before it alone (what SQLite calls
powersafe overwrite, and assumes by default too).

This file knows the format of the log (sqlite.org/fileformat2.html#walformat) and nothing else::

    header 32 bytes:  magic  format  page_size  checkpoint  salt1 salt2  checksum1 checksum2      (big-endian, 4 each)
    frame  24 bytes:  page   commit_pages       salt1 salt2  checksum1 checksum2,  then the page
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import attrs

__all__ = ["HEADER_BYTES", "find_damage", "frame_bytes"]

HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_MAGIC = 0x377F0682
# The magic number's lowest bit says in which byte order the checksums read their words.
_BIG_ENDIAN_BIT = 1
_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")
_WORD_MASK = 0xFFFFFFFF

Checksum = tuple[int, int]
Salts = tuple[int, int]
ByteOrder = Literal["little", "big"]


@attrs.frozen
class _Header:
    order: ByteOrder
    # None when the header is damaged: then the first frame's are taken.
    salts: Salts | None
    checksum: Checksum


@attrs.frozen
class _Frame:
    commit_pages: int
    salts: Salts
    # As stored. It goes on from the checksum of the frame before, so a frame can be checked against the stored one
    # of its predecessor even if that is damaged.
    checksum: Checksum
    summed: bytes = attrs.field(repr=False)


def frame_bytes(page_size: int) -> int:
    """Return the length of one frame in the log."""
    return _FRAME_HEADER_BYTES + page_size


def find_damage(log_path: Path, *, page_size: int, recovered_frames: int) -> bool:
    """Say whether the log lost a commit that had been synced.

    It reads only what lies behind the recovered frames, which is nothing after a clean stop and little after a crash:
    70 us a frame that belongs to the log's newest run, 2 us for any other.

    Args:
        log_path: The ``-wal`` file; it need not exist.
        page_size: The database's, in bytes.
        recovered_frames: How many frames from the start SQLite has found valid, up to the last commit.

    Raises:
        OSError: the file cannot be read.
    """
    if not log_path.exists():
        return False
    with log_path.open("rb") as log:
        header = _parse_header(log.read(HEADER_BYTES))
        previous = header.checksum
        if recovered_frames:
            log.seek(HEADER_BYTES + (recovered_frames - 1) * frame_bytes(page_size))
            previous = _parse_frame(log.read(frame_bytes(page_size))).checksum
        return _shows_damage(header, previous, _read_frames(log, page_size))


def _shows_damage(header: _Header, previous: Checksum, frames: Iterator[_Frame]) -> bool:
    salts = header.salts
    commit_seen = False
    for frame in frames:
        salts = salts or frame.salts
        # Frames of an earlier run of the log, still behind the newest one, have other salts.
        valid = frame.salts == salts and _continue_checksum(frame.summed, previous, header.order) == frame.checksum
        if valid and commit_seen:
            return True
        commit_seen = commit_seen or (valid and frame.commit_pages > 0)
        previous = frame.checksum
    return False


def _read_frames(log: BinaryIO, page_size: int) -> Iterator[_Frame]:
    size = frame_bytes(page_size)
    while len(data := log.read(size)) == size:
        yield _parse_frame(data)


def _parse_header(data: bytes) -> _Header:
    if len(data) < HEADER_BYTES:
        return _Header(sys.byteorder, None, (0, 0))
    magic, _, _, _, salt1, salt2, sum1, sum2 = _HEADER.unpack(data)
    order: ByteOrder = "big" if magic & _BIG_ENDIAN_BIT else "little"
    known = magic & ~_BIG_ENDIAN_BIT == _MAGIC
    if known and _continue_checksum(data[:24], (0, 0), order) == (sum1, sum2):
        return _Header(order, (salt1, salt2), (sum1, sum2))
    return _Header(sys.byteorder, None, (sum1, sum2))


def _parse_frame(data: bytes) -> _Frame:
    _, commit_pages, salt1, salt2, sum1, sum2 = _FRAME_HEADER.unpack_from(data)
    # The salts and the checksum itself are left out of the sum.
    return _Frame(commit_pages, (salt1, salt2), (sum1, sum2), data[:8] + data[_FRAME_HEADER_BYTES:])


def _continue_checksum(data: bytes, start: Checksum, order: ByteOrder) -> Checksum:
    """Go on with SQLite's checksum from ``start`` over ``data``, a multiple of 8 bytes long."""
    sum1, sum2 = start
    words = iter(struct.unpack(f"{'>' if order == 'big' else '<'}{len(data) // 4}I", data))
    for word in words:
        sum1 = (sum1 + word + sum2) & _WORD_MASK
        sum2 = (sum2 + next(words) + sum1) & _WORD_MASK
    return sum1, sum2
