"""Opening SQLite connections: the writer's and the readers', with the same safe settings everywhere.

What lives here: every setting that a connection of Paceline has, as data, and
the one way a new database file comes into being.  Who may use a connection for
what is decided elsewhere (``writer``, ``reads``, ``applier``).

Rules
- WAL mode with ``synchronous=NORMAL``: SQLite may lose the last commits in a
  power cut (the log replays them) but never corrupts the file.
- No automatic checkpoints: a checkpoint may only move what the log has on disk.
- The schema is not trusted and the file is not writable behind SQLite's back.
- A new database is the same bytes on every node.  SQLite writes its own version
  number into the header, so the file is made aside, that number is set to a
  constant, and only the finished file gets its name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import apsw

from paceline.errors import Corruption, PacelineError, UsageError
from paceline.files import Files, RealFiles
from paceline.limits import SQL_BYTES_MAX, STATEMENT_CACHE_COUNT, VALUE_BYTES_MAX

__all__ = ["EngineOptions", "create_database", "open_reader", "open_writer"]

BUSY_MS: Final = 5_000
_VERSION_OFFSET: Final = 96
_VERSION_BYTES: Final = (3_051_003).to_bytes(4, "big")
"""The SQLite version that a new file claims as its writer; any constant would do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Settings of one database; the same on every node of a cluster.

    ``page_size`` counts for new databases only; an imported one keeps its own.
    """

    foreign_keys: bool = False
    page_size: int = 4096
    value_bytes_max: int = VALUE_BYTES_MAX
    cache_bytes: int = 16 * 1024 * 1024
    readers_max: int = 8

    def __post_init__(self) -> None:
        if not 512 <= self.page_size <= 65536 or self.page_size & (self.page_size - 1):
            raise UsageError(f"page_size {self.page_size} is not a power of two from 512 to 65536")


_DBCONFIG: Final = (
    (apsw.SQLITE_DBCONFIG_DEFENSIVE, 1),
    (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, 0),
    (apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1),
)


def open_writer(path: str, options: EngineOptions) -> apsw.Connection:
    """The leader's connection to an existing database in WAL mode."""
    return _open(path, options, apsw.SQLITE_OPEN_READWRITE)


def open_reader(path: str, options: EngineOptions) -> apsw.Connection:
    """A connection that cannot write; safe to use from any one thread at a time."""
    connection = _open(path, options, apsw.SQLITE_OPEN_READONLY)
    connection.pragma("query_only", True)
    return connection


def _open(path: str, options: EngineOptions, flags: int) -> apsw.Connection:
    try:
        connection = apsw.Connection(path, flags=flags, statementcachesize=STATEMENT_CACHE_COUNT)
    except apsw.CantOpenError as error:
        raise UsageError(f"cannot open {path}: {error}") from error
    try:
        _configure(connection, path, options)
    except (apsw.Error, PacelineError):
        connection.close()
        raise
    return connection


def _configure(connection: apsw.Connection, path: str, options: EngineOptions) -> None:
    connection.set_busy_timeout(BUSY_MS)
    for setting, value in _DBCONFIG:
        connection.config(setting, value)
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, options.value_bytes_max)
    connection.limit(apsw.SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES_MAX)
    connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 1)  # VACUUM itself attaches one
    try:
        mode = connection.pragma("journal_mode")
    except apsw.NotADBError as error:
        raise Corruption(
            f"{path}: the file is not a SQLite database, or it is encrypted",
            hint="check the path; an encrypted database must be decrypted before it is imported",
        ) from error
    except apsw.CorruptError as error:
        raise Corruption(f"{path}: {error}", hint="restore it from a snapshot or a backup") from error
    if mode != "wal":
        raise UsageError(
            f"{path} is in journal mode {mode}, not wal", hint="bring it in with `paceline restore`"
        )
    connection.wal_autocheckpoint(0)
    connection.pragma("synchronous", "normal")
    connection.pragma("foreign_keys", options.foreign_keys)
    connection.pragma("recursive_triggers", False)
    connection.pragma("cell_size_check", True)
    connection.pragma("cache_size", -(options.cache_bytes // 1024))


def create_database(path: str, options: EngineOptions, files: Files | None = None) -> None:
    """Make an empty database in WAL mode at ``path``; does nothing when a file is there.

    The bytes depend on ``page_size`` alone, so that all nodes start equal.
    """
    files = files or RealFiles()
    if files.exists(path):
        return
    scratch = path + ".new"
    for leftover in (scratch, scratch + "-wal", scratch + "-shm"):
        if files.exists(leftover):
            files.unlink(leftover)
    connection = apsw.Connection(scratch)
    try:
        connection.pragma("page_size", options.page_size)
        connection.pragma("auto_vacuum", 0)
        connection.pragma("journal_mode", "wal")
    finally:
        connection.close()
    file = files.open(scratch)
    try:
        file.pwritev([_VERSION_BYTES], _VERSION_OFFSET)
        file.sync()
    finally:
        file.close()
    files.rename(scratch, path)
    files.sync_dir(os.path.dirname(path) or ".")
