"""What differs from a database that stays in place: the file ``resync.units``.

    header  magic "PLUN", version (2), zero (2), unit size (4), CRC32C of the first 12 bytes (4)
    record  unit number (8), CRC32C of number and data (4), data (unit size)

Big endian.  Records have a fixed size, so a place in the file is a *slot*; a
unit has one slot, overwritten when a newer image changes it.  A slot that
fails its check (torn by a crash) or lies beyond a smaller image is free and is
reused; ``finish`` turns the free ones that remain into empty records (number
0).  Opening reads the whole file and keeps 4 bytes per unit in memory.

The image = the local pin with the staged units laid over it.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import Final

import google_crc32c

from paceline.engines.base import UNIT_HASH_BYTES, Pin, unit_hash
from paceline.errors import Corruption
from paceline.files import File, Files
from paceline.snapshot.shape import Range, Shape
from paceline.snapshot.target import no_space, space_guard, sync_or_discard

__all__ = ["UnitsFile", "read_units"]

_MAGIC: Final = b"PLUN"
_VERSION: Final = 1
_HEADER: Final = struct.Struct(">4sHHI")
_U32: Final = struct.Struct(">I")
_RECORD: Final = struct.Struct(">QI")
_NUMBER: Final = struct.Struct(">Q")
HEADER_BYTES: Final = _HEADER.size + _U32.size
_CHUNK_BYTES: Final = 1024 * 1024


def _header(unit_bytes: int) -> bytes:
    fixed = _HEADER.pack(_MAGIC, _VERSION, 0, unit_bytes)
    return fixed + _U32.pack(google_crc32c.value(fixed))


def _crc(number: int, data: bytes) -> int:
    return int(google_crc32c.extend(google_crc32c.value(_NUMBER.pack(number)), data))


def _record(number: int, data: bytes) -> bytes:
    return _RECORD.pack(number, _crc(number, data)) + data


def _scan(file: File, unit_bytes: int) -> Iterator[tuple[int | None, bytes]]:
    """Every slot in order as (unit number, data); None when the slot fails its check."""
    size = _RECORD.size + unit_bytes
    batch = max(1, _CHUNK_BYTES // size) * size
    offset = HEADER_BYTES
    while chunk := file.pread(batch, offset):
        for at in range(0, len(chunk), size):
            slot = chunk[at : at + size]
            if len(slot) < size:
                yield None, b""
                return
            number, crc = _RECORD.unpack_from(slot)
            data = slot[_RECORD.size :]
            yield (number if _crc(number, data) == crc else None), data
        offset += batch


class UnitsFile:
    """``local`` is a pin of the database as it is, and must stay true until the units are installed."""

    def __init__(self, files: Files, path: str, local: Pin) -> None:
        self._files = files
        self.path = path
        self._local = local
        self._file: File | None = None
        self._shape = Shape(1, 0)
        self._slots = array("I")  # by unit number: its slot + 1, 0 when not staged
        self._free: list[int] = []
        self._end = 0  # slots in the file

    def begin(self, shape: Shape) -> None:
        self._shape = shape
        self._slots = array("I", bytes(4 * (shape.unit_count + 1)))
        self._free, self._end = [], 0
        with space_guard(self.path, shape.total_bytes):
            file = self._opened()
            header = _header(shape.unit_bytes)
            if file.pread(HEADER_BYTES, 0) == header:
                self._load(file)
            else:
                file.truncate(0)
                file.pwritev([header], 0)
        free = self._files.free_bytes(os.path.dirname(self.path))
        if free < shape.unit_bytes * shape.range_units:
            raise no_space(self.path, shape.unit_bytes * shape.range_units, free)

    def _load(self, file: File) -> None:
        for slot, (number, _) in enumerate(_scan(file, self._shape.unit_bytes)):
            self._end = slot + 1
            if number is None or not 1 <= number <= self._shape.unit_count or self._slots[number]:
                self._free.append(slot)
            else:
                self._slots[number] = slot + 1

    def hashes(self, part: Range) -> bytes:
        size = UNIT_HASH_BYTES
        found = bytearray(part.count * size)
        if self._local.unit_bytes == self._shape.unit_bytes:
            here = min(part.count, self._local.unit_count - part.first + 1)
            if here > 0:
                found[: here * size] = self._local.hashes(part.first, here)
        for number in range(part.first, part.first + part.count):
            if slot := self._slots[number]:
                data = self._opened().pread(self._shape.unit_bytes, self._offset(slot - 1) + _RECORD.size)
                at = (number - part.first) * size
                found[at : at + size] = unit_hash(data)
        return bytes(found) if any(found) else b""

    def write(self, units: Sequence[tuple[int, bytes]]) -> None:
        appended: list[bytes] = []
        start = self._end
        file = self._opened()
        with space_guard(self.path, len(units) * self._shape.unit_bytes):
            for number, data in units:
                record = _record(number, data)
                slot = self._slots[number]
                if slot:
                    file.pwritev([record], self._offset(slot - 1))
                elif self._free:
                    slot = self._free.pop() + 1
                    file.pwritev([record], self._offset(slot - 1))
                    self._slots[number] = slot
                else:
                    appended.append(record)
                    self._slots[number] = start + len(appended)
            if appended:
                file.pwritev(appended, self._offset(start))
        self._end = start + len(appended)

    def finish(self) -> None:
        file = self._opened()
        empty = _record(0, bytes(self._shape.unit_bytes))
        with space_guard(self.path, self._shape.unit_bytes):
            for slot in self._free:
                file.pwritev([empty], self._offset(slot))
        sync_or_discard(self._files, self.path, file)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _offset(self, slot: int) -> int:
        return HEADER_BYTES + slot * (_RECORD.size + self._shape.unit_bytes)

    def _opened(self) -> File:
        if self._file is None:
            self._file = self._files.open(self.path, create=True)
        return self._file


def read_units(files: Files, path: str, shape: Shape) -> Iterator[tuple[int, bytes]]:
    """Stream the units of a finished file; raises :class:`Corruption` at the first byte that is not right."""
    file = files.open(path)
    try:
        if file.pread(HEADER_BYTES, 0) != _header(shape.unit_bytes):
            raise _damaged(path)
        for number, data in _scan(file, shape.unit_bytes):
            if number is None or number > shape.unit_count:
                raise _damaged(path)
            if number:
                yield number, data
    finally:
        file.close()


def _damaged(path: str) -> Corruption:
    return Corruption(f"the staged snapshot {path} is damaged", hint="it is fetched again from the leader")
