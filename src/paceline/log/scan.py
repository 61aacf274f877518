"""Read one segment's bytes, check everything, and say how the file ends.

Pure: bytes in, facts out; what to do about them is decided in ``recovery.py``.

When a record fails its check the question is whether these bytes were ever
*durable*.  Three clues answer it, and only together may they lead to a cut:

- No valid record stands after the failure: the end of the last write is
  missing (also when the file ends in zeros).  TORN.
- Valid records follow, but a *mark* among them (``EntryKind.SYNCED``, the
  first record of each write) says that the failing entry had been synced before:
  the bytes rotted.  DAMAGED.
- Valid records follow, no mark vouches, and the failing region has a hole, a
  512-byte sector of zeros: the kernel wrote the sectors of one unsynced write
  out of order before the power went.  TORN_WRITE.  Without a hole: DAMAGED.

A failure in the very last record cannot be told from a torn write; peers that
hold the entry repair that, by the ordinary replication.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

import google_crc32c

from paceline.core.entry import HEADER_BYTES, LOCAL_KINDS_FROM, Entry, EntryKind, decode_entry, record_length
from paceline.errors import BadEntry
from paceline.ids import Index
from paceline.log.segment import SEGMENT_HEADER_BYTES
from paceline.log.table import EntryTable

__all__ = ["LooseLocal", "Scan", "Ending", "scan_segment", "walk"]

SECTOR_BYTES: Final = 512
_RECORD_START: Final = re.compile(rb"(?s)(?=\x00[\x00-\x80].{6}\x01.{5}\x00\x00)")


class Ending(Enum):
    """How the records of a segment file end."""

    WHOLE = "every record is whole"
    TORN = "the last write is not whole"
    TORN_WRITE = "sectors of the last write are missing"
    DAMAGED = "a record is damaged, and later records show that it was durable"
    BROKEN_CHAIN = "an entry does not continue the one before it"
    NEWER = "a record was written by a newer Paceline"
    UNREAD = "the header does not allow reading"


@dataclass(frozen=True, slots=True)
class LooseLocal:
    """A local record that was written after the entry it belongs to, not with it."""

    index: Index
    kind: EntryKind
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Offsets: ``keep`` after the last whole entry, ``at`` the failure, ``synced`` where the last mark is."""

    ending: Ending
    size: int
    keep: int
    at: int
    synced: int
    newest_us: int
    loose: tuple[LooseLocal, ...]
    problem: str = ""


def walk(data: bytes, offset: int = SEGMENT_HEADER_BYTES) -> Iterator[tuple[int, Entry]]:
    """The records one after the other with their offsets; raises :class:`BadEntry` at the first bad one."""
    end = len(data)
    while offset < end:
        entry = _record_at(data, offset)
        yield offset, entry
        offset += len(entry.record)


def _record_at(data: bytes, offset: int) -> Entry:
    if len(data) - offset < HEADER_BYTES:
        raise BadEntry("the file ends in the middle of a record header")
    length = record_length(data, offset)
    if len(data) - offset < length:
        raise BadEntry("the file ends in the middle of a record")
    return decode_entry(data[offset : offset + length])


def scan_segment(data: bytes, table: EntryTable) -> Scan:
    """Check ``data`` from the header on; append its entries to ``table``, which ends where it starts."""
    offset = keep = synced = SEGMENT_HEADER_BYTES
    newest_us = 0
    local: tuple[Index, int] | None = None  # a local record that waits for its entry
    loose: list[LooseLocal] = []
    ending, problem = Ending.WHOLE, ""
    try:
        for offset, entry in walk(data):
            end = offset + len(entry.record)
            if entry.kind < LOCAL_KINDS_FROM:
                if not entry.follows(table.last):
                    ending = Ending.BROKEN_CHAIN
                    problem = f"entry {entry.term}/{entry.index} does not continue {table.last.short}"
                    break
                table.append(entry.position, entry.kind, offset, len(entry.record))
                if local is not None and local[0] == entry.index:
                    table.append_local(*local)
                local, keep = None, end
                newest_us = max(newest_us, entry.time_us)
            elif entry.kind is EntryKind.SYNCED:
                synced, keep = offset, end
            elif entry.index > table.last.index:
                local = entry.index, offset
            else:
                loose.append(LooseLocal(entry.index, entry.kind, bytes(entry.body)))
                keep = end
    except BadEntry as error:
        offset = _failure_offset(data, keep)
        ending, problem = _judge(data, offset, table.last.index), error.message
    else:
        if ending is Ending.WHOLE and keep < len(data):
            ending, offset, problem = Ending.TORN, keep, "a local record without its entry"
    return Scan(
        ending=ending,
        size=len(data),
        keep=keep,
        at=offset,
        synced=synced,
        newest_us=newest_us,
        loose=tuple(loose),
        problem=problem,
    )


def _failure_offset(data: bytes, keep: int) -> int:
    """The first offset from ``keep`` on that holds no valid record (local records may come before it)."""
    end = keep
    try:
        for offset, entry in walk(data, keep):
            end = offset + len(entry.record)
    except BadEntry:
        pass
    return end


def _judge(data: bytes, at: int, last: Index) -> Ending:
    """What the failure at ``at`` means; ``last`` is the last index before it."""
    try:
        length = record_length(data, at) if len(data) - at >= HEADER_BYTES else 0
    except BadEntry:
        length = 0
    if length and at + length <= len(data) and _checksum_holds(data, at, length):
        return Ending.NEWER
    index_max = last + 1 + (len(data) - at) // HEADER_BYTES
    first_valid = None
    for offset, entry in _valid_records(data, at + 1):
        if not last <= entry.index <= index_max:
            continue  # by chance, or inside a body
        if entry.kind is EntryKind.SYNCED and entry.index > last:
            return Ending.DAMAGED
        first_valid = offset if first_valid is None else first_valid
    if first_valid is None:
        return Ending.TORN
    return Ending.TORN_WRITE if _has_hole(data, at, first_valid) else Ending.DAMAGED


def _checksum_holds(data: bytes, offset: int, length: int) -> bool:
    return bool(
        google_crc32c.value(data[offset + 8 : offset + length])
        == int.from_bytes(data[offset + 4 : offset + 8], "big")
    )


def _valid_records(data: bytes, start: int) -> Iterator[tuple[int, Entry]]:
    """Every whole valid record at or after ``start``, wherever it begins."""
    end = len(data.rstrip(b"\0"))
    while (match := _RECORD_START.search(data, start, end)) is not None:
        start = match.start()
        try:
            entry = _record_at(data, start)
        except BadEntry:
            start += 1
        else:
            yield start, entry
            start += len(entry.record)


def _has_hole(data: bytes, at: int, valid: int) -> bool:
    """Whether a sector that ends before ``valid`` is zero from ``at`` on.

    Fewer than four bytes prove nothing: a record's length begins with zeros.
    """
    start = at
    while (end := start - start % SECTOR_BYTES + SECTOR_BYTES) <= valid:
        if end - start >= 4 and not any(data[start:end]):
            return True
        start = end
    return False
