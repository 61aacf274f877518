"""Appending page images to the write-ahead log as one transaction, under the guard.

The caller holds the guard (``guard``), so nobody else can write, restart or
recover the log.  Frames go behind the last committed frame, where readers do
not look; the transaction comes into being when the index header is published,
once, at the end.  Any size is streamed: what is kept is one batch of images
and the page numbers.

Why an append can be abandoned before its end: only the last frame carries the
commit mark, and it is written last.  Frames without one are ignored by every
reader and by recovery, and the next append overwrites them; entries of the
index are made only at the commit.

Order at the commit: room in the index (may fail: nothing has happened); the
last batch with the commit mark; index entries; header.  A full disk before the
mark is on disk is a ``DiskFull`` with nothing changed.  Every other failure in
here leaves the log in an unknown state: ``AppendFailed``, the process must end,
and recovery decides.

A new log (no committed frame) begins with a header that is synced before its
first frame: else a power cut could leave old frames under a new header.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from paceline.engines.sqlite.plainfile import descriptor, pread_all, pwrite_all, sync
from paceline.engines.sqlite.walformat import (
    FRAME_HEADER_BYTES,
    WAL_HEADER_BYTES,
    checksum_frames,
    frame_offset,
    lock_page,
    wal_header,
)
from paceline.engines.sqlite.walindex import WalIndex
from paceline.errors import AppendFailed, DiskFull

__all__ = ["Append", "WalWriter"]

CHUNK_BYTES: Final = 1024 * 1024
"""Frames are put together and written in pieces of about this size."""

Images = npt.NDArray[np.uint8]


class WalWriter:
    """Appends to the log of ``path``.  Made anew each time the guard is taken."""

    def __init__(self, path: str, index: WalIndex, page_size: int) -> None:
        self.path = path
        self.page_size = page_size
        self.index = index
        self.header = index.header()
        assert self.header.page_size in (0, page_size), "page size of the log differs"
        self.fd = descriptor(path + "-wal")
        self.salts = self.header.salts if any(self.header.salts) else os.urandom(8)
        """Of the log in use, or of the one that the next append begins."""
        index.clear_leftovers(self.header.frames)

    def begin(self) -> Append:
        return Append(self)

    def sync(self) -> None:
        """Make everything published so far durable.  Never tried again: the kernel forgets what it could not write."""
        with _fatal("sync", full_is_survivable=False):
            sync(self.fd)


class Append:
    """One transaction under way: ``add`` any number of times, then ``commit``; or just drop it."""

    def __init__(self, writer: WalWriter) -> None:
        self._writer = writer
        self._header = writer.header
        self._state = writer.header.checksum
        self._frame = writer.header.frames
        self._lock_page = lock_page(writer.page_size)
        self._held: tuple[Sequence[int], Images] | None = None
        self._written: dict[int, int] = {}
        self.pages: list[int] = []
        """Page of each frame so far, the held batch included."""

    @property
    def first_frame(self) -> int:
        return self._header.frames + 1

    def add(self, pages: Sequence[int], images: Images) -> None:
        """``images``: (len(pages), page_size), one row a page; must not change before ``commit``."""
        assert images.shape == (len(pages), self._writer.page_size)
        assert self._lock_page not in pages and (not pages or min(pages) > 0)
        if not pages:
            return
        if self._held is not None:
            self._flush(*self._held, commit_size=0)
        self._held = (pages, images)
        self.pages.extend(pages)

    def read(self, page: int) -> bytes | None:
        """The image that this append holds for ``page``; None when it holds none."""
        if self._held is not None:
            pages, images = self._held
            for row in range(len(pages) - 1, -1, -1):
                if pages[row] == page:
                    return bytes(images[row].tobytes())
        frame = self._written.get(page)
        if frame is None:
            return None
        size = self._writer.page_size
        return pread_all(self._writer.fd, size, frame_offset(frame, size) + FRAME_HEADER_BYTES)

    @property
    def spilled(self) -> bool:
        """Whether frames have gone to the file already, so that ``read`` is needed."""
        return self._held is not None or bool(self._written)

    def commit(self, page_count: int) -> None:
        """Publish; readers see all pages, and a database of ``page_count`` pages, from now on."""
        assert self._held is not None, "an append without a page"
        assert page_count > 0
        writer = self._writer
        writer.index.reserve(self._header.frames + len(self.pages))
        self._flush(*self._held, commit_size=page_count)
        with _fatal("publication"):
            assert self._frame == self._header.frames + len(self.pages)
            writer.index.append(self._header.frames, self.pages)
            header = self._header.grown(frames=self._frame, page_count=page_count, checksum=self._state)
            writer.index.publish(header)
            writer.header = header

    def _flush(self, pages: Sequence[int], images: Images, *, commit_size: int) -> None:
        if self._frame == 0:
            self._start_log()
        self._held = None
        step = max(1, CHUNK_BYTES // self._writer.page_size)
        for start in range(0, len(pages), step):
            end = min(start + step, len(pages))
            self._write(pages[start:end], images[start:end], commit_size if end == len(pages) else 0)

    def _write(self, pages: Sequence[int], images: Images, commit_size: int) -> None:
        writer = self._writer
        size = writer.page_size
        with _fatal("write of frames"):
            count = len(pages)
            words = np.empty((count, (FRAME_HEADER_BYTES + size) // 4), dtype=np.uint32)
            words[:, 0] = np.array(pages, dtype=">u4").view("<u4")
            words[:, 1] = 0
            words[-1, 1] = int.from_bytes(commit_size.to_bytes(4, "big"), "little")
            words[:, 2:4] = np.frombuffer(self._header.salts, dtype="<u4")
            words[:, 6:] = images.view("<u4")
            states = checksum_frames(words, size, self._state, big_endian=self._header.big_endian)
            words[:, 4:6] = np.array(states, dtype=">u4").view("<u4")
            pwrite_all(writer.fd, words.data.cast("B"), frame_offset(self._frame + 1, size))
            self._state = states[-1]
            self._written.update(zip(pages, range(self._frame + 1, self._frame + count + 1), strict=True))
            self._frame += count

    def _start_log(self) -> None:
        """Write and sync the header of a new log, with the salts that SQLite's index has ready for it."""
        writer = self._writer
        with _fatal("start of a log"):
            info = writer.index.checkpoint_info()
            assert info.backfilled == 0, "an empty log with frames in the file"
            old = pread_all(writer.fd, WAL_HEADER_BYTES, 0)
            sequence = int.from_bytes(old[12:16], "big") + 1 if len(old) == WAL_HEADER_BYTES else 0
            raw, self._state = wal_header(writer.page_size, sequence, writer.salts)
            pwrite_all(writer.fd, raw, 0)
            sync(writer.fd)
            self._header = replace(
                self._header,
                salts=writer.salts,
                big_endian=False,
                page_size=writer.page_size,
                checksum=self._state,
            )


@contextmanager
def _fatal(step: str, *, full_is_survivable: bool = True) -> Iterator[None]:
    """See the module docstring: a full disk is survivable before the publication, nothing else is."""
    try:
        yield
    except BaseException as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full and full_is_survivable:
            raise DiskFull("no space for the write-ahead log", hint="free space on this disk") from error
        raise AppendFailed(
            f"{step} in the write-ahead log failed: {error!r}",
            hint="the node ends; SQLite's recovery decides at the next start",
        ) from error
