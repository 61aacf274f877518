"""Images of single pages as they were right after a given log entry.

Theory: the database file (with its ``-wal``) has the images of one applied
transaction; a page entry has, for each page, the XOR of the images before and
after it.  So the image after entry N is the image now, XORed with every later
delta of that page that the database already has (or, for an entry not applied
yet, with the deltas up to N).  The hashes in the entry prove the result; when
they do not match, the log no longer has a delta that is needed, and there is
no image.

The snapshot is held by an open read transaction, so a running node may go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import apsw
import numpy as np

from paceline.core.entry import Entry, EntryKind
from paceline.engines.sqlite.connect import EngineOptions, open_reader
from paceline.engines.sqlite.formats import page as page_format
from paceline.engines.sqlite.formats.page import U8, PageDelta
from paceline.engines.sqlite.pagesource import PageSource, page_hash
from paceline.engines.sqlite.position import read_position
from paceline.engines.sqlite.walindex import WalIndex
from paceline.errors import PacelineError, Unavailable

__all__ = ["Images", "images_after", "open_snapshot"]

_TRIES: Final = 200

Images = dict[int, tuple[bytes, bytes] | None]
"""Page -> (image before, image after); None where they cannot be had."""


def open_snapshot(database: str) -> tuple[apsw.Connection, PageSource, int]:
    """A held snapshot, its pages, and the index where the last transaction in it begins."""
    connection = open_reader(database, EngineOptions())
    try:
        connection.execute(
            "SELECT count(*) FROM sqlite_schema"
        ).fetchall()  # makes the index when it is missing
        for _ in range(_TRIES):
            before = WalIndex(database).header()
            connection.execute("BEGIN")
            position = read_position(connection)
            index = WalIndex(database)
            if index.header() == before:
                # After a restart without frames the index names neither the page size nor the page count.
                source = PageSource(database, connection.pragma("page_size"))
                source.reset(connection.pragma("page_count"), index.pages(0, before.frames))
                return connection, source, position.first_index if position else 0
            connection.execute("ROLLBACK")
        raise Unavailable(f"{database} changes too fast to look at", hint="look at another node")
    except BaseException:
        connection.close()
        raise


def _applied_end(entries: Iterable[tuple[Entry, PageDelta]], first_index: int) -> int:
    """Index of the entry that completes the transaction which begins at ``first_index``."""
    for entry, _ in entries:
        if entry.index >= first_index and entry.kind is EntryKind.TXN:
            return entry.index
    return first_index


def images_after(database: str, index: int, delta: PageDelta, log: Iterable[Entry]) -> Images:
    """The images of ``delta``'s pages around entry ``index``; ``log`` has the entries of this node's log."""
    wanted = {int(number): row for row, number in enumerate(delta.pages)}
    nothing: Images = dict.fromkeys(wanted)
    try:
        connection, source, first_index = open_snapshot(database)
    except (PacelineError, OSError, apsw.Error):
        return nothing
    try:
        if source.page_size != delta.page_size or not first_index:
            return nothing
        now = {number: np.frombuffer(source.read(number)[0], np.uint8).copy() for number in wanted}
    finally:
        connection.close()
    others = [
        (entry, page_format.decode(entry.body, entry.flags))
        for entry in log
        if entry.kind in (EntryKind.TXN, EntryKind.TXN_PART) and entry.index >= min(index, first_index)
    ]
    low, high = sorted((index, _applied_end(others, first_index)))
    for entry, other in others:
        if low < entry.index <= high:
            _xor_pages(now, other)
    return {number: _proved(now[number], delta, row) for number, row in wanted.items()}


def _xor_pages(images: dict[int, U8], delta: PageDelta) -> None:
    for row, number in enumerate(delta.pages):
        image = images.get(int(number))
        if image is not None:
            image ^= delta.xor[row]


def _proved(after: U8, delta: PageDelta, row: int) -> tuple[bytes, bytes] | None:
    """Both images, when they have the hashes that the entry names (0: the page is absent, and zero)."""
    pair = (after ^ delta.xor[row]).tobytes(), after.tobytes()
    for image, expected in zip(pair, (int(delta.before[row]), int(delta.after[row])), strict=True):
        if (page_hash(image) != expected) if expected else any(image):
            return None
    return pair
