"""Small facts beside the log that it can not hold itself, kept in one file.

``base`` is the position of the log's base as it was installed, ``database`` the position that the
database had there, ``memberships`` those in force (index, body) that
entries dropped by retention once held.  Written atomically; damaged means corrupt, never
'start anew'.
"""

from __future__ import annotations

import google_crc32c
import msgspec

from paceline.core.membership import Membership
from paceline.errors import Corruption
from paceline.files import Files, write_atomic
from paceline.ids import DatabasePosition, Index, Position, Term

__all__ = ["Anchor", "load_anchor", "save_anchor"]


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """``database``: (term, first index, chain before) or None for a database no cluster has written."""

    base: str
    database: tuple[int, int, bytes] | None
    memberships: tuple[tuple[int, Membership], ...]

    @property
    def position(self) -> Position:
        return Position.parse(self.base)

    @property
    def database_position(self) -> DatabasePosition | None:
        if self.database is None:
            return None
        term, index, chain = self.database
        return DatabasePosition(Term(term), Index(index), chain)


def pack(position: DatabasePosition | None) -> tuple[int, int, bytes] | None:
    return None if position is None else (position.term, position.first_index, position.prev_chain)


def save_anchor(files: Files, path: str, anchor: Anchor) -> None:
    body = msgspec.json.encode(anchor)
    line = b"%08x %s\n" % (google_crc32c.value(body), body)
    write_atomic(files, path, line)


def load_anchor(files: Files, path: str) -> Anchor | None:
    """None when there is none yet; raises :class:`Corruption` when it cannot be read."""
    if not files.exists(path):
        return None
    file = files.open(path)
    try:
        line = file.pread(file.size(), 0)
    finally:
        file.close()
    crc, _, body = line.rstrip(b"\n").partition(b" ")
    try:
        if int(crc, 16) == google_crc32c.value(body):
            return msgspec.json.decode(body, type=Anchor)
    except ValueError:
        pass
    raise Corruption(
        f"{path} is damaged",
        hint="move this node's data directory away and let the node join again from an empty one",
    )
