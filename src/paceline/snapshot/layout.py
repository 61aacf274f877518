"""Where the files of a snapshot stand in a data directory.

Plans name steps, never paths: a data directory may be moved between two starts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """``directory`` is ``DATA/snapshot``, ``database`` the database file.

    ``companions``: suffixes of what an engine keeps beside it (SQLite: ``-wal``, ``-shm``, ``-journal``);
    stale ones beside a new file would corrupt it.
    """

    directory: str
    database: str
    companions: tuple[str, ...]

    @property
    def incoming(self) -> str:
        """Beside the database: a rename inside one directory is the only one that a power cut cannot halve."""
        return self.database + ".incoming"

    @property
    def units(self) -> str:
        return os.path.join(self.directory, "resync.units")

    @property
    def plan(self) -> str:
        return os.path.join(self.directory, "plan.json")

    @property
    def database_directory(self) -> str:
        return os.path.dirname(self.database)
