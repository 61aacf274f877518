"""The SQLite engine: what the rest of Paceline sees of this package.

A database is in one of two hands.  A *follower* holds SQLite's write lock with
a guard and appends page images below it (``applier``).  A *leader* has one
writing connection (``writer``) and reads back what each commit changed
(``capture``).  ``lead`` and ``follow`` pass it from one to the other; the
receiver checks that it stands exactly where the giver left it, because between
the two locks somebody else may have written.

Everything here belongs to the state lane, except ``query`` and what a pin does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Final

import apsw

from paceline.core.entry import Entry, EntryKind, encode_entry
from paceline.engines.base import Group, GroupResult, Outcome, QueryResult, Value
from paceline.engines.sqlite import plainfile
from paceline.engines.sqlite.applier import Applier
from paceline.engines.sqlite.capture import Capture
from paceline.engines.sqlite.connect import EngineOptions, open_reader
from paceline.engines.sqlite.formats.page import encode
from paceline.engines.sqlite.pin import SnapshotPin
from paceline.engines.sqlite.position import check_cluster, read_position
from paceline.engines.sqlite.reads import Readers
from paceline.engines.sqlite.requests import encode_request_list, encode_requests, requests_record
from paceline.engines.sqlite.statements import Statements
from paceline.engines.sqlite.surplus import surplus
from paceline.engines.sqlite.transactions import Forward, backward
from paceline.engines.sqlite.writer import Writer
from paceline.errors import Corruption, Diverged
from paceline.files import Files, RealFiles
from paceline.ids import ZERO_CHAIN, DatabasePosition, Index, Slot, Term
from paceline.limits import CHECKPOINT_FRAMES

__all__ = ["SqliteEngine"]

_NOWHERE: Final = DatabasePosition(Term(0), Index(1), ZERO_CHAIN)
_MAGIC: Final = b"SQLite format 3\0"
_RETRY_FRAMES: Final = CHECKPOINT_FRAMES // 4
"""After a checkpoint that readers prevented: how much the log may grow before the next attempt."""


class SqliteEngine:
    """Implements ``paceline.engines.base.Engine`` for one SQLite file.

    ``cluster`` names the cluster that the database belongs to; a file of another one is refused.
    """

    def __init__(
        self,
        path: str,
        *,
        cluster: str,
        options: EngineOptions | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        files: Files | None = None,
    ) -> None:
        self.path = path
        self.foreign_commits = 0
        """Commits by other programs that were captured during this engine's reigns."""
        self._cluster = cluster
        self._options = options or EngineOptions()
        self._monotonic = monotonic
        self._files = files or RealFiles()
        self._statements = Statements()
        self._readers = Readers(path, options=self._options, statements=self._statements, monotonic=monotonic)
        self._applier = Applier(
            path, page_size=self._options.page_size, files=self._files, close_reads=self._close_reads
        )
        self._observer: apsw.Connection | None = None
        self._writer: Writer | None = None
        self._capture: Capture | None = None
        self._position: DatabasePosition | None = None
        self._attempt_at_frames = 0

    # opening, closing, changing hands ----------------------------------------

    def open(self) -> DatabasePosition | None:
        """As in the contract.  ``Diverged`` leaves the engine open as a follower, fit for ``pin`` and ``install``."""
        _check_magic(self.path)
        suspicion = self._applier.open()
        try:
            self._observe()
            assert self._observer is not None
            check_cluster(self._observer, self._cluster)
        except BaseException:
            self.close()
            raise
        if suspicion is not None:
            raise Diverged(f"{self.path}: {suspicion}", hint="the node compares its pages with a peer's")
        return self._position

    def close(self) -> None:
        if self._writer is not None:
            self.follow()
        self._readers.close()
        if self._observer is not None:
            self._observer.close(True)
            self._observer = None
        self._applier.close()

    def lead(self, log_end: Index) -> DatabasePosition | None:
        assert self._writer is None, "already leading"
        mark = self._applier.release_for_leading(log_end)
        writer: Writer | None = None
        try:
            writer = Writer(
                self.path,
                options=self._options,
                cluster=self._cluster,
                statements=self._statements,
                monotonic=self._monotonic,
            )
            capture = Capture(self.path, files=self._files)
            capture.attach(writer.connection, mark)
            writer.hold(wait=True)
            if capture.pending() or writer.position() != self._position:
                raise Diverged(
                    f"{self.path} was changed by another program when this node began to lead",
                    hint="no other program may write to this file",
                )
        except BaseException:
            if writer is not None:
                writer.close()
            self._applier.open()
            raise
        self._writer, self._capture = writer, capture
        self._attempt_at_frames = 0
        return self._position

    def follow(self) -> DatabasePosition | None:
        writer, capture = self._writer, self._capture
        assert writer is not None and capture is not None, "not leading"
        self._writer = self._capture = None
        mark = capture.mark()
        capture.detach()
        writer.close()
        self._applier.open()
        self._attempt_at_frames = 0
        self._observe()
        if self._applier.mark != mark:
            raise Diverged(
                f"{self.path} was changed by another program when this node stopped leading",
                hint="no other program may write to this file",
            )
        return self._position

    def _observe(self) -> None:
        """Read the position anew, through a connection that is used for nothing else."""
        if self._observer is None:
            self._observer = open_reader(self.path, self._options)
        self._position = read_position(self._observer)

    # leading -------------------------------------------------------------------

    def run_group(self, group: Group) -> GroupResult:
        writer, capture = self._writer, self._capture
        assert writer is not None and capture is not None, "only a leader runs groups"
        outcomes, changed = writer.run(group)
        writer.hold(wait=False)
        if not changed:
            return GroupResult(None, outcomes, None)
        entry = self._log_change(capture, group, outcomes)
        slot = group.slot
        self._position = DatabasePosition(slot.term, slot.index, slot.prev_chain)
        record = requests_record(
            entry.term,
            entry.index,
            capture.mark(),
            encode_requests(group.requests, outcomes),
            time_us=group.time_us,
        )
        return GroupResult(entry, outcomes, record)

    def _log_change(self, capture: Capture, group: Group, outcomes: list[Outcome]) -> Entry:
        """Entries of what was just committed; all but the last one are emitted."""
        slot = group.slot
        requests = encode_request_list(group.requests, outcomes)
        entry: Entry | None = None
        for delta in capture.changed():
            assert entry is None, "the last part came too early"
            body, flags = encode(delta, requests if delta.last else b"")
            kind = EntryKind.TXN if delta.last else EntryKind.TXN_PART
            made = encode_entry(slot, kind, body, time_us=group.time_us, flags=flags)
            if delta.last:
                entry = made
            else:
                group.emit(made)
                slot = made.next_slot
        assert entry is not None, "the position alone changes a page"
        capture.advance()
        self.foreign_commits += capture.foreign_commits
        return entry

    def capture_mark(self) -> bytes:
        return self._capture.mark() if self._capture is not None else self._applier.mark

    def surplus(self, marks: Iterable[tuple[Index, bytes]]) -> list[Entry]:
        assert self._writer is None, "surplus is asked before leading"
        at = self._position or _NOWHERE
        slot = Slot(at.term, at.first_index, ZERO_CHAIN)
        entries: list[Entry] = []
        for parts in surplus(self.path, marks, self._applier.page_size, self._files):
            for delta in parts:
                body, flags = encode(delta)
                kind = EntryKind.TXN if delta.last else EntryKind.TXN_PART
                entries.append(encode_entry(slot, kind, body, time_us=0, flags=flags))
                slot = entries[-1].next_slot
        return entries

    # following -----------------------------------------------------------------

    def apply(self, entries: Iterable[Entry]) -> DatabasePosition | None:
        assert self._writer is None, "a leader does not apply"
        deltas = Forward(entries)
        self._applier.apply(deltas)
        if deltas.first_index is not None:
            self._observe()
            if self._position is None or self._position.first_index != deltas.first_index:
                raise Diverged(f"after entry {deltas.first_index} the database says {self._position}")
        return self._position

    def undo(self, entries: Iterable[Entry]) -> DatabasePosition | None:
        assert self._writer is None, "a leader does not undo"
        self._applier.undo(backward(entries))
        self._observe()
        return self._position

    def install(
        self, unit_bytes: int, unit_count: int, units: Iterable[tuple[int, bytes]]
    ) -> DatabasePosition | None:
        assert self._writer is None, "a leader does not install"
        self._applier.install(unit_bytes, unit_count, units)
        self._observe()
        assert self._observer is not None
        check_cluster(self._observer, self._cluster)
        return self._position

    def _close_reads(self) -> None:
        """Another page size replaces the file, which only works while nobody reads it."""
        self._readers.reopen()
        if self._observer is not None:
            self._observer.close(True)
            self._observer = None

    # either ----------------------------------------------------------------------

    def checkpoint_due(self) -> bool:
        frames = (self._capture or self._applier).frames
        return frames >= max(CHECKPOINT_FRAMES, self._attempt_at_frames)

    def checkpoint(self, *, force: bool = False) -> Index | None:
        if not force and not self.checkpoint_due():
            return None
        if self._writer is not None and self._capture is not None:
            self._writer.release()
            try:
                emptied = durable = self._capture.checkpoint()
            finally:
                self._writer.hold(wait=False)
        else:
            emptied, durable = self._applier.checkpoint(), True
        frames = (self._capture or self._applier).frames
        self._attempt_at_frames = 0 if emptied else frames + _RETRY_FRAMES
        if not durable or self._position is None:
            return None
        return self._position.first_index

    def position(self) -> DatabasePosition | None:
        return self._position

    def pin(self) -> SnapshotPin:
        try:
            return SnapshotPin(self.path, self._position)
        except (apsw.NotADBError, apsw.CorruptError) as error:
            raise Corruption(f"{self.path}: {error}", hint="the node re-syncs it from the leader") from error

    def query(
        self,
        sql: str,
        args: list[Value] | dict[str, Value],
        *,
        deadline: float | None,
        rows_max: int,
        bytes_max: int,
    ) -> QueryResult:
        return self._readers.query(sql, args, deadline=deadline, rows_max=rows_max, bytes_max=bytes_max)


def _check_magic(path: str) -> None:
    """Refuse what is no database before anything is created beside it."""
    if not os.path.exists(path):
        return
    if plainfile.pread_all(plainfile.descriptor(path), len(_MAGIC), 0) != _MAGIC:
        raise Corruption(
            f"{path}: the file is not a SQLite database, or it is encrypted",
            hint="restore it from a snapshot or a backup",
        )
