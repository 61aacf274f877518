"""A follower's hold on its database: checked apply, undo, install, checkpoint.

Theory of operation.  The guard keeps the write lock, so the only writer is
this object.  What is applied are page deltas: the before-image of each page is
read, its hash compared, the XOR applied, the hash after compared, and the new
images appended to the write-ahead log as one transaction.  Readers in any
process see all of it or nothing.  Nothing is published when any hash differs
(``HashMismatch``): the caller quarantines the node and re-syncs.

Deltas that follow one another are merged first, so a page that changed many
times is written once.  What exceeds ``APPLY_BYTES_MAX`` is streamed to the log
and still published once.

Undo is apply with the deltas inverted, newest first; install appends the units
of a snapshot.  All three go the same way (``_publish``).

``close`` leaves one case open on purpose: when the process must end
(``AppendFailed``) nothing is closed and nothing written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import apsw
import numpy as np

from paceline.engines.sqlite import plainfile, state
from paceline.engines.sqlite.connect import EngineOptions, create_database
from paceline.engines.sqlite.formats.page import PageDelta, check_sequence, merge
from paceline.engines.sqlite.guard import Guard, translate
from paceline.engines.sqlite.mark import Mark
from paceline.engines.sqlite.pagesource import ABSENT, PageSource, page_hash
from paceline.engines.sqlite.walformat import IndexHeader, is_page_size, lock_page
from paceline.engines.sqlite.walindex import WalIndex
from paceline.engines.sqlite.walwriter import Append, WalWriter
from paceline.errors import Corruption, DiskFull, Diverged, HashMismatch, Unavailable
from paceline.files import Files, RealFiles
from paceline.limits import APPLY_BYTES_MAX, APPLY_PAGES_MAX, CHECKPOINT_FRAMES

__all__ = ["Applier"]


class Applier:
    """The follower's side of ``path``; all methods belong to the state lane."""

    def __init__(
        self,
        path: str,
        *,
        page_size: int = 4096,
        files: Files | None = None,
        close_reads: Callable[[], None] = lambda: None,
    ) -> None:
        """``page_size`` is that of a new database; one that exists keeps its own.

        ``close_reads`` is called before the file is replaced by one of another page size, which nobody may read then.
        """
        self.path = path
        self._new_page_size = page_size
        self._files = files or RealFiles()
        self._close_reads = close_reads
        self._guard = Guard(path)
        self._checkpointed = self._attempted = b""
        self._led_from = b""
        """Where the last reign began, until this node applies, undoes or installs."""
        self._led_at = 0
        self._suspicion = ""
        """Why the files are not trusted, until the node re-syncs, applies or leads."""
        self._writer: WalWriter
        self._source: PageSource
        self._index: WalIndex | None = None

    # opening and closing

    def open(self) -> str | None:
        """Create the database when there is none, lock writers out; also the way back from leading.

        Returns why the files must have been written by somebody else while the node was down (the node then
        re-syncs by page hashes), None when there is no sign of it.
        """
        reason = None
        create_database(self.path, EngineOptions(page_size=self._new_page_size), self._files)
        note = state.read_note(self._files, self.path)
        if note is not None:
            if self._index is None:
                reason = state.foreign_write(note, self.path)
            self._checkpointed, self._attempted = note.checkpointed, note.attempted
            self._led_from, self._led_at = note.led_from, note.led_at
        self._guard.take()
        self._attach()
        self._suspicion = reason or ""
        self._note(clean=False)
        return reason

    def release_for_leading(self, log_end: int = 0) -> bytes:
        """Let a writer in; returns the capture mark from which the leader's capture goes on.

        ``log_end``: last index of the node's log.  An idle connection keeps the log's files alive.  ``open`` takes
        the lock back.
        """
        self._writer.sync()
        self._led_from, self._led_at, self._suspicion = self.mark, log_end, ""
        self._note(clean=False)
        self._guard.release()
        return self._led_from

    def close(self) -> None:
        """Checkpoint if possible, note that the close was clean, and let go of the files.

        The plain descriptors stay (``plainfile.forget`` is for whoever knows that no connection is open).
        """
        if self._index is None:
            return
        emptied = False
        with contextlib.suppress(
            Diverged, Unavailable
        ):  # a foreign write is in the note, a full disk in the log
            emptied = self._guard.held and self.checkpoint()
        self._index.close()
        self._index = None
        self._guard.close(remove_log=emptied)
        if emptied:
            self._note(clean=True)

    # facts

    @property
    def page_size(self) -> int:
        return self._source.page_size

    @property
    def page_count(self) -> int:
        return self._source.page_count

    @property
    def frames(self) -> int:
        """Frames in the log, what a checkpoint would empty."""
        return self._writer.header.frames

    @property
    def checkpoint_due(self) -> bool:
        return self._writer.header.frames >= CHECKPOINT_FRAMES

    @property
    def mark(self) -> bytes:
        """Where the log stands, as a capture mark."""
        return Mark.at(self._writer.header, self._source.page_count).encode()

    # changing the database

    def apply(self, deltas: Iterable[PageDelta]) -> None:
        """Apply whole transactions, oldest first, as one atomic step for readers.

        A reign's end is noted first: when the process dies behind the publication, the log in the note's place
        would be another one than the capture marks of that reign speak of.  Nothing is missed by it: whoever
        applies has undone what its own log lacks.
        """
        self._end_reign()
        self._change(deltas)
        self._trust()

    def undo(self, deltas: Iterable[PageDelta]) -> None:
        """Take back whole transactions, newest first (their parts too), as one atomic step for readers.

        Afterwards the reign's end is noted: until then the surplus is found again.
        """
        self._change(_backwards(deltas))
        self._end_reign()
        self._trust()

    def install(self, unit_bytes: int, unit_count: int, units: Iterable[tuple[int, bytes]]) -> None:
        """Bring the database to an image of ``unit_count`` pages; ``units`` are those that differ."""
        if not is_page_size(unit_bytes) or unit_count < 1:
            raise Corruption(f"a snapshot of {unit_count} pages of {unit_bytes} bytes is not a database")
        if unit_bytes != self.page_size:
            self._recreate(unit_bytes)
        append = self._begin()
        absent = lock_page(unit_bytes)
        have = np.zeros(unit_count + 1, dtype=np.bool_)
        have[: self.page_count + 1] = True
        if absent <= unit_count:
            have[absent] = True
        for pages, images in _batches(units, unit_bytes, unit_count, absent):
            have[pages] = True
            append.add(pages, images)
        if not have.all():
            raise Corruption(f"the snapshot lacks page {np.argmin(have)}", hint="start the transfer again")
        self._publish(append, unit_count, {})
        self._end_reign()
        self._trust()

    def checkpoint(self) -> bool:
        """Empty the log into the database file.  True when it was emptied.

        False when readers hold the log (not an error; what could be moved was moved; try again later).
        Either way everything applied so far is durable afterwards.  :class:`Diverged` when somebody wrote.
        """
        before = self._writer.header
        mark = self.mark
        self._attempted = mark if before.frames else b""
        emptied = False
        try:
            self._note(clean=False, moving=True)
            try:
                emptied = self._guard.checkpoint()
            finally:
                if self._guard.held:
                    self._attach_checked(before, emptied=emptied)
        finally:
            self._attempted = b""
        assert self._index is not None
        if before.frames and (emptied or self._index.checkpoint_info().backfilled >= before.frames):
            self._checkpointed = mark
        if not emptied:
            self._writer.sync()
        self._note(clean=False)
        return emptied

    # inside

    def _attach(self) -> None:
        """Read the state of the log anew, under a guard just taken."""
        if self._index is None:
            self._index = WalIndex(self.path)
        header = self._index.header()
        page_size, page_count = plainfile.file_shape(self.path)
        self._writer = WalWriter(self.path, self._index, page_size)
        self._source = PageSource(self.path, page_size)
        if header.frames:
            page_count = header.page_count
        self._source.reset(page_count, self._index.pages(0, header.frames))

    def _begin(self) -> Append:
        """An append under the guard, which a foreign writer may have kept from us after a checkpoint."""
        if not self._guard.held:
            self._guard.take()
            self._attach_checked(self._writer.header, emptied=False)
        return self._writer.begin()

    def _attach_checked(self, before: IndexHeader, *, emptied: bool) -> None:
        """After a checkpoint: the cache stays good when nobody wrote while the guard was away."""
        assert self._index is not None
        now = self._index.header()
        restarted = now.frames == 0 and now.change == before.change
        if not (restarted or now.same_content(before)):
            self._attach()  # a re-sync begins from what is there now
            self._suspicion = "another program wrote to it during a checkpoint"
            self._note(clean=False)
            raise Diverged(
                f"{self.path}: {self._suspicion}",
                hint="no other program may write to a follower's database; the node re-syncs",
            )
        assert restarted or not emptied, "an emptied log with frames"
        self._writer = WalWriter(self.path, self._index, self.page_size)
        if restarted:
            self._source.restart(self.page_count)

    def _note(self, *, clean: bool, moving: bool = False) -> None:
        # A leader's connection chooses the salts of a new log itself, an applier keeps to its own.
        salts = self._writer.salts if self._writer.header.frames or not self._led_from else state.NO_LOG
        state.write_note(
            self._files,
            self.path,
            salts=salts,
            clean=clean,
            checkpointed=self._checkpointed,
            attempted=self._attempted,
            led_from=self._led_from,
            led_at=self._led_at,
            suspicion=self._suspicion,
            moving=moving,
        )

    def _change(self, deltas: Iterable[PageDelta]) -> None:
        append: Append | None = None
        batch: list[PageDelta] = []
        previous: PageDelta | None = None
        fresh: dict[int, tuple[bytes, int]] = {}
        for delta in deltas:
            if append is None:
                self._check_start(delta)
                append = self._begin()
            batch.append(delta)
            pages = sum(map(len, batch))
            # A part of a large transaction gains nothing from merging; it goes straight to the log.
            if not delta.last or pages >= APPLY_PAGES_MAX or pages * delta.page_size >= APPLY_BYTES_MAX:
                fresh = self._stage(append, previous, batch)
                previous, batch = batch[-1], []
        if append is None:
            return
        if batch:
            fresh = self._stage(append, previous, batch)
            previous = batch[-1]
        assert previous is not None and previous.last, "a transaction without its last part"
        self._publish(append, previous.page_count_after, fresh)

    def _check_start(self, delta: PageDelta) -> None:
        if delta.page_size != self.page_size:
            self._recreate(delta.page_size)
        if delta.page_count_before != self.page_count:
            raise HashMismatch(
                f"a transaction from {delta.page_count_before} pages"
                f" does not fit a database of {self.page_count}"
            )

    def _stage(
        self, append: Append, previous: PageDelta | None, batch: list[PageDelta]
    ) -> dict[int, tuple[bytes, int]]:
        """Check and append one batch; returns the new images and their hashes."""
        if previous is not None:
            check_sequence((previous, batch[0]))
        delta = merge(batch)
        page_size = delta.page_size
        pages: list[int] = delta.pages.tolist()
        before = bytearray().join(
            [
                self._before(append, page, digest)
                for page, digest in zip(pages, delta.before.tolist(), strict=True)
            ]
        )
        after = np.frombuffer(before, np.uint64)
        np.bitwise_xor(after, delta.xor.reshape(-1).view(np.uint64), out=after)
        raw = memoryview(before)
        fresh: dict[int, tuple[bytes, int]] = {}
        for row, (page, digest) in enumerate(zip(pages, delta.after.tolist(), strict=True)):
            image = raw[row * page_size : (row + 1) * page_size].tobytes()
            if digest == ABSENT:
                if any(image):
                    raise HashMismatch(
                        f"page {page} is dropped, but its content is not what the leader dropped"
                    )
            elif page_hash(image) != digest:
                raise HashMismatch(
                    f"page {page} has another content after the transaction than on the leader"
                )
            else:
                fresh[page] = (image, digest)
        images = after.view(np.uint8).reshape(len(pages), page_size)
        if len(fresh) < len(pages):
            kept = delta.after != ABSENT
            images, pages = images[kept], delta.pages[kept].tolist()
        append.add(pages, images)
        return fresh

    def _before(self, append: Append, page: int, digest: int) -> bytes:
        if digest == ABSENT:
            return bytes(self.page_size)
        if append.spilled:
            image = append.read(page)
            if image is not None:
                if page_hash(image) != digest:
                    raise HashMismatch(f"page {page} changed twice in a way that does not fit")
                return image
        image, found = self._source.read(page)
        if found != digest:
            raise HashMismatch(f"page {page} is not what the leader had before the transaction")
        return image

    def _publish(self, append: Append, page_count: int, fresh: dict[int, tuple[bytes, int]]) -> None:
        """Commit and move the snapshot on.  ``fresh``: images worth keeping in the cache."""
        if not append.pages:
            if page_count == self.page_count:
                return
            # Only the size changes: the commit mark needs a frame to stand on.
            image, _ = self._source.read(1)
            append.add([1], np.frombuffer(image, np.uint8).reshape(1, -1))
        append.commit(page_count)
        first = append.first_frame
        self._source.advance(page_count, append.pages, range(first, first + len(append.pages)))
        for page, (image, digest) in fresh.items():
            if page <= page_count:
                self._source.put(page, image, digest)

    def _end_reign(self) -> None:
        """Note that no surplus of a reign is left: what stands in the log now is durable, and stays."""
        if self._led_from:
            self._writer.sync()
            before, self._led_from = self._led_from, b""
            try:
                self._note(clean=False)
            except DiskFull:
                self._led_from = before
                raise

    def _trust(self) -> None:
        """A change that fits every page ends a suspicion; the next one does when the disk is full now."""
        if self._suspicion:
            before, self._suspicion = self._suspicion, ""
            try:
                self._note(clean=False)
            except DiskFull:
                self._suspicion = before

    def _recreate(self, page_size: int) -> None:
        """Another page size: only an empty database may be made anew, and only while nobody has it open."""
        first, _ = self._source.read(1)
        if self.page_count > 1 or int.from_bytes(first[103:105], "big"):
            raise HashMismatch(f"the leader's page size is {page_size}, this database has {self.page_size}")
        assert self._index is not None
        self._close_reads()
        self._index.close()
        self._index = None
        self._guard.close(remove_log=True)
        try:
            _remove_unless_open(self.path, self._files)
            create_database(self.path, EngineOptions(page_size=page_size), self._files)
        finally:
            self._guard.take()
            self._attach()


def _remove_unless_open(path: str, files: Files) -> None:
    """Delete an empty database; :class:`Unavailable` when anybody has it open."""
    connection = apsw.Connection(path)
    try:
        # SQLite leaves WAL mode only for the one connection that is alone.
        connection.pragma("journal_mode", "delete")
    except apsw.BusyError:
        raise Unavailable(
            f"{path} must be made anew with another page size, but somebody has it open",
            hint="close the programs that read it",
        ) from None
    except apsw.Error as error:
        raise translate(error, path) from error
    finally:
        connection.close()
    plainfile.forget(path)
    files.unlink(path)


def _backwards(deltas: Iterable[PageDelta]) -> Iterator[PageDelta]:
    """Inverted deltas; each way back ends where the next older transaction's last part begins."""
    waiting: PageDelta | None = None
    for delta in deltas:
        if waiting is not None:
            yield waiting.inverted(last=delta.last)
        else:
            assert delta.last, "undo begins with a transaction's last part"
        waiting = delta
    if waiting is not None:
        yield waiting.inverted(last=True)


def _batches(
    units: Iterable[tuple[int, bytes]], unit_bytes: int, unit_count: int, absent: int
) -> Iterator[tuple[list[int], np.ndarray[tuple[int, int], np.dtype[np.uint8]]]]:
    """Units as batches of bounded size; the lock page's unit is dropped, it has no place in a log."""
    pages: list[int] = []
    images: list[bytes] = []
    for page, image in units:
        if not 1 <= page <= unit_count or len(image) != unit_bytes:
            raise Corruption(f"the snapshot has a unit {page} of {len(image)} bytes")
        if page == absent:
            continue
        pages.append(page)
        images.append(image)
        if len(pages) * unit_bytes >= APPLY_BYTES_MAX:
            yield pages, np.frombuffer(b"".join(images), np.uint8).reshape(len(pages), unit_bytes)
            pages, images = [], []
    if pages:
        yield pages, np.frombuffer(b"".join(images), np.uint8).reshape(len(pages), unit_bytes)
