"""A pinned image of the whole database, readable from any thread while writers go on.

A connection with an open read transaction holds SQLite's read mark on the
snapshot: no frame up to it can be overwritten, and no later frame can get into
the file.  Its content is not read through SQLite but through plain reads of
frames and file, bounded to the snapshot.

One case needs care: when the whole log was already in the file, SQLite's reader
holds the mark that means 'file only', and a writer may restart the log.  Then
the frames must not be read; the file has everything.

The lock page (at 1 GiB) has no content and reads as zeros.
"""

from __future__ import annotations

import struct
from typing import Final

import apsw
import xxhash

from paceline.engines.base import unit_hash
from paceline.engines.sqlite.plainfile import descriptor, pread_all
from paceline.engines.sqlite.walformat import FRAME_HEADER_BYTES, IndexHeader, frame_offset, lock_page
from paceline.engines.sqlite.walindex import WalIndex
from paceline.errors import Corruption, Unavailable
from paceline.ids import DatabasePosition

__all__ = ["SnapshotPin"]

ATTEMPTS: Final = 100
_SHAPE: Final = struct.Struct("<II")
_DIGEST_PAGES: Final = 256


class SnapshotPin:
    """A :class:`paceline.engines.base.Pin`: made in the state lane, then used by any one thread at a time."""

    def __init__(self, path: str, position: DatabasePosition | None) -> None:
        """``position``: where the database stands now, as the state lane knows it."""
        self.position = position
        self._path = path
        connection = self._connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.set_busy_timeout(5_000)
            # Opens the files of the log, which the index needs.
            self.unit_bytes = int(connection.pragma("page_size"))
            connection.pragma("journal_mode")
            header, self._frames = self._begin()
        except BaseException:
            connection.close()
            raise
        self._file = descriptor(path)
        self._wal = descriptor(path + "-wal")
        self._absent = lock_page(self.unit_bytes)
        self.unit_count = int(connection.pragma("page_count"))
        assert not header.frames or header.page_count == self.unit_count

    def _begin(self) -> tuple[IndexHeader, dict[int, int]]:
        """Open the read transaction; the header that stands before and after it is the one that it sees."""
        index = WalIndex(self._path)
        try:
            for _ in range(ATTEMPTS):
                before = index.header()
                self._connection.execute("BEGIN")
                self._connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
                if index.header() == before:
                    in_file = index.checkpoint_info().backfilled >= before.frames
                    pages = [] if in_file else index.pages(0, before.frames).tolist()
                    return before, {page: frame for frame, page in enumerate(pages, 1)}
                self._connection.execute("ROLLBACK")
        finally:
            index.close()
        raise Unavailable(f"{self._path} is written to so fast that it cannot be pinned")

    def read(self, first: int, count: int) -> list[bytes]:
        """The pages ``first`` .. ``first + count - 1``."""
        if first < 1 or count < 0 or first + count - 1 > self.unit_count:
            raise ValueError(f"units {first}..{first + count - 1} of {self.unit_count}")
        size = self.unit_bytes
        raw = pread_all(self._file, count * size, (first - 1) * size).ljust(count * size, b"\0")
        units: list[bytes] = []
        for page in range(first, first + count):
            frame = self._frames.get(page)
            if page == self._absent:
                units.append(bytes(size))
            elif frame is None:
                at = (page - first) * size
                units.append(raw[at : at + size])
            else:
                units.append(self._read_frame(frame, page))
        return units

    def hashes(self, first: int, count: int) -> bytes:
        return b"".join(map(unit_hash, self.read(first, count)))

    def digest(self) -> bytes:
        whole = xxhash.xxh3_128(_SHAPE.pack(self.unit_bytes, self.unit_count))
        for first in range(1, self.unit_count + 1, _DIGEST_PAGES):
            whole.update(self.hashes(first, min(_DIGEST_PAGES, self.unit_count + 1 - first)))
        return whole.digest()

    def close(self) -> None:
        self._connection.close()

    def _read_frame(self, frame: int, page: int) -> bytes:
        size = self.unit_bytes
        raw = pread_all(self._wal, FRAME_HEADER_BYTES + size, frame_offset(frame, size))
        if len(raw) != FRAME_HEADER_BYTES + size or int.from_bytes(raw[:4], "big") != page:
            raise Corruption(f"frame {frame} of the write-ahead log does not hold page {page}")
        return raw[FRAME_HEADER_BYTES:]
