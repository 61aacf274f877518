"""SQL functions that Paceline adds to its connections.

``paceline_term()`` is the fencing token for systems outside: in a write the term of the entry that the write becomes, in a
read the term in which the newest transaction of the snapshot was written (0: no cluster ever wrote it).  Replicas
never evaluate it: they get the pages.  It may change from one transaction to the next, so it is not *deterministic* in
SQLite's sense (no index, no generated column); it is harmless, so DEFAULT, triggers and views may use it.
"""

from __future__ import annotations

from typing import Final

import apsw

from paceline.ids import DatabasePosition

__all__ = ["TERM_FUNCTION", "TermFunction"]

TERM_FUNCTION: Final = "paceline_term"


class TermFunction:
    """The function on one connection; whoever runs a transaction there sets ``term`` first."""

    __slots__ = ("term",)

    def __init__(self, connection: apsw.Connection) -> None:
        self.term = 0
        connection.create_scalar_function(TERM_FUNCTION, self, 0, flags=apsw.SQLITE_INNOCUOUS)

    def __call__(self, *_: object) -> int:
        return self.term

    def see(self, position: DatabasePosition | None) -> None:
        """A read begins on a snapshot that stands at ``position``."""
        self.term = position.term if position is not None else 0
