"""What a killed leader left in its database beyond its log.

SQLite commits before the log has the entry, so a leader killed in between comes
back with a database ahead of its log.  The surplus is never cut off: others may
have the file open, and somebody may have read it.  It is read as page deltas,
put into custody, and undone like any entry.

Where it begins.  The node's log keeps a capture mark beside each entry, and the
note beside the database (``state``) keeps where the last reign began and what
the last checkpoint of ours moved.  A node that has applied as a follower since
its last reign has no surplus: what a follower applies is in its log.  Else:

    current log is that of                  the surplus begins
    the mark, or the start of the reign     after the later of the two
    neither, but one of them stood at an    with the first frame
    empty log
    neither, but a checkpoint of ours       with the first frame: that checkpoint
    emptied the log of one of them          ran when the node's log had everything
    neither                                 unknown: ``Diverged``

It can be told apart only while its frames are in the log and the images before
them in the file.  When somebody else (a plain ``sqlite3`` that was the last to
close) has moved the frames into the file the answer is ``Diverged`` too: the node
re-syncs its pages from a peer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from paceline.engines.sqlite import state
from paceline.engines.sqlite.capture import Window, commit_frames
from paceline.engines.sqlite.formats.page import PageDelta
from paceline.engines.sqlite.mark import Mark
from paceline.engines.sqlite.pagesource import PageSource
from paceline.engines.sqlite.plainfile import descriptor, file_shape
from paceline.engines.sqlite.walindex import WalIndex
from paceline.errors import Diverged
from paceline.files import Files, RealFiles

__all__ = ["surplus"]


def surplus(
    path: str, mark: bytes | None, page_size: int, files: Files | None = None
) -> Iterator[list[PageDelta]]:
    """The transactions committed after ``mark``, oldest first, each as its parts.

    Under the guard (an open ``Applier``), so that nothing moves meanwhile.  ``mark`` None: the node never led.
    """
    note = state.read_note(files or RealFiles(), path)
    if mark is None or (note is not None and not note.led_from):
        return
    index = WalIndex(path)
    try:
        header = index.header()
        start = _start(Mark.decode(mark), note, index)
        _, file_pages = file_shape(path)
        source = PageSource(path, page_size)
        after = start.frame if start is not None else 0
        source.reset(start.page_count if start is not None else file_pages, index.pages(0, after))
        wal = descriptor(path + "-wal")
        for frame, size in commit_frames(path, page_size, after, header.frames):
            end = replace(header, frames=frame, page_count=size)
            window = Window(wal, index, source, after, end)
            yield list(window.deltas())
            source.advance(size, window.pages, window.frames)
            after = frame
    finally:
        index.close()


def _start(mark: Mark, note: state.Note | None, index: WalIndex) -> Mark | None:
    """The mark behind which the surplus begins, None for the start of the log; see the table above."""
    header = index.header()
    marks = [mark]
    if note is not None:
        if note.suspicion:
            raise _lost(note.suspicion)
        marks.append(Mark.decode(note.led_from))
    here = [known for known in marks if known.frame and known.salts == header.salts]
    start: Mark | None = None
    if here:
        start = max(here, key=lambda known: known.frame)
        if header.frames < start.frame:
            raise _lost("the write-ahead log is shorter than the node's own log remembers")
        if header.frames == start.frame and header.checksum != start.checksum:
            raise _lost("the write-ahead log is another one")
    elif all(known.frame for known in marks):
        emptied = Mark.decode(note.checkpointed) if note is not None and note.checkpointed else None
        if emptied is None or emptied.salts not in [known.salts for known in marks]:
            raise _lost("the write-ahead log was restarted")
    if index.checkpoint_info().backfilled > (start.frame if start is not None else 0):
        raise _lost("somebody else checkpointed the surplus")
    return start


def _lost(what: str) -> Diverged:
    return Diverged(
        f"{what}: the database's surplus over the log cannot be told apart",
        hint="the node re-syncs its pages from a peer",
    )
