"""The guard: a connection that holds SQLite's own write lock and does nothing else.

While it holds ``BEGIN IMMEDIATE`` no other connection in any process can write,
restart or recover the log, so our code may append to it (``walwriter``).

Its page cache and its copy of the index header are those of the moment when
the transaction began: after the first frame appended behind its back a read
through it gives wrong rows and a write would corrupt the database.  So the
guard never reads or writes content, and is thrown away after each release; the
new connection is opened before the old one is closed, because closing the
last connection of a database checkpoints it and deletes the log's files.
"""

from __future__ import annotations

import apsw

from paceline.errors import AppendFailed, Corruption, DiskFull, PacelineError, Unavailable

__all__ = ["Guard", "empty_log", "translate"]

BUSY_MS = 5_000


class Guard:
    """Holds the write lock of ``path`` from ``take`` to ``release``."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: apsw.Connection | None = None
        self._held = False

    @property
    def held(self) -> bool:
        return self._held

    def take(self) -> None:
        """Take the lock with a new connection; raises :class:`Unavailable` when a foreign writer keeps it."""
        assert not self._held
        self._lock(self._open())

    def release(self) -> None:
        """Give up the lock.  The idle connection stays open, unused, so that the log's files stay."""
        assert self._connection is not None and self._held
        self._held = False
        self._connection.execute("ROLLBACK")

    def checkpoint(self) -> bool:
        """Empty the log into the file between two guards; False when readers or a writer are in the way."""
        fresh = self._open()
        self.release()
        try:
            return empty_log(fresh, self._path)
        finally:
            self._lock(fresh)

    def close(self, *, remove_log: bool) -> None:
        """Close; ``remove_log``: SQLite may checkpoint and delete the log's files if nobody else is there."""
        if self._connection is None:
            return
        if self._held:
            self.release()
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0 if remove_log else 1)
        self._connection.close()
        self._connection = None

    def _lock(self, fresh: apsw.Connection) -> None:
        try:
            fresh.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            fresh.close()
            raise translate(error, self._path) from error
        old, self._connection = self._connection, fresh
        self._held = True
        if old is not None:
            old.close()

    def _open(self) -> apsw.Connection:
        try:
            connection = apsw.Connection(self._path, flags=apsw.SQLITE_OPEN_READWRITE)
        except apsw.Error as error:
            raise translate(error, self._path) from error
        try:
            connection.set_busy_timeout(BUSY_MS)
            connection.wal_autocheckpoint(0)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.pragma("synchronous", "normal")
            if connection.pragma("journal_mode", "wal") != "wal":
                raise Unavailable(
                    f"{self._path} cannot be switched to WAL mode",
                    hint="another program has it open, or its file system has no shared memory",
                )
        except BaseException as error:
            connection.close()
            if isinstance(error, apsw.Error):
                raise translate(error, self._path) from error
            raise
        return connection


def empty_log(connection: apsw.Connection, path: str) -> bool:
    """Checkpoint, and cut the log; False when readers or a writer are in the way, without waiting for them.

    What may be moved is moved in either case.
    """
    connection.set_busy_timeout(0)
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return True
    except (apsw.BusyError, apsw.LockedError):
        return False
    except apsw.Error as error:
        raise translate(error, path) from error
    finally:
        connection.set_busy_timeout(BUSY_MS)


def translate(error: apsw.Error, path: str) -> PacelineError:
    """What SQLite says of a database that only this node writes, as an error of ours."""
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return Unavailable(
            f"another program holds the write lock of {path}",
            hint="no other program may write to this database; stop it",
        )
    if isinstance(error, apsw.FullError):
        return DiskFull(f"no space for {path}", hint="free space on this disk")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return Corruption(f"{path}: {error}", hint="restore it from a snapshot or a backup")
    # After a failed sync the kernel may show bytes that the disk never got: nothing here is to be tried again.
    what = str(error) or type(error).__name__
    return AppendFailed(f"{path}: {what}", hint="the node ends; look at its disk, then start it again")
