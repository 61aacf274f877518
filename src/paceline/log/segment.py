"""The segment file: its name and its header.

A log is a row of segment files.  Each begins with a header of 96 bytes that
says whose log it is and where in history it starts; then records follow
(``core/entry.py``) to the end of the file.  The header carries the *position
before* its first entry, so a log whose older segments were dropped still
proves that it continues one history.

    offset size field
    0      8    magic "PLINESEG"
    8      2    format version (1; big endian, as all)
    10     2    header bytes (96)
    12     4    zero
    16     16   cluster id
    32     8    generation: rises when the log is reset by a snapshot install
    40     8    first index; the file's name is this number, 20 digits
    48     8    term of the entry before
    56     16   chain hash of the entry before
    72     8    time of the first entry, microseconds since 1970 (0: created empty)
    80     12   zero
    92     4    CRC32C of bytes 0..92

The segments of one log have one generation.  A file of an older generation is
what a reset had not yet deleted when the node stopped.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

import google_crc32c

from paceline.errors import BadEntry
from paceline.ids import Index, Position, Term

__all__ = [
    "SCRATCH_SUFFIX",
    "SEGMENT_HEADER_BYTES",
    "SegmentHeader",
    "SegmentInfo",
    "UnknownVersion",
    "first_index_of",
    "segment_name",
]

_HEADER: Final = struct.Struct(">8sHHI16sQQQ16sQ12s")
_CRC: Final = struct.Struct(">I")
SEGMENT_HEADER_BYTES: Final = _HEADER.size + _CRC.size
_MAGIC: Final = b"PLINESEG"
_VERSION: Final = 1
_NAME: Final = re.compile(r"^(\d{20})\.seg$")
SCRATCH_SUFFIX: Final = ".seg.new"

assert SEGMENT_HEADER_BYTES == 96


class UnknownVersion(BadEntry):
    """The header is whole, and newer than this code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    cluster: bytes
    generation: int
    before: Position
    time_us: int

    @property
    def first(self) -> Index:
        return Index(self.before.index + 1)

    @property
    def name(self) -> str:
        return segment_name(self.first)

    def encode(self) -> bytes:
        assert len(self.cluster) == 16
        head = _HEADER.pack(
            _MAGIC,
            _VERSION,
            SEGMENT_HEADER_BYTES,
            0,
            self.cluster,
            self.generation,
            self.first,
            self.before.term,
            self.before.chain,
            self.time_us,
            bytes(12),
        )
        return head + _CRC.pack(google_crc32c.value(head))

    @classmethod
    def decode(cls, data: bytes) -> SegmentHeader:
        """Check and decode; raises :class:`BadEntry` (or :class:`UnknownVersion`)."""
        if len(data) < SEGMENT_HEADER_BYTES:
            raise BadEntry(f"{len(data)} bytes are too few for a segment header")
        head = data[: _HEADER.size]
        magic, version, size, zero, cluster, generation, first, term, chain, time_us, rest = _HEADER.unpack(
            head
        )
        (crc,) = _CRC.unpack_from(data, _HEADER.size)
        if magic != _MAGIC or google_crc32c.value(head) != crc:
            raise BadEntry("the segment header fails its checksum")
        if (version, size, zero, rest) != (_VERSION, SEGMENT_HEADER_BYTES, 0, bytes(12)):
            raise UnknownVersion(f"segment format {version} is not known here")
        if first == 0:
            raise BadEntry("the segment header has no first index")
        before = Position(Term(term), Index(first - 1), chain)
        return cls(cluster=cluster, generation=generation, before=before, time_us=time_us)


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """What retention needs to know of a segment: it holds the entries ``first .. last``."""

    first: Index
    last: Index
    bytes: int
    newest_us: int


def segment_name(first: Index) -> str:
    return f"{first:020d}.seg"


def first_index_of(name: str) -> Index | None:
    """The index in a segment's file name; None when the name is not one of a segment."""
    match = _NAME.match(name)
    return Index(int(match[1])) if match else None
