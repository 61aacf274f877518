"""The shipped SQLite engine in a simulated process."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from paceline.core.entry import Entry
from paceline.engines.base import Group, GroupResult, Outcome, WriteRequest
from paceline.engines.sqlite.engine import SqliteEngine
from paceline.sim.statements import VACUUM
from paceline.sim.world import Violation

__all__ = ["SimSqliteEngine", "read_apart"]


class SimSqliteEngine(SqliteEngine):
    """``ran`` hears of every group, for the oracle; nothing else differs from the shipped engine."""

    def __init__(self, path: str, *, ran: Callable[[Entry, list[WriteRequest]], None], **others: Any) -> None:
        super().__init__(path, **others)
        self._ran = ran

    def run_group(self, group: Group) -> GroupResult:
        result = super().run_group(group)
        if result.entry is not None:
            pairs = zip(group.requests, result.outcomes, strict=True)
            done = [r for r, outcome in pairs if _took_effect(outcome) and not _is_vacuum(r)]
            self._ran(result.entry, done)
        return result

    def abandon(self) -> None:
        """The process is gone: unmap what the kernel would; connections and descriptors go with the workplace."""
        for owner in (self._applier, self._capture):
            index = getattr(owner, "_index", None)
            if index is not None:
                index.close()


def _took_effect(outcome: Outcome) -> bool:
    return outcome.error is None and outcome.repeated_at is None


def _is_vacuum(request: WriteRequest) -> bool:
    """It changes no content, is not remembered under its id, and may be repeated."""
    return request.statements[0][0] == VACUUM


def read_apart(files: Mapping[str, bytes], database: str) -> tuple[list[str], dict[str, str]]:
    """Items and registers as Python's own SQLite recovers them from copies of the database and its log.

    Copies, because two SQLite libraries in one process would take each other's locks away.
    """
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.dirname(database))) as scratch:
        path = os.path.join(scratch, "copy.db")
        for suffix in ("", "-wal"):
            if database + suffix in files:
                with open(path + suffix, "wb") as file:
                    file.write(files[database + suffix])
        with closing(sqlite3.connect(path)) as connection:
            damage = connection.execute("PRAGMA integrity_check").fetchall()
            if damage != [("ok",)]:
                raise Violation("database_is_sound", f"{database}: {damage[:3]}")
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
            if "item" not in tables:
                return [], {}
            items = [value for (value,) in connection.execute("SELECT value FROM item ORDER BY id")]
            registers = {str(k): v for k, v in connection.execute("SELECT key, value FROM register")}
            return items, registers
