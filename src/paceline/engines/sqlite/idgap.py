"""Ids that lost writes had are not given to other rows.

A leader that is lost may have given out ids that the new history does not know, and systems outside may remember
them.  So the first transaction that a reign writes also moves the counter of each AUTOINCREMENT table on, by more
than the lost leader can have given out (``id_gap``, decision 0011).  It does that in the same SQLite transaction as
the requests: no id of the reign is given out before, and what is rolled back is due again.

An ordinary INTEGER PRIMARY KEY has no counter: SQLite takes the largest id in the table and adds one.  Which tables
that concerns is told (``id_tables``); whoever needs ids that never come again uses AUTOINCREMENT.
"""

from __future__ import annotations

from typing import Any, Final

import apsw

from paceline.engines.sqlite.control import control
from paceline.engines.sqlite.statements import RESERVED_PREFIX, has_word
from paceline.ids import DatabasePosition, Slot

__all__ = ["ID_TABLES_SQL", "IdGap", "id_tables"]

_ID_MAX: Final = 2**63 - 1
_SEQUENCE: Final = control("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'")
_TABLES: Final = control(
    "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 AND sql LIKE '%autoincrement%'"
)
_ADD: Final = control(
    "INSERT INTO sqlite_sequence (name, seq) SELECT ?1, 0"
    " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = ?1)"
)
_MOVE: Final = control(
    "UPDATE sqlite_sequence SET seq = seq + ?1 WHERE typeof(seq) = 'integer' AND seq <= ?2 - ?1"
)

ID_TABLES_SQL: Final = (
    "SELECT name, sql, (SELECT group_concat(lower(type), ',') FROM pragma_table_info(m.name) WHERE pk > 0)"
    " FROM sqlite_schema AS m WHERE type = 'table' AND rootpage > 0 ORDER BY name"
)
"""What :func:`id_tables` wants to know; any reader may ask it."""


class IdGap:
    """Of one writer: knows in which term the database was last written."""

    def __init__(self, connection: apsw.Connection, position: DatabasePosition | None) -> None:
        self._execute = connection.cursor().execute
        self._term = position.term if position is not None else None

    def leave(self, slot: Slot, gap: int) -> None:
        """In the open transaction, before its first request.  A table near the largest id of all is left alone."""
        if not gap or self._term is None or self._term >= slot.term:
            return
        if not self._execute(_SEQUENCE).fetchall():
            return
        for name, sql in self._execute(_TABLES).fetchall():
            if has_word(str(sql), "AUTOINCREMENT"):  # the lost writes may have been its first
                self._execute(_ADD, (name,))
        self._execute(_MOVE, (gap, _ID_MAX))

    def committed(self, slot: Slot) -> None:
        self._term = slot.term


def id_tables(rows: list[list[Any]]) -> list[dict[str, Any]]:
    """Of the rows of ``ID_TABLES_SQL``: each table that gives out ids, and whether ids of lost writes may come again."""
    found = []
    for name, sql, keys in rows:
        if keys != "integer" or name.lower().startswith(("sqlite_", RESERVED_PREFIX)):
            continue
        if has_word(sql, "WITHOUT"):
            continue
        found.append({"table": name, "reused": not has_word(sql, "AUTOINCREMENT")})
    return found
