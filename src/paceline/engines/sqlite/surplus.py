"""What a killed leader left in its database beyond its log.

SQLite commits before the log has the entry, so a leader killed in between comes
back with a database ahead of its log.  And an entry may be several commits
(requests that had to run singly, a VACUUM), of which a power cut may leave the
first ones: the database then says that it stands at that entry, but does not.
The surplus is never cut off: others may have the file open, and somebody may
have read it.  It is read as page deltas, put into custody, and undone like any
entry; what the node's log has is then applied from there.

Where it begins.  The node's log keeps a capture mark beside each entry, and the
note beside the database (``state``) keeps where the last reign began (durable
before the reign) and what the last checkpoint of ours moved.  A node that has
applied as a follower since its last reign has no surplus: what a follower
applies is in its log.  Else, the reign's marks newest first and its beginning
last:

    the current log                         the surplus begins
    is the mark's and reaches it            after the mark
    is the mark's and ends before it        further back: the entry is not whole
    is another, the mark stood at an        with the first frame
    empty one
    is another, a checkpoint of ours        with the first frame: that checkpoint
    emptied the mark's                      ran when the node's log had everything
    is another                              unknown: ``Diverged``
    is that of the beginning, but shorter   nowhere: all of the reign is gone

It can be told apart only while its frames are in the log and the images before
them in the file.  When somebody else (a plain ``sqlite3`` that was the last to
close) has moved the frames into the file the answer is ``Diverged`` too: the node
re-syncs its pages from a peer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, takewhile

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
    path: str, marks: Iterable[tuple[int, bytes]], page_size: int, files: Files | None = None
) -> Iterator[list[PageDelta]]:
    """The transactions behind the last whole entry, oldest first, each as its parts.

    Under the guard (an open ``Applier``), so that nothing moves meanwhile.  ``marks``: see ``Engine.surplus``.
    """
    note = state.read_note(files or RealFiles(), path)
    if note is None or not note.led_from:
        return
    index = WalIndex(path)
    try:
        header = index.header()
        start = _start(marks, note, index)
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


def _start(marks: Iterable[tuple[int, bytes]], note: state.Note, index: WalIndex) -> Mark | None:
    """The mark behind which the surplus begins, None for the start of the log; see the table above."""
    if note.suspicion:
        raise _lost(note.suspicion)
    start = _whole(marks, note, index)
    if index.checkpoint_info().backfilled > (start.frame if start is not None else 0):
        raise _lost("somebody else checkpointed the surplus")
    return start


def _whole(marks: Iterable[tuple[int, bytes]], note: state.Note, index: WalIndex) -> Mark | None:
    header = index.header()
    emptied = {Mark.decode(raw).salts for raw in (note.checkpointed, note.attempted) if raw}
    of_this_reign = takewhile(lambda mark: mark[0] > note.led_at, marks)
    for raw in chain((raw for _, raw in of_this_reign), (note.led_from,)):
        mark = Mark.decode(raw)
        if not mark.frame:
            return None
        if mark.salts != header.salts:
            if mark.salts in emptied:
                return None
            raise _lost("the write-ahead log was restarted")
        if mark.frame < header.frames or (mark.frame == header.frames and mark.checksum == header.checksum):
            return mark
        if mark.frame == header.frames:
            raise _lost("the write-ahead log is another one")
    # Even what was synced before the reign is gone (an earlier sync had failed): nothing of the reign is left.
    return Mark.at(header, header.page_count) if header.frames else None


def _lost(what: str) -> Diverged:
    return Diverged(
        f"{what}: the database's surplus over the log cannot be told apart",
        hint="the node re-syncs its pages from a peer",
    )
