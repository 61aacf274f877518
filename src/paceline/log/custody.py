"""Custody: entries that were taken out of the log are kept here first, whole and durable.

A deposed leader's log may hold entries that the new history does not have.
Before they are truncated, ``keep`` writes them to a file of their own, with
the requests that made them, and syncs it.  The name is made of the range and
its last chain hash, and equal chain means equal history: keeping the same
range twice (after a crash between custody and truncate) gives the same file.

    offset size field
    0      8    magic "PLINECUS"
    8      2    format version (1; big endian, as all)
    10     2    reason bytes (UTF-8)
    12     4    number of entries
    16     8    time of keeping, microseconds since 1970
    24     8    term in which they were taken out
    32     8    first index
    40     8    last index
    48     8    term of the last entry
    56     16   chain hash of the last entry
    72     ...  reason
    ...    4    CRC32C of everything before
    ...    ...  records as in the log: each entry, after its local record if it has one; before it stands
                an ANSWERS record (levels, separated by newlines) when the node that kept it had led that
                reign and so knows whom it acknowledged
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import google_crc32c

from paceline.core.entry import LOCAL_KINDS_FROM, Entry, EntryKind, encode_local
from paceline.errors import BadEntry, UsageError
from paceline.files import Files, write_atomic
from paceline.ids import Index, Position, Term
from paceline.log.scan import walk
from paceline.log.survey import read_whole

__all__ = ["Custody", "CustodyContent", "CustodyItem"]

_HEADER: Final = struct.Struct(">8sHHIQQQQQ16s")
_CRC: Final = struct.Struct(">I")
_MAGIC: Final = b"PLINECUS"
_VERSION: Final = 1
_SUFFIX: Final = ".lost"
_DISCARDED: Final = "discarded"
"""The folder of ranges that a person has dealt with: as they were, out of sight."""
_ID: Final = re.compile(r"^\d{14}-\d{14}-[0-9a-f]{16}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class CustodyItem:
    """One kept range.  A damaged file has only ``id``, ``bytes`` and ``problem``."""

    id: str
    bytes: int
    reason: str = ""
    count: int = 0
    first_index: Index = Index(0)  # noqa: RUF009 - NewType, a plain int
    last: Position | None = None
    time_us: int = 0
    term_now: Term = Term(0)  # noqa: RUF009
    problem: str = ""
    discarded: bool = False


@dataclass(frozen=True, slots=True)
class CustodyContent:
    item: CustodyItem
    entries: list[Entry]
    locals: dict[Index, bytes]
    acknowledged: dict[Index, frozenset[str]] = field(default_factory=dict)
    """By entry: the levels of the requests that were acknowledged (or whose client had stopped waiting); an entry
    of which nobody knows is absent."""


class Custody:
    """The directory of kept ranges.  All calls block on the disk."""

    def __init__(self, files: Files, directory: str) -> None:
        self._files = files
        self._directory = directory

    def keep(
        self,
        reason: str,
        entries: Sequence[Entry],
        locals: Mapping[Index, bytes],
        *,
        acknowledged: Mapping[Index, frozenset[str]],
        time_us: int,
        term_now: Term,
    ) -> str:
        """Keep contiguous ``entries`` with the bodies of their local records; durable on return.

        ``acknowledged``: see :class:`CustodyContent`.
        """
        assert entries, "nothing to keep"
        _check_contiguous(entries)
        id = f"{entries[0].index:014d}-{entries[-1].index:014d}-{entries[-1].chain[:8].hex()}"
        if not self._files.exists(self._directory):
            self._files.mkdir(self._directory)
            self._files.sync_dir(os.path.dirname(self._directory))
        path = self._path(id)
        if not self._is_whole(id):
            write_atomic(self._files, path, _encode(reason, entries, locals, acknowledged, time_us, term_now))
        else:  # kept before a crash, and perhaps only just: visible is not durable
            file = self._files.open(path)
            try:
                file.sync()
            finally:
                file.close()
            self._files.sync_dir(self._directory)
        return id

    def list(self, *, discarded: bool = False) -> list[CustodyItem]:
        """Oldest range first; a damaged file is listed with its ``problem``.  ``discarded``: those, too."""
        kept = _items(self._files, self._directory, discarded=False)
        if discarded:
            known = {item.id for item in kept}
            folder = os.path.join(self._directory, _DISCARDED)
            kept += [item for item in _items(self._files, folder, discarded=True) if item.id not in known]
        return sorted(kept, key=lambda item: item.id)

    def discard(self, id: str) -> None:
        """A person has dealt with this range: move its file aside, durably.  May be repeated."""
        aside = self._path(id, _DISCARDED)
        if not _ID.match(id) or not (self._files.exists(self._path(id)) or self._files.exists(aside)):
            raise _unknown(id)
        folder = os.path.dirname(aside)
        if not self._files.exists(folder):
            self._files.mkdir(folder)
            self._files.sync_dir(self._directory)
        if self._files.exists(self._path(id)):
            # There before it goes from here: a crash in between leaves it in both places, never in none.
            write_atomic(self._files, aside, read_whole(self._files, self._path(id)))
            self._files.unlink(self._path(id))
        self._files.sync_dir(self._directory)

    def load(self, id: str) -> CustodyContent:
        """Everything of one range; raises :class:`BadEntry`, :class:`UsageError` for an unknown id."""
        if not _ID.match(id):
            raise _unknown(id)
        discarded = not self._files.exists(self._path(id))
        path = self._path(id, _DISCARDED) if discarded else self._path(id)
        if not self._files.exists(path):
            raise _unknown(id)
        try:
            content = _decode(id, read_whole(self._files, path))
            return replace(content, item=replace(content.item, discarded=discarded))
        except BadEntry as error:
            raise BadEntry(
                f"custody file {path} is damaged: {error.message}",
                hint="restore it from a backup of this data directory",
            ) from error

    def _is_whole(self, id: str) -> bool:
        if not self._files.exists(self._path(id)):
            return False
        try:
            self.load(id)
        except BadEntry:
            return False  # the same range is at hand: write it again
        return True

    def _path(self, id: str, *folder: str) -> str:
        return os.path.join(self._directory, *folder, id + _SUFFIX)


def _unknown(id: str) -> UsageError:
    return UsageError(f"no lost writes are kept under {id!r}", hint="see `paceline lost list`")


def _items(files: Files, folder: str, *, discarded: bool) -> list[CustodyItem]:
    if not files.exists(folder):
        return []
    items = []
    for name in files.listdir(folder):
        id = name.removesuffix(_SUFFIX)
        if name.endswith(_SUFFIX) and _ID.match(id):
            data = read_whole(files, os.path.join(folder, name))
            try:
                items.append(replace(_decode_header(id, data)[0], discarded=discarded))
            except BadEntry as error:
                items.append(CustodyItem(id=id, bytes=len(data), problem=error.message, discarded=discarded))
    return items


def _check_contiguous(entries: Sequence[Entry]) -> None:
    for before, entry in pairwise(entries):
        if not entry.follows(before.position):
            raise BadEntry(f"entry {entry.index} does not continue entry {before.index}")


def _encode(
    reason: str,
    entries: Sequence[Entry],
    locals: Mapping[Index, bytes],
    acknowledged: Mapping[Index, frozenset[str]],
    time_us: int,
    term_now: Term,
) -> bytes:
    text, last = reason.encode(), entries[-1]
    head = _HEADER.pack(
        _MAGIC,
        _VERSION,
        len(text),
        len(entries),
        time_us,
        term_now,
        entries[0].index,
        last.index,
        last.term,
        last.chain,
    )
    parts = [head + text, _CRC.pack(google_crc32c.value(head + text))]
    for entry in entries:
        levels = acknowledged.get(entry.index)
        if levels is not None:
            told = "\n".join(sorted(levels)).encode()
            parts.append(
                encode_local(EntryKind.ANSWERS, entry.term, entry.index, told, time_us=entry.time_us)
            )
        body = locals.get(entry.index)
        if body is not None:
            parts.append(
                encode_local(EntryKind.REQUESTS, entry.term, entry.index, body, time_us=entry.time_us)
            )
        parts.append(entry.record)
    return b"".join(parts)


def _decode_header(id: str, data: bytes) -> tuple[CustodyItem, int]:
    """The item and the offset of the first record."""
    if len(data) < _HEADER.size + _CRC.size:
        raise BadEntry("the file ends in the middle of its header")
    magic, version, length, count, time_us, term_now, first, last, term, chain = _HEADER.unpack_from(data)
    end = _HEADER.size + length
    if magic != _MAGIC or len(data) < end + _CRC.size:
        raise BadEntry("the header is not one of a custody file")
    if _CRC.unpack_from(data, end)[0] != google_crc32c.value(data[:end]):
        raise BadEntry("the header fails its checksum")
    if version != _VERSION:
        raise BadEntry(f"custody format {version} is not known here")
    item = CustodyItem(
        id=id,
        bytes=len(data),
        reason=data[_HEADER.size : end].decode(),
        count=count,
        first_index=Index(first),
        last=Position(Term(term), Index(last), chain),
        time_us=time_us,
        term_now=Term(term_now),
    )
    return item, end + _CRC.size


def _decode(id: str, data: bytes) -> CustodyContent:
    item, offset = _decode_header(id, data)
    entries: list[Entry] = []
    locals: dict[Index, bytes] = {}
    acknowledged: dict[Index, frozenset[str]] = {}
    for _, entry in walk(data, offset):
        if entry.kind is EntryKind.ANSWERS:
            acknowledged[entry.index] = frozenset(filter(None, bytes(entry.body).decode().split("\n")))
        elif entry.kind >= LOCAL_KINDS_FROM:
            locals[entry.index] = bytes(entry.body)
        else:
            entries.append(entry)
    _check_contiguous(entries)
    if (
        len(entries) != item.count
        or entries[0].index != item.first_index
        or entries[-1].position != item.last
    ):
        raise BadEntry(f"{item.count} entries were kept, {len(entries)} are there")
    return CustodyContent(item, entries, locals, acknowledged)
