"""The little SQL that clients of the simulator speak: the same texts for both engines.

``item`` collects unique values (a value that stands there twice was applied twice),
``register`` keeps the last value of a few keys.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ADD", "BAD", "CREATE", "ITEMS", "REGISTERS", "SET", "SHED", "VACUUM", "WEIGH"]

CREATE: Final = (
    "CREATE TABLE IF NOT EXISTS item(id INTEGER PRIMARY KEY, value TEXT)",
    "CREATE TABLE IF NOT EXISTS register(key INTEGER PRIMARY KEY, value TEXT)",
    "CREATE TABLE IF NOT EXISTS ballast(id INTEGER PRIMARY KEY, data BLOB)",
)
ADD: Final = "INSERT INTO item(value) VALUES (?)"
SET: Final = "INSERT INTO register VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value"
WEIGH: Final = "INSERT INTO ballast(data) VALUES (?)"
"""Makes a transaction large enough to be shipped in parts."""
SHED: Final = "DELETE FROM ballast WHERE id % 4 <> ?"
"""Frees pages; with SQLite only."""
VACUUM: Final = "VACUUM"
"""Makes the database smaller and moves every page; with SQLite only."""
BAD: Final = "INSERT INTO nowhere VALUES (1)"
ITEMS: Final = "SELECT value FROM item ORDER BY id"
REGISTERS: Final = "SELECT key, value FROM register ORDER BY key"
