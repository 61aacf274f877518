"""A leader's capture: which pages did the transactions since the last mark change, and how.

Theory of operation.  After a commit the index tells which frames are new and
which pages they hold, without reading them.  Of several frames of one page the
last one counts (SQLite spills pages in the middle of a transaction).  Frames
beyond the committed header are never looked at: they are spilled pages of a
transaction that goes on or was rolled back.  The page as it was at the mark
comes from ``PageSource``; both images make the XOR.

What is not in the frames belongs to the delta too:
- pages that the database grew by without writing them (SQLite may leave out the
  content of a page that it frees at once): old bytes may linger there on this
  node only, so they are shipped as they are here;
- pages that the database lost (VACUUM), so that undo can bring them back.

Memory: page numbers and frames of the window as arrays; images for one part
(``PART_RAW_BYTES``) at a time.

Commits of others.  ``foreign_commits`` counts commits in the window that the
attached connection did not make; their pages are part of the delta.  When the
log was restarted over frames that were never captured the delta cannot be made
any more: ``Diverged``.
"""

from __future__ import annotations

from collections.abc import Iterator

import apsw
import numpy as np

from paceline.engines.sqlite import state
from paceline.engines.sqlite.formats.page import PageDelta
from paceline.engines.sqlite.guard import empty_log
from paceline.engines.sqlite.mark import Mark
from paceline.engines.sqlite.pagesource import ABSENT, PageSource, page_hash
from paceline.engines.sqlite.plainfile import descriptor, file_shape, pread_all
from paceline.engines.sqlite.walformat import (
    FRAME_HEADER_BYTES,
    IndexHeader,
    U32Array,
    frame_offset,
    lock_page,
)
from paceline.engines.sqlite.walindex import WalIndex
from paceline.errors import Diverged
from paceline.files import Files, RealFiles
from paceline.limits import CHECKPOINT_FRAMES, PART_RAW_BYTES

__all__ = ["Capture", "Window", "commit_frames"]

_U32 = 0xFFFFFFFF


class Window:
    """The change between a snapshot (``source``) and a later header of the same log."""

    def __init__(self, wal: int, index: WalIndex, source: PageSource, after: int, end: IndexHeader) -> None:
        """``wal``: plain descriptor of the log, whose frames after ``after`` make the change."""
        self._source = source
        self._wal = wal
        self._salts = end.salts
        self._size_before = source.page_count
        self.page_count = end.page_count
        numbers = index.pages(after, end.frames)
        self.pages, self.frames = _last_frames(numbers, after)
        self.single: list[tuple[int, bytes, int]] = []
        """Images and hashes, kept only when the whole change is one part."""

    def deltas(self) -> Iterator[PageDelta]:
        """The parts, at least one when anything changed; pages rise through all of them."""
        pages, frames = self._with_unwritten()
        step = max(1, PART_RAW_BYTES // self._source.page_size)
        for start in range(0, len(pages), step):
            end = min(start + step, len(pages))
            yield self._part(
                pages[start:end], frames[start:end], last=end == len(pages), only=end - start == len(pages)
            )

    def _with_unwritten(self) -> tuple[list[int], list[int]]:
        """All changed pages in order, and the frame of each (0: no frame, -1: dropped)."""
        before, now = self._size_before, self.page_count
        pages, frames = self.pages, self.frames
        absent = lock_page(self._source.page_size)
        if now > before:
            written = set(pages)
            added = [page for page in range(before + 1, now + 1) if page not in written and page != absent]
            pages, frames = pages + added, frames + [0] * len(added)
        if pages and max(pages) > now:
            kept = [(page, frame) for page, frame in zip(pages, frames, strict=True) if page <= now]
            pages, frames = [page for page, _ in kept], [frame for _, frame in kept]
        if now < before:
            dropped = [page for page in range(now + 1, before + 1) if page != absent]
            pages, frames = pages + dropped, frames + [-1] * len(dropped)
        order = sorted(range(len(pages)), key=pages.__getitem__)
        return [pages[at] for at in order], [frames[at] for at in order]

    def _part(self, pages: list[int], frames: list[int], *, last: bool, only: bool) -> PageDelta:
        source = self._source
        images = self._read(pages, frames)
        befores: list[bytes] = []
        hashes_before: list[int] = []
        hashes_after: list[int] = []
        for page, frame, image in zip(pages, frames, images, strict=True):
            before, digest = source.read(page)
            befores.append(before)
            hashes_before.append(digest)
            hashes_after.append(ABSENT if frame < 0 else page_hash(image))
        if only:
            self.single = [
                kept for kept in zip(pages, images, hashes_after, strict=True) if kept[2] != ABSENT
            ]
        xor = np.frombuffer(b"".join(befores), np.uint64) ^ np.frombuffer(b"".join(images), np.uint64)
        return PageDelta(
            page_size=source.page_size,
            page_count_before=self._size_before,
            page_count_after=self.page_count,
            pages=np.array(pages, dtype=np.uint32),
            before=np.array(hashes_before, dtype=np.uint64),
            after=np.array(hashes_after, dtype=np.uint64),
            xor=xor.view(np.uint8).reshape(len(pages), source.page_size),
            last=last,
        )

    def _read(self, pages: list[int], frames: list[int]) -> list[bytes]:
        """The images after the change.  Frames that lie close together are read at once."""
        page_size = self._source.page_size
        frame_size = FRAME_HEADER_BYTES + page_size
        written = [frame for frame in frames if frame > 0]
        raw, first = b"", 0
        if written and max(written) - min(written) < 2 * len(written):
            first = min(written)
            raw = pread_all(
                self._wal, (max(written) - first + 1) * frame_size, frame_offset(first, page_size)
            )
        images: list[bytes] = []
        for page, frame in zip(pages, frames, strict=True):
            if frame < 0:
                images.append(bytes(page_size))
                continue
            if frame == 0:
                images.append(self._source.stored(page))
                continue
            if raw:
                at = (frame - first) * frame_size
                header, image = raw[at : at + 24], raw[at + 24 : at + frame_size]
            else:
                single = pread_all(self._wal, frame_size, frame_offset(frame, page_size))
                header, image = single[:24], single[24:]
            if (
                len(image) != page_size
                or header[8:16] != self._salts
                or int.from_bytes(header[:4], "big") != page
            ):
                raise Diverged(
                    f"frame {frame} of the write-ahead log no longer holds page {page}",
                    hint="another program restarted the log of the leader's database; stop it",
                )
            images.append(image)
        return images


def _last_frames(numbers: U32Array, after: int) -> tuple[list[int], list[int]]:
    """Pages of the window, each with its last frame."""
    if len(numbers) < 512:
        last = {page: frame for frame, page in enumerate(numbers.tolist(), after + 1)}
        return list(last), list(last.values())
    pages, reverse = np.unique(numbers[::-1], return_index=True)
    return pages.tolist(), (after + len(numbers) - reverse).tolist()


def commit_frames(path: str, page_size: int, after: int, last: int) -> list[tuple[int, int]]:
    """Frames in ``after + 1`` .. ``last`` that end a transaction, each with the database's size in pages."""
    wal = descriptor(path + "-wal")
    commits: list[tuple[int, int]] = []
    for frame in range(after + 1, last + 1):
        raw = pread_all(wal, 8, frame_offset(frame, page_size))
        size = int.from_bytes(raw[4:8], "big")
        if size:
            commits.append((frame, size))
    return commits


class Capture:
    """The leader's side of ``path``; all methods belong to the state lane."""

    def __init__(self, path: str, *, files: Files | None = None) -> None:
        self.path = path
        self.foreign_commits = 0
        """Commits in the last captured window that were not ours."""
        self._files = files or RealFiles()
        self._connection: apsw.Connection
        self._index: WalIndex
        self._source: PageSource
        self._mark: Mark
        self._own_commits = 0
        self._window: tuple[Window, IndexHeader] | None = None
        self._checkpointed = self._attempted = self._led_from = b""
        self._led_at = 0

    def attach(self, connection: apsw.Connection, mark: bytes | None) -> None:
        """Capture what is committed after ``mark`` (of ``Applier.release_for_leading``); None: from now on.

        Nothing may be captured from a connection that has a transaction open.
        """
        connection.wal_autocheckpoint(0)
        connection.set_wal_hook(self._committed)
        # Reading makes SQLite open the log, so that its files are there.
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        self._connection = connection
        self._index = WalIndex(self.path)
        self._wal = descriptor(self.path + "-wal")
        header = self._index.header()
        page_size, file_pages = file_shape(self.path)
        self._source = PageSource(self.path, page_size)
        if mark is None:
            self._mark = Mark.at(header, header.page_count if header.frames else file_pages)
        else:
            self._mark = Mark.decode(mark)
            self._check_continues(header)
        self._source.reset(self._mark.page_count, self._index.pages(0, self._mark.frame))
        note = state.read_note(self._files, self.path)
        if note is not None:
            self._checkpointed, self._attempted = note.checkpointed, note.attempted
            self._led_from, self._led_at = note.led_from, note.led_at

    def detach(self) -> None:
        """Stop capturing; the connection stays open."""
        self._connection.set_wal_hook(None)
        self._index.close()

    def mark(self) -> bytes:
        """What has been captured so far, for the log."""
        return self._mark.encode()

    @property
    def frames(self) -> int:
        """Frames in the log as far as it was captured."""
        return self._mark.frame

    @property
    def checkpoint_due(self) -> bool:
        return self._mark.frame >= CHECKPOINT_FRAMES

    def pending(self) -> bool:
        """Whether something was committed that has not been captured."""
        header = self._index.header()
        self._check_continues(header)
        return header.frames > (self._mark.frame if header.salts == self._mark.salts else 0)

    def changed(self) -> Iterator[PageDelta]:
        """The change since the mark in parts; nothing when nothing changed.  ``advance`` after the last part.

        May be asked again from the start, as long as ``advance`` was not called.
        """
        header = self._index.header()
        self._check_continues(header)
        after = self._mark.frame if header.salts == self._mark.salts else 0
        self._window = None
        if header.frames == after:
            return
        if not after:
            # SQLite began the log anew, which it does when all of it is in the file: so are the images before.
            self._source.restart(self._source.page_count)
        window = Window(self._wal, self._index, self._source, after, header)
        yield from window.deltas()
        self._check_file(after)
        self._window = (window, header)

    def advance(self) -> None:
        """The change of the last complete ``changed`` is safe with the caller; go on from there."""
        if self._window is None:
            return
        window, header = self._window
        self.foreign_commits = (header.change - self._mark.change - self._own_commits) & _U32
        self._own_commits = 0
        source = self._source
        restarted = header.salts != self._mark.salts
        source.advance(window.page_count, window.pages, window.frames)
        for page, image, digest in window.single:
            source.put(page, image, digest)
        self._mark = Mark.at(header, window.page_count)
        self._window = None
        if restarted:
            self._note()

    def checkpoint(self) -> bool:
        """Empty the log into the database file, everything captured; True when it was emptied.

        False when readers are in the way, or a foreign commit must be captured first (no error; try again).
        """
        if self._index.header().frames != self._mark.frame:
            return False
        if not self._mark.frame:
            return True
        mark = self._attempted = self.mark()
        try:
            self._note(moving=True)
            emptied = empty_log(self._connection, self.path)
        finally:
            self._attempted = b""
        if emptied or self._index.checkpoint_info().backfilled >= self._mark.frame:
            self._checkpointed = mark
        if not emptied:
            self._note()
            return False
        header = self._index.header()
        self._check_continues(header)
        if header.frames == 0:
            self._source.restart(self._source.page_count)
            self._mark = Mark.at(header, self._source.page_count)
        self._note()
        return True

    def _committed(self, connection: apsw.Connection, name: str, frames: int) -> int:
        self._own_commits += 1
        return apsw.SQLITE_OK

    def _note(self, *, moving: bool = False) -> None:
        state.write_note(
            self._files,
            self.path,
            salts=self._mark.salts if self._mark.frame else state.NO_LOG,
            clean=False,
            checkpointed=self._checkpointed,
            attempted=self._attempted,
            led_from=self._led_from,
            led_at=self._led_at,
            suspicion="",
            moving=moving,
        )

    def _check_file(self, after: int) -> None:
        """Nobody moved uncaptured frames into the file, where the images before them were read."""
        if self._index.checkpoint_info().attempted > after:
            raise Diverged(
                "another program checkpointed commits that were not captured yet",
                hint="only Paceline may checkpoint the leader's database",
            )

    def _check_continues(self, header: IndexHeader) -> None:
        """The header's log is the mark's, or a new one with every commit since the mark in it."""
        mark = self._mark
        if header.salts == mark.salts:
            if header.frames < mark.frame:
                raise Diverged("the write-ahead log is shorter than what was captured of it")
            return
        commits = len(commit_frames(self.path, self._source.page_size, 0, header.frames))
        if (header.change - mark.change) & _U32 != commits:
            raise Diverged(
                "another program restarted the write-ahead log over commits that were not captured",
                hint="only Paceline may write to and checkpoint the leader's database",
            )
