"""The log of a node: segments on disk, an index in memory, the latest entries in a cache.

Two threads.  The *loop thread* calls everything except ``flush``; it owns the
index, so an entry is visible (to be sent to peers) from the moment it is
staged.  The *log lane* calls ``flush``, one at a time; it owns the files that
are written.  Between them stands the plan (``plan.py``), swapped under a lock.

What keeps them apart: an entry that is not durable is always in the cache, so
the loop thread reads from files only what the lane will not write again.

``last`` is the end of history as this node knows it, ``durable`` the end of
what survives a power cut; only ``durable`` may be acknowledged.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from paceline.core.entry import LOCAL_KINDS_FROM, Entry, EntryKind, decode_entry
from paceline.core.hardstate import HardState
from paceline.errors import DiskFull, Diverged, LogFailed
from paceline.files import Files, Steps, perform
from paceline.ids import GENESIS, Index, Position
from paceline.limits import LOG_RESERVE_BYTES, LOG_TAIL_CACHE_BYTES, SEGMENT_BYTES
from paceline.log.opening import Opened, RecoveryReport, open_directory
from paceline.log.plan import MARK_SLOT, Cut, Plan
from paceline.log.reader import Reader
from paceline.log.segment import SEGMENT_HEADER_BYTES, SegmentHeader, SegmentInfo
from paceline.log.tail import Tail
from paceline.log.vote import VoteFile
from paceline.log.writer import Writer

__all__ = ["Log", "space_low"]

_Raw = bytes  # inside the class ``bytes`` is a property


@dataclass(slots=True)
class _Segment:
    """``size`` counts what is planned too; ``newest_us`` is the latest time of an entry in it."""

    header: SegmentHeader
    size: int
    newest_us: int


class Log:
    """Made by :meth:`open`.  See the module docstring for who may call what."""

    def __init__(
        self,
        files: Files,
        directory: str,
        opened: Opened,
        *,
        segment_bytes: int,
        tail_cache_bytes: int,
        vote: VoteFile | None,
    ) -> None:
        self._segment_bytes = segment_bytes
        # Owned by the loop thread.
        self._table = opened.table
        self._segments = [_Segment(*segment) for segment in opened.segments]
        self._firsts = [segment.header.first for segment in self._segments]
        self._bytes = sum(segment.size for segment in self._segments)
        self._loose = {local.index: (local.kind, local.body) for local in opened.loose}
        self._tail = Tail(Index(self._table.last.index + 1), tail_cache_bytes)
        self._reader = Reader(files, directory, self._table)
        # Shared, under the lock.  ``_durable`` never exceeds what the index holds.
        self._lock = threading.Lock()
        self._plan = Plan()
        self._durable = self._table.last
        self._in_flight_bytes = 0
        self._cut_meanwhile: Position | None = None
        self._reset_meanwhile = False
        self._failure: LogFailed | None = None
        # Owned by the log lane.
        self._writer = Writer(files, directory, vote, self._durable)

    @classmethod
    def open(
        cls,
        files: Files,
        directory: str,
        *,
        cluster: bytes,
        segment_bytes: int = SEGMENT_BYTES,
        tail_cache_bytes: int = LOG_TAIL_CACHE_BYTES,
        vote: VoteFile | None = None,
        must_exist: bool = False,
    ) -> tuple[Log, RecoveryReport]:
        """Open or create the log in ``directory``.

        Everything is checked and, on return, durable.  Raises ``Corruption``
        (``BadEntry`` for a record) when anything but the unacknowledged end
        fails its checks.  ``must_exist``: a node that has had a log refuses an
        empty directory instead of starting at zero.  ``vote`` is needed for
        ``stage_hard_state``.
        """
        opened = open_directory(files, directory, cluster, must_exist=must_exist)
        log = cls(
            files,
            directory,
            opened,
            segment_bytes=segment_bytes,
            tail_cache_bytes=tail_cache_bytes,
            vote=vote,
        )
        return log, opened.report

    # What is in the log (loop thread).

    @property
    def base(self) -> Position:
        """The position before the first retained entry."""
        return self._table.base

    @property
    def first_index(self) -> Index:
        return Index(self._table.base.index + 1)

    @property
    def last(self) -> Position:
        """The end, staged entries included."""
        return self._table.last

    @property
    def durable(self) -> Position:
        """The end of what is synced.  After ``reset`` and before its flush: nothing (GENESIS)."""
        return self._durable

    @property
    def bytes(self) -> int:
        """Size of the segment files, staged records included."""
        return self._bytes

    @property
    def segments(self) -> int:
        return len(self._segments)

    @property
    def segment_infos(self) -> list[SegmentInfo]:
        """For retention, oldest first; the last one is being written."""
        ends = [Index(first - 1) for first in self._firsts[1:]] + [self.last.index]
        return [
            SegmentInfo(segment.header.first, end, segment.size, segment.newest_us)
            for segment, end in zip(self._segments, ends, strict=True)
        ]

    @property
    def staged_bytes(self) -> int:
        """Records not yet synced, for back-pressure."""
        return self._plan.size + self._in_flight_bytes

    @property
    def pending(self) -> bool:
        """Whether ``flush`` has something to do."""
        return bool(self._plan)

    def position_at(self, index: Index) -> Position | None:
        return self._table.position_at(index)

    def kind_at(self, index: Index) -> EntryKind | None:
        return self._table.kind_at(index)

    def entry(self, index: Index) -> Entry | None:
        if not self.first_index <= index <= self.last.index:
            return None
        if index >= self._tail.first:
            return self._tail[index]
        return self._reader.entries(self._segment_of(index), index, index)[0]

    def entries(self, after: Index, *, bytes_max: int) -> list[Entry]:
        """What follows ``after``, up to ``bytes_max`` of records but at least one entry if there is one."""
        assert after >= self.base.index, f"entries after {after} were dropped"
        found: list[Entry] = []
        index, room = after + 1, bytes_max
        while index < self._tail.first:
            if found and self._table.place(Index(index))[1] > room:
                return found
            until = self._fits_until(index, room)
            batch = self._reader.entries(self._segment_of(index), index, until)
            room -= sum(len(entry.record) for entry in batch)
            found += batch
            index = until + 1
        self._tail.take(index, self.last.index, room, found)
        return found

    def _segment_of(self, index: int) -> str:
        return self._segments[bisect_right(self._firsts, index) - 1].header.name

    def _fits_until(self, index: int, room: int) -> int:
        """The last index to read together with ``index``: not cached, same segment, within ``room``."""
        number = bisect_right(self._firsts, index)
        stop = min([self._tail.first, *self._firsts[number : number + 1]])
        start, _ = self._table.place(Index(index))
        low, high = index, stop - 1
        while low < high:
            middle = (low + high + 1) // 2
            offset, length = self._table.place(Index(middle))
            low, high = (middle, high) if offset + length - start <= room else (low, middle - 1)
        return low

    def local(self, index: Index) -> _Raw | None:
        """The body of the local record that belongs to ``index`` (the one staged with its entry, if any)."""
        record = self._local_record(index)
        if record is not None:
            return _Raw(record.body)
        return self._loose[index][1] if index in self._loose else None

    def locals_back(self, end: Index) -> Iterator[tuple[Index, _Raw]]:
        """The bodies of local records with their indexes, newest first, from the one of ``end`` or before it."""
        loose = [index for index in self._loose if index <= end]
        for index in sorted({*loose, *self._table.local_indexes(end)}, reverse=True):
            if index in self._loose:
                yield index, self._loose[index][1]
            if (record := self._local_record(index)) is not None:
                yield index, _Raw(record.body)

    def _local_record(self, index: Index) -> Entry | None:
        fresh = self._tail.local(index)
        if fresh is not None:
            return decode_entry(fresh)
        if not self.first_index <= index <= self.last.index:
            return None
        return self._reader.local(self._segment_of(index), index)

    # Changes (loop thread): at once in memory, on disk at the next flush.

    def stage(self, entries: Sequence[Entry], locals: Sequence[_Raw] = ()) -> None:
        """Append.  A local record belongs to one of ``entries``, or to an entry already in the log."""
        by_index = {int.from_bytes(record[24:32], "big"): record for record in locals}
        assert len(by_index) == len(locals), "one local record an entry"
        with self._lock:
            last = self.last.index
            for index in sorted(index for index in by_index if index <= last):
                self._stage_loose(by_index.pop(index))
            for entry in entries:
                self._stage_entry(entry, by_index.pop(entry.index, None))
        assert not by_index, "a local record without its entry"
        self._tail.evict(self._durable.index)

    def _stage_loose(self, record: _Raw) -> None:
        decoded = decode_entry(record)
        self._loose[decoded.index] = decoded.kind, _Raw(decoded.body)
        self._place(record, None, None, time_us=0)

    def _stage_entry(self, entry: Entry, local: _Raw | None) -> None:
        assert entry.kind < LOCAL_KINDS_FROM
        if not entry.follows(self.last):
            raise Diverged(f"entry {entry.term}/{entry.index} does not continue {self.last}")
        position = entry.position
        offset = self._place(entry.record, position, local, time_us=entry.time_us)
        if local is None:
            self._table.append(position, entry.kind, offset, len(entry.record))
        else:
            self._table.append(position, entry.kind, offset + len(local), len(entry.record))
            self._table.append_local(entry.index, offset)
        self._tail.append(entry, local)

    def _place(self, record: _Raw, end: Position | None, local: _Raw | None, *, time_us: int) -> int:
        """Plan ``record``, right behind ``local``, in the current segment, or in a new one when it is full."""
        size = len(record) if local is None else len(local) + len(record)
        current = self._segments[-1]
        full = current.size + size > self._segment_bytes and current.header.first <= self.last.index
        if full:
            current = self._add_segment(replace(current.header, before=self.last, time_us=time_us))
        first_of_plan = not self._plan.runs
        run = self._plan.run_for(current.header, current.size, create=full)
        if first_of_plan:
            run.add(MARK_SLOT, None)
            self._grow(current, len(MARK_SLOT))
        offset = current.size
        if local is not None:
            run.add(local, None)
        run.add(record, end)
        self._grow(current, size)
        if time_us > current.newest_us:
            current.newest_us = time_us
        return offset

    def _add_segment(self, header: SegmentHeader) -> _Segment:
        segment = _Segment(header, 0, header.time_us)
        self._segments.append(segment)
        self._firsts.append(header.first)
        self._grow(segment, SEGMENT_HEADER_BYTES)
        return segment

    def _grow(self, segment: _Segment, size: int) -> None:
        segment.size += size
        self._bytes += size

    def stage_hard_state(self, state: HardState) -> None:
        """Save term and vote at the next flush, before entries that are staged later."""
        with self._lock:
            self._plan.vote = state

    def truncate(self, after: Index) -> None:
        """Drop every entry beyond ``after``."""
        assert self.base.index <= after, f"index {after} was dropped"
        if after >= self.last.index:
            return
        with self._lock:
            offset = self._table.group_offset(Index(after + 1))
            keep = bisect_right(self._firsts, after + 1)
            gone = self._segments[keep:]
            del self._segments[keep:], self._firsts[keep:]
            current = self._segments[-1]
            self._bytes -= sum(segment.size for segment in gone) + current.size - offset
            current.size = offset
            self._table.truncate(after)
            end = self._table.last
            later = [segment.header.name for segment in reversed(gone)]
            self._plan.truncate(Cut(current.header, offset, later, end))
            if self._durable.index > after:
                self._durable = end
            if self._cut_meanwhile is None or self._cut_meanwhile.index > after:
                self._cut_meanwhile = end
        self._tail.truncate(after)
        self._keep_loose(lambda index: index <= after)
        self._reader.close()

    def reset(self, base: Position) -> None:
        """Empty the log; it goes on from ``base`` (a snapshot was installed there)."""
        with self._lock:
            old = self._segments[-1].header
            header = replace(old, generation=old.generation + 1, before=base, time_us=0)
            self._segments, self._firsts, self._bytes = [], [], 0
            self._add_segment(header)
            self._table.clear(base)
            self._plan.restart(header)
            self._reset_meanwhile = True
            self._durable = GENESIS
        self._tail.clear(Index(base.index + 1))
        self._loose.clear()
        self._reader.close()

    def drop_before(self, index: Index) -> None:
        """Drop whole segments whose entries are all at or below ``index`` (and durable)."""
        index = min(index, self._durable.index)
        count = bisect_right(self._firsts, index + 1) - 1
        if count <= 0:
            return
        with self._lock:
            gone = self._segments[:count]
            del self._segments[:count], self._firsts[:count]
            self._bytes -= sum(segment.size for segment in gone)
            self._table.drop(self._segments[0].header.before)
            self._plan.drops += [segment.header.name for segment in gone]
        base = self.base.index
        self._tail.drop(base)
        self._keep_loose(lambda index: index >= base)
        self._reader.close()

    def _keep_loose(self, wanted: Callable[[Index], bool]) -> None:
        self._loose = {index: local for index, local in self._loose.items() if wanted(index)}

    # The log lane.

    def flush(self) -> Position:
        """Perform what is planned, as ``flushing`` does, in one go."""
        return perform(self.flushing())

    @property
    def only_appends(self) -> bool:
        """Whether the next flush is one write at the end of a file that is there."""
        plan = self._plan
        more = plan.drops or plan.vote is not None or plan.reset is not None or plan.cut is not None
        return not more and len(plan.runs) == 1 and not plan.runs[0].create

    def flushing(self) -> Steps[Position]:
        """Perform what is planned; returns the durable position (also in ``durable``, which the loop reads).

        Raises ``DiskFull`` (nothing half-written stays; the rest stays planned
        and a later flush tries again) or ``LogFailed`` (the node must stop).
        """
        with self._lock:
            if self._failure is not None:
                raise LogFailed(self._failure.message, hint=self._failure.hint)
            plan, self._plan = self._plan, Plan()
            self._in_flight_bytes = plan.size
            self._cut_meanwhile, self._reset_meanwhile = None, False
        full = None
        try:
            yield from self._writer.perform(plan)
        except DiskFull as error:
            full = error
        except BaseException as error:
            lost = LogFailed(f"a flush of the log was broken off: {error}", hint="restart this node")
            self._failure = error if isinstance(error, LogFailed) else lost
            raise
        with self._lock:
            self._in_flight_bytes = 0
            if full is not None:
                plan.merge(self._plan)
                self._plan = plan
            self._publish()
        if full is not None:
            raise full
        return self._durable

    def _publish(self) -> None:
        """Take over what the writer synced, unless the loop thread dropped it meanwhile."""
        if self._reset_meanwhile or self._plan.reset is not None:
            return
        end, cut = self._writer.durable, self._cut_meanwhile
        self._durable = cut if cut is not None and cut.index < end.index else end

    def close(self) -> None:
        """After the last flush, on any thread.  What was staged and not flushed is lost."""
        self._writer.close()
        self._reader.close()


def space_low(files: Files, directory: str) -> bool:
    """Whether a leader should hand over before the disk is full."""
    return files.free_bytes(directory) < LOG_RESERVE_BYTES
