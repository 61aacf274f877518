"""Read single records back from segment files, each checked against what the index says.

The loop thread's own file handle: it never shares one with the writer.
"""

from __future__ import annotations

import os

from paceline.core.entry import Entry, decode_entry
from paceline.errors import BadEntry
from paceline.files import File, Files
from paceline.ids import Index
from paceline.log.table import EntryTable

__all__ = ["Reader"]


class Reader:
    """Keeps the file that it used last open."""

    def __init__(self, files: Files, directory: str, table: EntryTable) -> None:
        self._files = files
        self._directory = directory
        self._table = table
        self._open: tuple[str, File] | None = None

    def entries(self, name: str, first: int, last: int) -> list[Entry]:
        """Entries ``first .. last``, all in the segment ``name``, by one read."""
        start, _ = self._table.place(Index(first))
        offset, length = self._table.place(Index(last))
        data = self._pread(name, start, offset + length - start)
        found = []
        for index in range(first, last + 1):
            offset, length = self._table.place(Index(index))
            record = data[offset - start : offset - start + length]
            entry = self._decode(name, offset, record, Index(index))
            if entry.position != self._table.position_at(Index(index)):
                raise self._rotten(name, offset, Index(index), "another entry stands there")
            found.append(entry)
        return found

    def local(self, name: str, index: Index) -> Entry | None:
        """The local record in front of the entry ``index``."""
        offset = self._table.local_offset(index)
        if offset is None:
            return None
        data = self._pread(name, offset, self._table.place(index)[0] - offset)
        return self._decode(name, offset, data, index)

    def close(self) -> None:
        """Also when files were removed: the next read opens what is there then."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _decode(self, name: str, offset: int, record: bytes, index: Index) -> Entry:
        try:
            return decode_entry(record)
        except BadEntry as error:
            raise self._rotten(name, offset, index, error.message) from None

    def _rotten(self, name: str, offset: int, index: Index, problem: str) -> BadEntry:
        path = os.path.join(self._directory, name)
        return BadEntry(
            f"log segment {path} was damaged after it was written: "
            f"offset {offset}, index {index} ({problem})",
            hint="the disk is failing; let this node join again from its peers on another disk",
        )

    def _pread(self, name: str, offset: int, size: int) -> bytes:
        if self._open is None or self._open[0] != name:
            self.close()
            self._open = name, self._files.open(os.path.join(self._directory, name))
        return self._open[1].pread(size, offset)
