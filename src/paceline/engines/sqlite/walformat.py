"""The bytes of SQLite's write-ahead log and of its shared index, and their checksum.

What lives here: layouts and pure functions on bytes.  No file is opened and no
memory is mapped here.  The facts are those of SQLite's file format page and of
the wal-index; only little-endian machines are supported (the index is in the
machine's own order, and we say so at import rather than fail strangely later).

``-wal``: a header of 32 bytes, then frames of 24 bytes and one page each.  All
integers are big endian, the checksum's words are in the order that the magic
number names.

``-shm``: blocks of 32 KiB.  Each has 4096 page numbers (u32, one a frame) and
8192 hash slots (u16: number of a frame inside its block, 0 when free).  The
first block gives up its first 136 bytes, 34 page numbers, to two copies of the
header and the checkpoint information.

The checksum.  A state (s0, s1) takes 32-bit words two at a time:

    s0 += x0 + s1;  s1 += x1 + s0        (modulo 2^32)

That is linear: after n words the state is  P(n)·s + A(n)·x  with constants that
depend on n alone.  So the data part A·x of a whole batch of frames is one
product of matrices, and only P·s must be done frame after frame.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "BLOCK_BYTES",
    "FRAME_HEADER_BYTES",
    "HASH_SLOTS",
    "INDEX_HEADER_BYTES",
    "LOCK_BYTE",
    "PAGE_NUMBERS_FIRST",
    "PAGE_NUMBERS_OTHER",
    "WAL_HEADER_BYTES",
    "CheckpointInfo",
    "IndexHeader",
    "block_of",
    "checksum",
    "checksum_frames",
    "first_frame_of",
    "frame_offset",
    "hash_slot",
    "is_page_size",
    "lock_page",
    "wal_header",
    "wal_header_salts",
]

if sys.byteorder != "little":
    raise ImportError("Paceline's SQLite engine runs on little-endian machines only")

WAL_HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
WAL_MAGIC: Final = 0x377F0682
WAL_VERSION: Final = 3_007_000

BLOCK_BYTES: Final = 32 * 1024
INDEX_HEADER_BYTES: Final = 136
"""Two copies of the header (48 each) and the checkpoint information (40)."""
PAGE_NUMBERS_OTHER: Final = 4096
PAGE_NUMBERS_FIRST: Final = PAGE_NUMBERS_OTHER - INDEX_HEADER_BYTES // 4
HASH_SLOTS: Final = 8192

LOCK_BYTE: Final = 1 << 30
"""SQLite's byte-range locks live here; the page that holds it is never used."""

_M32: Final = 0xFFFFFFFF
_WAL_HEADER: Final = struct.Struct(">IIII8s")
_INDEX_HEADER: Final = struct.Struct("=IIIBBHIIII8sII")
_CHECKPOINT: Final = struct.Struct("=I5I8sII")

U32Array = npt.NDArray[np.uint32]

assert _INDEX_HEADER.size == 48
assert 2 * _INDEX_HEADER.size + _CHECKPOINT.size == INDEX_HEADER_BYTES
assert PAGE_NUMBERS_FIRST == 4062


def is_page_size(value: int) -> bool:
    return 512 <= value <= 65536 and value & (value - 1) == 0


def lock_page(page_size: int) -> int:
    """Number of the page that holds the lock byte."""
    return LOCK_BYTE // page_size + 1


def frame_offset(frame: int, page_size: int) -> int:
    """Where frame ``frame`` (from 1) begins in ``-wal``."""
    return WAL_HEADER_BYTES + (frame - 1) * (FRAME_HEADER_BYTES + page_size)


def block_of(frame: int) -> int:
    """The index block that knows ``frame`` (from 1)."""
    return (frame - 1 + PAGE_NUMBERS_OTHER - PAGE_NUMBERS_FIRST) // PAGE_NUMBERS_OTHER


def first_frame_of(block: int) -> int:
    """The first frame that ``block`` knows."""
    return 1 if block == 0 else 1 + PAGE_NUMBERS_FIRST + (block - 1) * PAGE_NUMBERS_OTHER


def hash_slot(page: int) -> int:
    """Where the search for ``page`` begins in a block's hash table."""
    return (page * 383) & (HASH_SLOTS - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexHeader:
    """What one copy of the index header says.  ``frames`` is SQLite's mxFrame, ``change`` its iChange."""

    change: int
    big_endian: bool
    page_size: int
    frames: int
    page_count: int
    checksum: tuple[int, int]
    salts: bytes

    @classmethod
    def decode(cls, raw: bytes) -> IndexHeader | None:
        """None when the copy is uninitialised, torn or of another version."""
        version, _, change, ready, big, size, frames, pages, c0, c1, salts, h0, h1 = _INDEX_HEADER.unpack(raw)
        if not ready or version != WAL_VERSION or checksum(raw[:40], (0, 0)) != (h0, h1):
            return None
        # 65536 does not fit in 16 bits: SQLite keeps its high bit in bit 0.
        page_size = (size & 0xFE00) | ((size & 1) << 16)
        return cls(
            change=change,
            big_endian=bool(big),
            page_size=page_size,
            frames=frames,
            page_count=pages,
            checksum=(c0, c1),
            salts=salts,
        )

    def encode(self) -> bytes:
        raw = _INDEX_HEADER.pack(
            WAL_VERSION,
            0,
            self.change,
            1,
            self.big_endian,
            (self.page_size & 0xFF00) | (self.page_size >> 16),
            self.frames,
            self.page_count,
            *self.checksum,
            self.salts,
            0,
            0,
        )
        return raw[:40] + struct.pack("=II", *checksum(raw[:40], (0, 0)))

    def grown(self, *, frames: int, page_count: int, checksum: tuple[int, int]) -> IndexHeader:
        """The header after one more transaction."""
        change = (self.change + 1) & _M32
        return replace(self, change=change, frames=frames, page_count=page_count, checksum=checksum)

    def same_content(self, other: IndexHeader) -> bool:
        """Whether both describe the same committed frames of the same log."""
        return (
            self.salts == other.salts
            and self.frames == other.frames
            and self.checksum == other.checksum
            and self.page_count == other.page_count
        )


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """``backfilled``: frames that are in the database file; ``attempted``: frames whose copy had begun."""

    backfilled: int
    attempted: int

    @classmethod
    def decode(cls, raw: bytes) -> CheckpointInfo:
        fields = _CHECKPOINT.unpack(raw)
        return cls(fields[0], fields[7])


def wal_header(page_size: int, sequence: int, salts: bytes) -> tuple[bytes, tuple[int, int]]:
    """A header for a new log with little-endian checksums, and the state that the first frame continues."""
    raw = _WAL_HEADER.pack(WAL_MAGIC, WAL_VERSION, page_size, sequence & _M32, salts)
    state = checksum(raw, (0, 0))
    return raw + struct.pack(">II", *state), state


def wal_header_salts(raw: bytes) -> bytes | None:
    """The salts of a ``-wal`` header; None when it is no valid header."""
    if len(raw) < WAL_HEADER_BYTES:
        return None
    magic, version, _, _, salts = _WAL_HEADER.unpack_from(raw)
    if magic & ~1 != WAL_MAGIC or version != WAL_VERSION:
        return None
    state = checksum(raw[:24], (0, 0), big_endian=bool(magic & 1))
    return bytes(salts) if struct.pack(">II", *state) == raw[24:32] else None


def checksum(data: bytes, state: tuple[int, int], *, big_endian: bool = False) -> tuple[int, int]:
    """The plain loop, for headers (a few words)."""
    s0, s1 = state
    words = struct.unpack(f"{'>' if big_endian else '<'}{len(data) // 4}I", data)
    for at in range(0, len(words), 2):
        s0 = (s0 + words[at] + s1) & _M32
        s1 = (s1 + words[at + 1] + s0) & _M32
    return s0, s1


@lru_cache(maxsize=16)
def _coefficients(page_size: int) -> tuple[U32Array, tuple[int, int, int, int]]:
    """For one frame: A as (2, words of a frame), zero for the unsummed header words, and P = (a, b, c, d).

    From the last pair back: a pair's x0 enters the state as (1, 1), its x1 as
    (0, 1), and each later pair multiplies by M = [[1, 1], [1, 2]].
    """
    summed = [0, 1, *range(FRAME_HEADER_BYTES // 4, (FRAME_HEADER_BYTES + page_size) // 4)]
    matrix = np.zeros((2, (FRAME_HEADER_BYTES + page_size) // 4), dtype=np.uint32)
    a, b, c, d = 1, 0, 0, 1
    for at in range(len(summed) - 2, -1, -2):
        matrix[:, summed[at]] = ((a + b) & _M32, (c + d) & _M32)
        matrix[:, summed[at + 1]] = (b, d)
        a, b, c, d = (a + b) & _M32, (a + 2 * b) & _M32, (c + d) & _M32, (c + 2 * d) & _M32
    return matrix, (a, b, c, d)


def checksum_frames(
    frames: U32Array, page_size: int, state: tuple[int, int], *, big_endian: bool
) -> list[tuple[int, int]]:
    """The running checksum after each frame.

    ``frames``: (count, words of a frame) as ``<u4``; page number and size fields are filled, the rest of each
    frame header may hold anything (its coefficients are zero).
    """
    matrix, (a, b, c, d) = _coefficients(page_size)
    words = frames.byteswap() if big_endian else frames
    data = np.einsum("ij,kj->ik", words, matrix) if len(words) > 1 else np.inner(words, matrix)
    s0, s1 = state
    states: list[tuple[int, int]] = []
    for d0, d1 in data.tolist():
        s0, s1 = (d0 + a * s0 + b * s1) & _M32, (d1 + c * s0 + d * s1) & _M32
        states.append((s0, s1))
    return states
