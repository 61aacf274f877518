"""The image of any page at one snapshot: cache, then write-ahead log, then database file, then zeros.

The snapshot is moved on by its owner (capture or applier) after each
transaction; it never looks at what SQLite may have committed since.  Rules:

- A page beyond the size of the database is absent: zeros, hash 0.  Old bytes
  may linger in the file on one node and not on another, so they must never
  count as a before-image.
- ``stored`` is what SQLite itself would read for a page number, lingering bytes
  included.  Capture needs it for pages that came into the database without
  being written (SQLite does not write free pages).
- The cache holds images with their hashes, newest last, bounded in bytes.
- The map page -> frame costs about 100 bytes for each distinct page in the
  log, 2-3 % of it; a checkpoint empties it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import xxhash

from paceline.engines.sqlite.plainfile import descriptor, pread_all
from paceline.engines.sqlite.walformat import FRAME_HEADER_BYTES, U32Array, frame_offset
from paceline.errors import Corruption
from paceline.limits import PAGE_CACHE_BYTES

__all__ = ["ABSENT", "PageSource", "page_hash"]

ABSENT: Final = 0
"""The hash of a page that does not exist."""


def page_hash(image: bytes | memoryview) -> int:
    """xxh3_64 of the page; never :data:`ABSENT`."""
    return xxhash.xxh3_64_intdigest(image) or 1


class PageSource:
    """Pages of ``database`` at a snapshot.  Not for use by two threads at once."""

    def __init__(self, database: str, page_size: int, *, cache_bytes: int = PAGE_CACHE_BYTES) -> None:
        self.page_size = page_size
        self.page_count = 0
        self._file = descriptor(database)
        self._wal = descriptor(database + "-wal")
        self._frames: dict[int, int] = {}
        self._cache: dict[int, tuple[bytes, int]] = {}
        self._cache_pages_max = cache_bytes // page_size
        self._absent = (bytes(page_size), ABSENT)

    def reset(self, page_count: int, frame_pages: U32Array) -> None:
        """Stand at a log whose frames 1.. hold ``frame_pages``; the cache is emptied."""
        self._cache.clear()
        self.restart(page_count)
        self._frames = dict(zip(frame_pages.tolist(), range(1, len(frame_pages) + 1), strict=True))

    def restart(self, page_count: int) -> None:
        """The log was emptied into the file: same pages, no frames."""
        self.page_count = page_count
        self._frames = {}

    def advance(self, page_count: int, pages: Iterable[int], frames: Iterable[int]) -> None:
        """One more transaction: ``pages`` are now in ``frames``.  Cached images of them are dropped."""
        for page in pages:
            self._cache.pop(page, None)
        self._frames.update(zip(pages, frames, strict=True))
        self.page_count = page_count

    def put(self, page: int, image: bytes, digest: int) -> None:
        """Remember a committed image."""
        cache = self._cache
        cache.pop(page, None)
        cache[page] = (image, digest)
        if len(cache) > self._cache_pages_max:
            del cache[next(iter(cache))]

    def read(self, page: int) -> tuple[bytes, int]:
        """Image and hash; zeros and :data:`ABSENT` for a page beyond the database's size."""
        if page > self.page_count:
            return self._absent
        known = self._cache.pop(page, None)
        if known is not None:
            self._cache[page] = known
            return known
        image = self.stored(page)
        return image, page_hash(image)

    def stored(self, page: int) -> bytes:
        """What SQLite would read for ``page``; zeros where the file ends before it."""
        frame = self._frames.get(page)
        if frame is None:
            image = pread_all(self._file, self.page_size, (page - 1) * self.page_size)
            return image if len(image) == self.page_size else image.ljust(self.page_size, b"\0")
        raw = pread_all(self._wal, FRAME_HEADER_BYTES + self.page_size, frame_offset(frame, self.page_size))
        if len(raw) != FRAME_HEADER_BYTES + self.page_size or int.from_bytes(raw[:4], "big") != page:
            raise Corruption(f"frame {frame} of the write-ahead log does not hold page {page}")
        return raw[FRAME_HEADER_BYTES:]
