"""Taking rows from a cursor within limits.

Rows are counted and weighed as they come, so a huge result stops at its limit
and not in memory.  Bytes are those of texts and blobs, 8 for everything else.
"""

from __future__ import annotations

from typing import Any

import apsw

from paceline.engines.base import Value
from paceline.errors import TooLarge

__all__ = ["RowCursor"]


class RowCursor:
    """A cursor for statements that return rows; knows the columns of an empty result too."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._description: tuple[tuple[str, str | None], ...] = ()
        self._cursor = self._new_cursor()

    def _new_cursor(self) -> apsw.Cursor:
        cursor = self._connection.cursor()
        cursor.exec_trace = self._note
        return cursor

    def _note(self, cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:
        # The only moment at which APSW tells the columns whether or not rows follow.
        self._description = cursor.get_description()
        return True

    def run(self, sql: str, args: Any, *, rows_max: int, bytes_max: int) -> tuple[list[list[Value]], int]:
        """Execute and fetch everything; returns rows and their bytes; raises ``TooLarge`` past a limit."""
        rows: list[list[Value]] = []
        weight = 0
        try:
            for row in self._cursor.execute(sql, args):
                rows.append(list(row))
                for value in row:
                    weight += len(value) if isinstance(value, str | bytes) else 8
                if weight > bytes_max or len(rows) > rows_max:
                    raise _too_large(rows_max if len(rows) > rows_max else bytes_max, len(rows) > rows_max)
        except BaseException:
            # Never leave a statement half-way: it would hold its snapshot open.
            self._cursor.close(True)
            self._cursor = self._new_cursor()
            raise
        return rows, weight

    @property
    def columns(self) -> list[str]:
        return [item[0] for item in self._description]

    @property
    def types(self) -> list[str | None]:
        """Declared types; None for expressions."""
        return [item[1] for item in self._description]


def _too_large(limit: int, rows: bool) -> TooLarge:
    unit = "rows" if rows else "bytes"
    return TooLarge(f"the result has more than {limit} {unit}", hint="add LIMIT, or read in pages")
