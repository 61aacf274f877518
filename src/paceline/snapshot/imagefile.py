"""A whole image in one file, unit ``n`` at offset ``(n - 1) * unit_bytes``.

Used for ``main.db.incoming`` and for a backup's ``.partial`` file.  Nobody else has
the file open: it gets its real name only when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from paceline.engines.base import UNIT_HASH_BYTES, unit_hash
from paceline.files import File, Files
from paceline.snapshot.shape import Range, Shape
from paceline.snapshot.target import no_space, space_guard, sync_or_discard

__all__ = ["ImageFile"]


class ImageFile:
    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self.path = path
        self._file: File | None = None
        self._shape = Shape(1, 0)
        self._size = 0

    def begin(self, shape: Shape) -> None:
        with space_guard(self.path, shape.total_bytes):
            file = self._opened()
        self._shape = shape
        self._size = file.size()
        if self._size > shape.total_bytes:
            # What a former, larger image left behind its new end must never become part of a database.
            file.truncate(shape.total_bytes)
            self._size = shape.total_bytes
        missing = shape.total_bytes - self._size
        free = self._files.free_bytes(os.path.dirname(self.path))
        if missing > free:
            raise no_space(self.path, missing, free)

    def hashes(self, part: Range) -> bytes:
        size = self._shape.unit_bytes
        offset = (part.first - 1) * size
        if offset + size > self._size:
            return b""
        data = memoryview(self._opened().pread(part.count * size, offset))
        found = b"".join(unit_hash(data[at : at + size]) for at in range(0, len(data) - size + 1, size))
        return found + bytes(part.count * UNIT_HASH_BYTES - len(found))

    def write(self, units: Sequence[tuple[int, bytes]]) -> None:
        size = self._shape.unit_bytes
        file = self._opened()
        start = 0
        with space_guard(self.path, self._shape.total_bytes):
            for end in range(1, len(units) + 1):
                if end < len(units) and units[end][0] == units[end - 1][0] + 1:
                    continue
                file.pwritev([unit for _, unit in units[start:end]], (units[start][0] - 1) * size)
                start = end
        if units:
            self._size = max(self._size, units[-1][0] * size)

    def finish(self) -> None:
        sync_or_discard(self._files, self.path, self._opened())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> File:
        if self._file is None:
            self._file = self._files.open(self.path, create=True)
        return self._file
