"""The position that stands inside the database, in the same transaction as the change.

One row: term and first index of the last transaction, the chain hash of the
entry before it, and the cluster that the database belongs to.  (Not the
entry's own hash: its body would contain its own digest.)  The table is made by
the first group that a cluster ever runs, as part of its transaction, so an
imported file stays untouched until then.
"""

from __future__ import annotations

from typing import Any, Final

import apsw

from paceline.engines.sqlite.control import control
from paceline.errors import Corruption, Diverged
from paceline.ids import CHAIN_BYTES, DatabasePosition, Index, Slot, Term

__all__ = ["POSITION_TABLE", "PositionWriter", "check_cluster", "read_position"]

POSITION_TABLE: Final = "_paceline_position"

_CREATE: Final = control(
    f"CREATE TABLE {POSITION_TABLE}(id INTEGER PRIMARY KEY CHECK (id = 1), term INTEGER NOT NULL,"
    " first_index INTEGER NOT NULL, prev_chain BLOB NOT NULL, cluster TEXT NOT NULL)"
)
_INSERT: Final = control(f"INSERT INTO {POSITION_TABLE} VALUES (1, ?, ?, ?, ?)")
_UPDATE: Final = control(
    f"UPDATE {POSITION_TABLE} SET term = ?, first_index = ?, prev_chain = ? WHERE id = 1"
)
_SELECT: Final = control(f"SELECT term, first_index, prev_chain FROM {POSITION_TABLE}")
_CLUSTER: Final = control(f"SELECT cluster FROM {POSITION_TABLE}")
_PRESENT: Final = control(f"SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '{POSITION_TABLE}'")


def _rows(connection: apsw.Connection, sql: str) -> list[tuple[Any, ...]]:
    """Rows of the table, none when there is no such table."""
    try:
        return connection.execute(sql).fetchall()
    except apsw.SQLError:
        if connection.execute(_PRESENT).fetchall():
            raise
        return []


def read_position(connection: apsw.Connection) -> DatabasePosition | None:
    """Where the snapshot that ``connection`` sees stands; None when no cluster ever wrote it."""
    rows = _rows(connection, _SELECT)
    if not rows:
        return None
    term, first_index, prev_chain = rows[0]
    if len(rows) != 1 or not isinstance(prev_chain, bytes) or len(prev_chain) != CHAIN_BYTES:
        raise Corruption(f"{connection.filename}: the table {POSITION_TABLE} is damaged")
    return DatabasePosition(Term(term), Index(first_index), prev_chain)


def check_cluster(connection: apsw.Connection, cluster: str) -> None:
    """Refuse a database that another cluster wrote."""
    rows = _rows(connection, _CLUSTER)
    if rows and rows[0][0] != cluster:
        raise Diverged(
            f"{connection.filename} belongs to cluster {rows[0][0]}, not to {cluster}",
            hint="point the node at its own data directory, or import the file with `paceline restore`",
        )


class PositionWriter:
    """Sets the position inside the open transaction of the writer's connection."""

    def __init__(self, connection: apsw.Connection, cluster: str) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute
        self._cluster = cluster
        self._present = bool(connection.execute(_PRESENT).fetchall())

    def set(self, slot: Slot) -> None:
        if self._present:
            self._execute(_UPDATE, (slot.term, slot.index, slot.prev_chain))
            assert self._connection.changes() == 1, "the position row has vanished"
        else:
            self._execute(_CREATE)
            self._execute(_INSERT, (slot.term, slot.index, slot.prev_chain, self._cluster))

    def committed(self) -> None:
        """The transaction with the last ``set`` has committed, so the table is there."""
        self._present = True
