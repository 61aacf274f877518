"""Where the process gets its engine from: the one place that the choice of engine is made is above."""

from __future__ import annotations

from typing import Protocol

from paceline.engines.base import Engine
from paceline.ids import DatabasePosition

__all__ = ["Engines"]


class Engines(Protocol):
    """Makes the engine of one data directory."""

    def make(self, cluster: str) -> Engine:
        """The engine for a database of this cluster; not open yet."""
        ...

    def look(self) -> DatabasePosition | None:
        """Where the database that is already here stands (a restored backup); None when no cluster wrote it."""
        ...
