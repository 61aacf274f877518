"""Work that waits for the next flush: what the disk must still become.  Pure.

The loop thread plans (it decides every offset at once, so that the index in
memory never waits for the disk); the log lane takes the whole plan and
performs it in one fixed order:

    drop old segments -> vote -> reset -> cut -> write the runs

Whatever is planned after a cut or a reset is planned on the shortened log, so
'cut first, then write' is always right; runs that a later cut removes are
taken out of the plan and never reach the disk.  The vote goes first: a vote
without the entries planned before it is harmless, an entry without the vote
before it is not.

After a full disk the rest of the plan comes back and is merged with what was
planned meanwhile; every step may be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from paceline.core.entry import HEADER_BYTES
from paceline.core.hardstate import HardState
from paceline.ids import Position
from paceline.log.segment import SegmentHeader

__all__ = ["MARK_SLOT", "Cut", "Plan", "Run"]

MARK_SLOT: Final = bytes(HEADER_BYTES)
"""Stands in a run where the lane puts the mark of what is durable before the write (``EntryKind.SYNCED``)."""


@dataclass(slots=True)
class Run:
    """Records for one segment, one after the other from ``offset``; the file is made first when ``create``.

    ``end`` is the position after the last entry of the run (None: it has only local records).
    """

    header: SegmentHeader
    offset: int
    create: bool
    buffers: list[bytes] = field(default_factory=list)
    ends: list[Position | None] = field(default_factory=list)
    size: int = 0

    def add(self, buffer: bytes, end: Position | None) -> None:
        self.buffers.append(buffer)
        self.ends.append(end)
        self.size += len(buffer)

    @property
    def end(self) -> Position | None:
        return next((end for end in reversed(self.ends) if end is not None), None)

    def cut(self, offset: int) -> None:
        """Forget the records from ``offset`` of the file on."""
        while self.buffers and self.offset + self.size > offset:
            self.size -= len(self.buffers.pop())
            self.ends.pop()


@dataclass(slots=True)
class Cut:
    """Remove ``later`` (newest first), then cut the file of ``header``; ``end`` is what stays."""

    header: SegmentHeader
    offset: int
    later: list[str]
    end: Position

    @property
    def key(self) -> tuple[int, int]:
        return self.header.first, self.offset


@dataclass(slots=True)
class Plan:
    drops: list[str] = field(default_factory=list)  # oldest first
    vote: HardState | None = None
    reset: SegmentHeader | None = None
    cut: Cut | None = None
    runs: list[Run] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.drops or self.vote or self.reset or self.cut or self.runs)

    @property
    def size(self) -> int:
        return sum(run.size for run in self.runs)

    def run_for(self, header: SegmentHeader, offset: int, *, create: bool) -> Run:
        """The run that ends at ``offset`` of the segment; a new one begins where there is none."""
        if self.runs and not create:
            run = self.runs[-1]
            if run.header is header and run.offset + run.size == offset:
                return run
        self.runs.append(Run(header, offset, create))
        return self.runs[-1]

    def truncate(self, cut: Cut) -> None:
        """Shorten the log to ``cut``: in the plan at once, on disk at the next flush."""
        self._purge(cut)
        if self.cut is None:
            self.cut = cut
        else:
            later = self.cut.later + [name for name in cut.later if name not in self.cut.later]
            lower = min(self.cut, cut, key=lambda each: each.key)
            self.cut = Cut(lower.header, lower.offset, sorted(later, reverse=True), lower.end)

    def _purge(self, cut: Cut) -> None:
        self.runs = [run for run in self.runs if run.header.first <= cut.header.first]
        for run in self.runs:
            if run.header.first == cut.header.first:
                run.cut(cut.offset)
        self.runs = [run for run in self.runs if run.buffers or run.create]

    def restart(self, header: SegmentHeader) -> None:
        """Replace the whole log by one empty segment."""
        self.cut, self.runs, self.reset = None, [], header

    def merge(self, newer: Plan) -> None:
        """Add what was planned while this plan was being performed."""
        self.drops += newer.drops
        self.vote = newer.vote or self.vote
        if newer.reset is not None:
            self.restart(newer.reset)
        elif newer.cut is not None:
            self.truncate(newer.cut)
        self.runs += newer.runs
