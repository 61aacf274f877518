"""Where every retained entry is: the log's index in memory, about 37 bytes an entry.

Columns are compact arrays, so that a million entries cost 37 MB and a position
is found in constant time.  The table knows nothing of files; an offset means
'in the segment that holds this index'.  Local records have their own two
columns, since only a leader writes them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

from paceline.core.entry import EntryKind
from paceline.ids import CHAIN_BYTES, Index, Position, Term

__all__ = ["EntryTable"]


class EntryTable:
    """Rows for the indexes ``base.index + 1 .. last.index``."""

    __slots__ = (
        "_chains",
        "_kinds",
        "_lengths",
        "_local_indexes",
        "_local_offsets",
        "_offsets",
        "_terms",
        "base",
        "last",
    )

    def __init__(self, base: Position) -> None:
        self.clear(base)

    def clear(self, base: Position) -> None:
        self.base = base
        self.last = base
        self._terms = array("Q")
        self._kinds = array("B")
        self._offsets = array("I")
        self._lengths = array("I")
        self._chains = bytearray()
        self._local_indexes = array("Q")
        self._local_offsets = array("I")

    def __len__(self) -> int:
        return len(self._terms)

    def append(self, position: Position, kind: EntryKind, offset: int, length: int) -> None:
        assert position.index == self.last.index + 1
        self._terms.append(position.term)
        self._kinds.append(kind)
        self._offsets.append(offset)
        self._lengths.append(length)
        self._chains += position.chain
        self.last = position

    def append_local(self, index: Index, offset: int) -> None:
        """The local record at ``offset`` belongs to the entry that was appended last."""
        assert index == self.last.index
        self._local_indexes.append(index)
        self._local_offsets.append(offset)

    def position_at(self, index: Index) -> Position | None:
        row = index - self.base.index - 1
        if row == -1:
            return self.base
        if not 0 <= row < len(self._terms):
            return None
        chain = bytes(self._chains[row * CHAIN_BYTES : (row + 1) * CHAIN_BYTES])
        return Position(Term(self._terms[row]), index, chain)

    def kind_at(self, index: Index) -> EntryKind | None:
        row = index - self.base.index - 1
        return EntryKind(self._kinds[row]) if 0 <= row < len(self._terms) else None

    def place(self, index: Index) -> tuple[int, int]:
        """(offset, length) of the entry's record."""
        row = index - self.base.index - 1
        assert 0 <= row < len(self._terms), f"index {index} is not in the log"
        return self._offsets[row], self._lengths[row]

    def local_offset(self, index: Index) -> int | None:
        row = bisect_left(self._local_indexes, index)
        if row < len(self._local_indexes) and self._local_indexes[row] == index:
            return self._local_offsets[row]
        return None

    def local_indexes(self, end: Index) -> list[Index]:
        """Entries up to ``end`` that have a local record."""
        return [Index(index) for index in self._local_indexes[: bisect_right(self._local_indexes, end)]]

    def group_offset(self, index: Index) -> int:
        """Where the entry's own records begin: at its local record if it has one."""
        local = self.local_offset(index)
        return self.place(index)[0] if local is None else local

    def truncate(self, after: Index) -> None:
        """Drop the rows beyond ``after``."""
        last = self.position_at(after)
        assert last is not None, f"index {after} is not in the log"
        rows = after - self.base.index
        del self._terms[rows:], self._kinds[rows:], self._offsets[rows:], self._lengths[rows:]
        del self._chains[rows * CHAIN_BYTES :]
        keep = bisect_left(self._local_indexes, after + 1)
        del self._local_indexes[keep:], self._local_offsets[keep:]
        self.last = last

    def drop(self, base: Position) -> None:
        """Drop the rows up to and including ``base``, which becomes the new base."""
        rows = base.index - self.base.index
        assert 0 <= rows <= len(self)
        del self._terms[:rows], self._kinds[:rows], self._offsets[:rows], self._lengths[:rows]
        del self._chains[: rows * CHAIN_BYTES]
        gone = bisect_left(self._local_indexes, base.index + 1)
        del self._local_indexes[:gone], self._local_offsets[:gone]
        self.base = base
