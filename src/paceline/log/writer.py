"""The log lane's side: bring the disk to what the plan says, in an order that any crash may interrupt.

Rules, one for each step (a crash may keep any subset of what is not synced):

- A segment is created under another name, its header synced, then renamed and
  the directory synced: a file with a segment's name always has a whole header.
- A write goes only to a file whose name is durable and after everything
  before it was synced; the next segment is created after the last sync.
- Files are removed one at a time, the directory synced each time (newest first
  in a cut, oldest first in a drop), so that no crash leaves a gap; the cut of
  the file that stays is synced before anything is written behind it, so that
  no removed entry can come back.
- A reset makes one new segment with a higher generation; its rename is the
  moment that decides, older generations are deleted after it.

Errors.  A full disk undoes its own half-done step and raises ``DiskFull``: the
step and those after it stay in the plan.  Every other ``OSError`` is final.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from paceline.core.entry import EntryKind, encode_local
from paceline.errors import DiskFull, LogFailed
from paceline.files import File, Files, Steps
from paceline.ids import Position
from paceline.log.plan import MARK_SLOT, Cut, Plan, Run
from paceline.log.segment import SEGMENT_HEADER_BYTES, SegmentHeader, first_index_of
from paceline.log.vote import VoteFile

__all__ = ["Writer", "encode_mark"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def encode_mark(durable: Position) -> bytes:
    """The record that begins every write: everything up to ``durable`` had been synced before it."""
    return encode_local(EntryKind.SYNCED, durable.term, durable.index, b"", time_us=0)


class Writer:
    """Performs plans; ``durable`` is the end of what it has synced."""

    def __init__(self, files: Files, directory: str, vote: VoteFile | None, durable: Position) -> None:
        self._files = files
        self._directory = directory
        self._vote = vote
        self._open: tuple[str, File] | None = None
        self.durable = durable

    def perform(self, plan: Plan) -> Steps[None]:
        """Take each step out of ``plan`` when it is done; what is appended is handed out to be synced."""
        while plan.drops:
            with self._final("remove", plan.drops[0]):
                self._remove(plan.drops[0])
            plan.drops.pop(0)
        if plan.vote is not None:
            assert self._vote is not None, "the log was opened without a vote file"
            self._vote.save(plan.vote)
            plan.vote = None
        if plan.reset is not None:
            self._reset(plan.reset)
            plan.reset = None
        if plan.cut is not None:
            with self._final("cut", plan.cut.header.name):
                self._cut(plan.cut)
            self.durable = min(self.durable, plan.cut.end, key=lambda end: end.index)
            plan.cut = None
        while plan.runs:
            run = plan.runs[0]
            if run.create:
                self._create(run.header)
                run.create = False
            if run.buffers:
                yield from self._write(run)
            plan.runs.pop(0)

    def _write(self, run: Run) -> Steps[None]:
        mark = encode_mark(self.durable)
        buffers = [mark if buffer is MARK_SLOT else buffer for buffer in run.buffers]
        with self._final("write", run.header.name):
            file = self._file(run.header.name)
            try:
                file.pwritev(buffers, run.offset)
                yield file
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                file.truncate(run.offset)
                file.sync()
                raise _full(self._directory, error) from error
        end = run.end
        if end is not None:
            self.durable = end

    def _create(self, header: SegmentHeader) -> None:
        path = self._path(header.name)
        scratch = path + ".new"
        with self._final("create", header.name):
            self._forget(header.name)
            try:
                file = self._files.open(scratch, create=True)
                try:
                    file.truncate(0)
                    file.pwritev([header.encode()], 0)
                    file.sync()
                finally:
                    file.close()
                self._files.rename(scratch, path)
                self._files.sync_dir(self._directory)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                # A scratch file that stays is removed at the next start.
                raise _full(self._directory, error) from error

    def _reset(self, header: SegmentHeader) -> None:
        self._create(header)
        with self._final("reset", header.name):
            for name in self._files.listdir(self._directory):
                if first_index_of(name) is not None and name != header.name:
                    self._forget(name)
                    self._files.unlink(self._path(name))
            self._files.sync_dir(self._directory)
        self.durable = header.before

    def _cut(self, cut: Cut) -> None:
        for name in cut.later:
            self._remove(name)
        if not self._files.exists(self._path(cut.header.name)):
            return  # planned, and never made
        file = self._file(cut.header.name)
        if file.size() > cut.offset:
            file.truncate(max(cut.offset, SEGMENT_HEADER_BYTES))
            file.sync()

    def _remove(self, name: str) -> None:
        self._forget(name)
        if self._files.exists(self._path(name)):
            self._files.unlink(self._path(name))
            self._files.sync_dir(self._directory)

    def _file(self, name: str) -> File:
        if self._open is None or self._open[0] != name:
            self.close()
            self._open = name, self._files.open(self._path(name))
        return self._open[1]

    def _forget(self, name: str) -> None:
        if self._open is not None and self._open[0] == name:
            self.close()

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    @contextmanager
    def _final(self, what: str, name: str) -> Iterator[None]:
        """Turn an ``OSError`` into :class:`LogFailed`."""
        try:
            yield
        except OSError as error:
            raise LogFailed(
                f"log: cannot {what} {self._path(name)}: {error}",
                hint="the disk may have dropped data: check it, then restart this node",
            ) from error


def _full(directory: str, error: OSError) -> DiskFull:
    return DiskFull(f"no space for the log in {directory}: {error}", hint="free space on that disk")
