"""Where a database stands in the log: from what it says inside itself to a position.

A database stores (term, first index, chain before it) of its last transaction; the log
knows where that transaction ends.  Entries that touch no database follow for free.
"""

from __future__ import annotations

from typing import Protocol

from paceline.core.entry import EntryKind
from paceline.ids import DatabasePosition, Index, Position
from paceline.node.anchors import Anchor

__all__ = ["LogKinds", "end_of", "idle_end"]


class LogKinds(Protocol):
    @property
    def base(self) -> Position: ...

    @property
    def last(self) -> Position: ...

    def position_at(self, index: Index) -> Position | None: ...

    def kind_at(self, index: Index) -> EntryKind | None: ...


def end_of(log: LogKinds, database: DatabasePosition | None, anchor: Anchor) -> Index | None:
    """Index of the last entry of the database's last transaction; None when the log does not contain it.

    ``anchor`` ties one database position (None: never written) to a place that the log may not explain itself.
    """
    if database == anchor.database_position:
        return max(anchor.position.index, log.base.index)
    if database is None:
        return None
    before = log.position_at(Index(database.first_index - 1))
    first = log.position_at(database.first_index)
    if before is None or first is None or before.chain != database.prev_chain or first.term != database.term:
        return None
    index = database.first_index
    while log.kind_at(index) is EntryKind.TXN_PART:
        index = Index(index + 1)
    return index if log.kind_at(index) is EntryKind.TXN else None


def idle_end(log: LogKinds, index: Index) -> Index:
    """The furthest index reached from ``index`` without touching the database.

    Parts of a transaction whose last part never came are void as soon as another entry follows them.
    """
    while index < log.last.index:
        ahead = Index(index + 1)
        while log.kind_at(ahead) is EntryKind.TXN_PART:
            ahead = Index(ahead + 1)
        if ahead > log.last.index or log.kind_at(ahead) is EntryKind.TXN:
            break
        index = ahead
    return index
