"""Reads: a bounded pool of connections that cannot write.

Each read is one transaction: BEGIN, the position, the user's statement,
COMMIT; so the position belongs to exactly the snapshot that the rows come
from.  A connection is used by one thread at a time; when all are busy, a read
waits for one until its deadline.

Three fences keep writes out: the lexer refuses what may write with a clear
error, the file is opened read-only, and ``query_only`` is on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import apsw

from paceline.engines.base import QueryResult
from paceline.engines.sqlite.authorizer import Authorizer
from paceline.engines.sqlite.connect import EngineOptions, open_reader
from paceline.engines.sqlite.control import control
from paceline.engines.sqlite.functions import TermFunction
from paceline.engines.sqlite.position import read_position
from paceline.engines.sqlite.results import RowCursor
from paceline.engines.sqlite.sqlerrors import RUN_ERRORS, verdict
from paceline.engines.sqlite.statements import Statements
from paceline.engines.sqlite.values import Args, check_args
from paceline.errors import Overloaded, TimedOut, Unavailable, UsageError
from paceline.ids import DatabasePosition

__all__ = ["Readers"]

_BEGIN: Final = control("BEGIN")
_COMMIT: Final = control("COMMIT")
_ROLLBACK: Final = control("ROLLBACK")
_PROGRESS_STEPS: Final = 4_000
_WAIT_S: Final = 5.0
"""How long a read without a deadline waits for a free connection."""


class _Reader:
    """One connection with its cursors."""

    def __init__(self, path: str, options: EngineOptions, monotonic: Callable[[], float]) -> None:
        self.connection = open_reader(path, options)
        self.deadline: float | None = None
        self._monotonic = monotonic
        self._auth = Authorizer()
        self._control = self.connection.cursor().execute
        self._rows = RowCursor(self.connection)
        self._term = TermFunction(self.connection)
        self.connection.set_authorizer(self._auth)
        self.connection.set_progress_handler(self._past_deadline, _PROGRESS_STEPS)

    def _past_deadline(self) -> bool:
        return self.deadline is not None and self._monotonic() >= self.deadline

    def query(self, sql: str, args: Args, rows_max: int, bytes_max: int) -> QueryResult:
        position = self._begin()
        try:
            rows, _ = self._rows.run(sql, args, rows_max=rows_max, bytes_max=bytes_max)
        except apsw.ReadOnlyError:
            raise _writes() from None
        except RUN_ERRORS as error:
            raise verdict(error, connection=self.connection, statement=1, args=args) from error
        finally:
            self.deadline = None
            self._end()
        return QueryResult(self._rows.columns, self._rows.types, rows, position)

    def _begin(self) -> DatabasePosition | None:
        self._auth.trusted = True
        try:
            self._control(_BEGIN)
            position = read_position(self.connection)
            self._term.see(position)
            return position
        except apsw.Error as error:
            if self.connection.in_transaction:
                self._control(_ROLLBACK)
            if isinstance(error, apsw.BusyError | apsw.InterruptError):
                raise Unavailable("the database is busy, try again") from error
            raise verdict(error, connection=self.connection, statement=1) from error
        finally:
            self._auth.trusted = False

    def _end(self) -> None:
        self._auth.trusted = True
        try:
            self._control(_COMMIT)
        finally:
            self._auth.trusted = False

    def close(self) -> None:
        self.connection.close(True)


class Readers:
    """The pool.  ``query`` may be called from any thread; ``reopen`` and ``close`` from the state lane."""

    def __init__(
        self, path: str, *, options: EngineOptions, statements: Statements, monotonic: Callable[[], float]
    ) -> None:
        self._path = path
        self._options = options
        self._classify = statements.get
        self._monotonic = monotonic
        self._idle: list[_Reader] = []
        self._lock = threading.Lock()
        self._free = threading.Semaphore(options.readers_max)
        self._generation = 0

    def query(
        self, sql: str, args: Args, *, deadline: float | None, rows_max: int, bytes_max: int
    ) -> QueryResult:
        statement = self._classify(sql)
        if statement.writes:
            raise _writes()
        args = check_args(args, 1)
        now = self._monotonic()
        if deadline is not None and now >= deadline:
            raise TimedOut("the read's time limit passed before it ran")
        if not self._free.acquire(timeout=_WAIT_S if deadline is None else deadline - now):
            raise Overloaded("all read connections are busy", hint="try again, or raise `readers_max`")
        try:
            reader, generation = self._take()
            reader.deadline = deadline
            whole = False
            try:
                result = reader.query(statement.sql, args, rows_max, bytes_max)
                whole = True
            except Exception:
                whole = not reader.connection.in_transaction
                raise
            finally:
                self._give(reader, generation if whole else -1)
        finally:
            self._free.release()
        return result

    def _take(self) -> tuple[_Reader, int]:
        with self._lock:
            generation = self._generation
            if self._idle:
                return self._idle.pop(), generation
        return _Reader(self._path, self._options, self._monotonic), generation

    def _give(self, reader: _Reader, generation: int) -> None:
        with self._lock:
            if generation == self._generation:
                self._idle.append(reader)
                return
        reader.close()

    def reopen(self) -> None:
        """Drop every connection: the file behind them is another one (or is about to go)."""
        with self._lock:
            self._generation += 1
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.close()

    close = reopen


def _writes() -> UsageError:
    return UsageError("this statement may write, a read cannot run it", hint="send it as an execute request")
