"""Proofs by other means: the stopped nodes' files, looked at with ``sqlite3`` and SHA-256 only."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Final

from demo.processes import Failed

__all__ = ["same_bytes", "sha256", "sound_and_complete"]

_MISSING: Final = """
SELECT count(*) FROM acknowledged.departed AS a LEFT JOIN flights AS f ON f.id = a.id
WHERE f.id IS NULL OR f.time_hour <> a.time_hour OR f.carrier <> a.carrier OR f.flight <> a.flight
UNION ALL
SELECT count(*) FROM acknowledged.landed AS a LEFT JOIN flights AS f ON f.id = a.id
WHERE f.arr_time IS NULL
"""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sound_and_complete(database: Path, acknowledged: Path) -> int:
    """Integrity, foreign keys, and every acknowledged flight; returns the number of flights in the file."""
    db = sqlite3.connect(database)
    try:
        # What the node left in the WAL goes into the file, so that the file alone can be hashed.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (verdict,) = db.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise Failed(f"{database}: integrity_check says {verdict}")
        if db.execute("PRAGMA foreign_key_check").fetchone():
            raise Failed(f"{database}: a foreign key is broken")
        db.execute("ATTACH ? AS acknowledged", (str(acknowledged),))
        departed, landed = (count for (count,) in db.execute(_MISSING))
        if departed or landed:
            raise Failed(f"{database}: {departed} acknowledged departures and {landed} landings are missing")
        return int(db.execute("SELECT count(*) FROM flights").fetchone()[0])
    finally:
        db.close()


def same_bytes(databases: dict[str, Path]) -> str:
    """The one SHA-256 that all files have."""
    hashes = {node: sha256(path) for node, path in databases.items()}
    if len(set(hashes.values())) != 1:
        shown = ", ".join(f"{node} {digest[:16]}" for node, digest in hashes.items())
        raise Failed(f"the nodes' files differ: {shown}")
    return next(iter(hashes.values()))
