"""Bringing an existing SQLite database into a cluster, the original untouched.

The copy is made through SQLite's backup API, so the source may be in any
journal mode and in use by another program.  The copy is checked, turned to
WAL mode, rid of the tables of an earlier cluster, and synced.  Its page size
and contents stay as they are.  The target appears under its name only when all
of that has succeeded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import apsw

from paceline.engines.sqlite.dedup import REQUESTS_TABLE
from paceline.engines.sqlite.position import POSITION_TABLE
from paceline.engines.sqlite.statements import RESERVED_PREFIX
from paceline.errors import Corruption, DiskFull, Unavailable, UsageError
from paceline.files import Files, RealFiles

__all__ = ["import_database"]

_STEP_PAGES: Final = 1_000
_BUSY_TRIES_MAX: Final = 100
_OURS: Final = frozenset({POSITION_TABLE, REQUESTS_TABLE})


def import_database(
    source: str, target: str, progress: Callable[[int, int], None], *, files: Files | None = None
) -> None:
    """Copy ``source`` to ``target``; ``progress(done, total)`` counts pages.

    Raises ``UsageError`` (not a database, target there), ``Corruption`` (fails its check), ``DiskFull``.
    """
    files = files or RealFiles()
    if files.exists(target):
        raise UsageError(f"{target} is already there", hint="import into a new data directory")
    if not os.path.isfile(source):
        raise UsageError(f"there is no file {source}")
    scratch = target + ".import"
    _remove(files, scratch)
    try:
        _copy(source, scratch, progress)
        _adopt(scratch, source)
    except BaseException as error:
        _remove(files, scratch)
        if isinstance(error, apsw.FullError):
            raise DiskFull(f"no space left to copy {source}") from error
        if isinstance(error, apsw.Error):
            raise Corruption(
                f"{source}: {error}", hint="repair it first, e.g. with sqlite3's .recover"
            ) from error
        raise
    file = files.open(scratch)
    try:
        file.sync()
    finally:
        file.close()
    files.rename(scratch, target)
    files.sync_dir(os.path.dirname(target) or ".")


def _remove(files: Files, path: str) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        if files.exists(path + suffix):
            files.unlink(path + suffix)


def _copy(source: str, scratch: str, progress: Callable[[int, int], None]) -> None:
    origin = _open_source(source)
    copy = apsw.Connection(scratch)
    try:
        copy.pragma("page_size", origin.pragma("page_size"))
        with copy.backup("main", origin, "main") as backup:
            tries = 0
            while not backup.done:
                try:
                    backup.step(_STEP_PAGES)
                    tries = 0
                except (apsw.BusyError, apsw.LockedError):
                    tries += 1
                    if tries > _BUSY_TRIES_MAX:
                        raise Unavailable(f"{source} is locked by another program") from None
                progress(backup.page_count - backup.remaining, backup.page_count)
    finally:
        copy.close()
        origin.close()


def _open_source(source: str) -> apsw.Connection:
    """Open for reading and prove that it is a database."""
    try:
        origin = apsw.Connection(source, flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.CantOpenError as error:
        raise UsageError(f"cannot open {source}: {error}") from error
    try:
        origin.set_busy_timeout(100)
        origin.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except apsw.NotADBError as error:
        origin.close()
        raise UsageError(
            f"{source}: the file is not a SQLite database, or it is encrypted",
            hint="decrypt it first with the program that wrote it",
        ) from error
    except apsw.Error as error:
        origin.close()
        raise Corruption(f"{source}: {error}") from error
    return origin


def _adopt(scratch: str, source: str) -> None:
    """Check the copy and make it ours: WAL mode, none of an earlier cluster's tables."""
    copy = apsw.Connection(scratch)
    try:
        report = copy.execute("PRAGMA quick_check(1)").get
        if report != "ok":
            raise Corruption(
                f"{source} fails its integrity check: {report}",
                hint="repair it first, e.g. with sqlite3's .recover",
            )
        names = [str(name) for (name,) in copy.execute("SELECT name FROM sqlite_schema")]
        reserved = [name for name in names if name.lower().startswith(RESERVED_PREFIX)]
        strangers = [name for name in reserved if name not in _OURS]
        if strangers:
            raise UsageError(
                f"{', '.join(strangers)}: names that start with {RESERVED_PREFIX} are reserved",
                hint="rename them before the import",
            )
        for name in reserved:
            copy.execute(f"DROP TABLE {name}")
        mode = copy.pragma("journal_mode", "wal")
        if mode != "wal":
            raise UsageError(f"the copy cannot be turned to WAL mode (it stays in {mode})")
        copy.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        copy.close()
