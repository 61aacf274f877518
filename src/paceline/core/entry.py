"""One entry of the replicated log, and its record: the same bytes on disk and on the wire.

A record is a fixed header and a body.  It is encoded once, by the leader;
followers check it once, on arrival, and write and forward the same bytes.

    offset size field
    0      4    length of the whole record, header included (big endian, as all)
    4      4    CRC32C of everything after this field
    8      1    record version (1)
    9      1    kind (EntryKind)
    10     2    flags (EntryFlags)
    12     2    database id (0: the only one)
    14     2    zero
    16     8    term
    24     8    index
    32     8    wall-clock time of the leader, microseconds since 1970
    40     16   chain hash
    56     ...  body

    chain = BLAKE2b-128(chain before, bytes 8..40 of the header, body)

Equal chain at an index proves equal history up to it.  Local records (kind >=
0x40) stand in a node's own log beside the entry they belong to; they are never
shipped, and have no place in the chain (their chain field is zero).
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum, IntFlag
from typing import Final

import google_crc32c
import msgspec

from paceline.errors import BadEntry
from paceline.ids import ZERO_CHAIN, Index, Position, Slot, Term
from paceline.limits import ENTRY_BODY_BYTES_MAX

__all__ = [
    "HEADER_BYTES",
    "LOCAL_KINDS_FROM",
    "RECORD_BYTES_MAX",
    "Entry",
    "EntryFlags",
    "EntryKind",
    "decode_entries",
    "decode_entry",
    "encode_entry",
    "encode_local",
    "record_length",
]

_HEADER: Final = struct.Struct(">IIBBHHHQQQ16s")
_COVERED: Final = struct.Struct(">BBHHHQQQ")
HEADER_BYTES: Final = _HEADER.size
RECORD_BYTES_MAX: Final = HEADER_BYTES + ENTRY_BODY_BYTES_MAX
RECORD_VERSION: Final = 1
LOCAL_KINDS_FROM: Final = 0x40
_U32: Final = struct.Struct(">I")

assert HEADER_BYTES == 56


class EntryKind(IntEnum):
    """What an entry does.  Only ``TXN`` and ``TXN_PART`` touch the database."""

    TXN = 1  # a whole transaction, or the last part of one: the commit mark
    TXN_PART = 2  # a part of a transaction; means nothing without its TXN
    NOOP = 3  # first entry of a reign
    CONFIG = 4  # membership and settings
    BARRIER = 5  # every node pins its state here (verify)
    REQUESTS = 0x41  # local: capture mark, then SQL and bindings of the requests in the TXN of this index
    MARK = 0x42  # local: a capture mark alone, written when a reign starts
    SYNCED = 0x43  # local: first record of each write to the log; names the entry durable before that write
    ANSWERS = (
        0x44  # local, in custody only: the durability levels whose requests in this TXN were acknowledged
    )


class EntryFlags(IntFlag):
    NONE = 0
    ZSTD = 1  # the body is compressed


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A decoded record.  ``record`` holds the whole encoded bytes, ``body`` is cut from it on demand."""

    term: Term
    index: Index
    kind: EntryKind
    flags: EntryFlags
    db: int
    time_us: int
    chain: bytes
    record: bytes

    @property
    def body(self) -> memoryview:
        """The body as it stands in the record (compressed when ``flags`` say so)."""
        return memoryview(self.record)[HEADER_BYTES:]

    @property
    def position(self) -> Position:
        return Position(self.term, self.index, self.chain)

    @property
    def next_slot(self) -> Slot:
        """Where the entry after this one goes, in the same term."""
        return Slot(self.term, Index(self.index + 1), self.chain)

    def follows(self, previous: Position) -> bool:
        """Whether this entry's chain hash really continues ``previous``."""
        return self.index == previous.index + 1 and self.chain == _chain(
            previous.chain, self.record[8:40], self.body
        )


def _chain(previous: bytes, covered: bytes, body: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(previous, digest_size=16)
    digest.update(covered)
    digest.update(body)
    return digest.digest()


def encode_entry(
    slot: Slot,
    kind: EntryKind,
    body: bytes,
    *,
    time_us: int,
    flags: EntryFlags = EntryFlags.NONE,
    db: int = 0,
) -> Entry:
    """Build the entry that stands at ``slot``."""
    assert len(body) <= ENTRY_BODY_BYTES_MAX, "split before encoding"
    assert kind < LOCAL_KINDS_FROM
    covered = _COVERED.pack(RECORD_VERSION, kind, flags, db, 0, slot.term, slot.index, time_us)
    chain = _chain(slot.prev_chain, covered, body)
    rest = b"".join((covered, chain, body))
    crc = google_crc32c.value(rest)
    record = b"".join((_U32.pack(8 + len(rest)), _U32.pack(crc), rest))
    return Entry(slot.term, slot.index, kind, flags, db, time_us, chain, record)


def encode_local(
    kind: EntryKind,
    term: Term,
    index: Index,
    body: bytes,
    *,
    time_us: int,
    flags: EntryFlags = EntryFlags.NONE,
) -> bytes:
    """The record of a local note that belongs to the entry at ``index``."""
    assert kind >= LOCAL_KINDS_FROM
    covered = _COVERED.pack(RECORD_VERSION, kind, flags, 0, 0, term, index, time_us)
    rest = b"".join((covered, ZERO_CHAIN, body))
    return b"".join((_U32.pack(8 + len(rest)), _U32.pack(google_crc32c.value(rest)), rest))


def record_length(buffer: bytes | memoryview, offset: int = 0) -> int:
    """Length field at ``offset``; raises :class:`BadEntry` when no record can have it."""
    (length,) = _U32.unpack_from(buffer, offset)
    if not HEADER_BYTES <= length <= RECORD_BYTES_MAX:
        raise BadEntry(f"record length {length} is not between {HEADER_BYTES} and {RECORD_BYTES_MAX}")
    return int(length)


def decode_entry(record: bytes) -> Entry:
    """Check and decode one whole record (also a local one); raises :class:`BadEntry`."""
    if len(record) < HEADER_BYTES:
        raise BadEntry(f"record of {len(record)} bytes is shorter than its header")
    length, crc, version, kind, flags, db, zero, term, index, time_us, chain = _HEADER.unpack_from(record)
    if length != len(record):
        raise BadEntry(f"record says {length} bytes, {len(record)} are there")
    if google_crc32c.value(record[8:]) != crc:
        raise BadEntry(f"record {term}/{index} fails its checksum")
    if version != RECORD_VERSION or zero != 0:
        raise BadEntry(
            f"record version {version} is not known here",
            hint="a newer Paceline wrote it; upgrade this node",
        )
    try:
        known = EntryKind(kind)
    except ValueError:
        raise BadEntry(f"record kind {kind} is not known here") from None
    return Entry(Term(term), Index(index), known, EntryFlags(flags), db, time_us, chain, record)


def decode_entries(buffer: bytes) -> list[Entry]:
    """Check and decode concatenated records, as an append message carries them."""
    entries: list[Entry] = []
    offset, end = 0, len(buffer)
    while offset < end:
        if end - offset < HEADER_BYTES:
            raise BadEntry("records end in the middle of a header")
        length = record_length(buffer, offset)
        if end - offset < length:
            raise BadEntry("records end in the middle of a body")
        entries.append(decode_entry(buffer[offset : offset + length]))
        offset += length
    return entries
