"""From what SQLite and APSW raise to the error tree of Paceline.

Two sorts leave here.  *Verdicts* on one request are returned: the request
fails, its neighbours go on.  What concerns the file itself (I/O error, damaged
pages) is raised as ``Corruption``: SQLite is not to be retried after it, the
node stops.
"""

from __future__ import annotations

import errno
from typing import Final

import apsw

from paceline.engines.sqlite.values import Args, name_bad_argument
from paceline.errors import (
    Corruption,
    DiskFull,
    Forbidden,
    Overloaded,
    PacelineError,
    SqlError,
    TimedOut,
    TooLarge,
)

__all__ = ["BINDING_ERRORS", "RUN_ERRORS", "verdict"]

BINDING_ERRORS: Final = (apsw.BindingsError, KeyError, OverflowError, UnicodeEncodeError)
RUN_ERRORS: Final = (
    apsw.Error,
    PacelineError,
    KeyError,
    OverflowError,
    UnicodeError,
    MemoryError,
)
"""Everything that running one statement may raise."""

_FATAL: Final = (apsw.IOError, apsw.CorruptError, apsw.NotADBError, apsw.CantOpenError)
_OF_THE_REQUEST: Final = frozenset({apsw.SQLITE_CORRUPT_VTAB})
"""Extended codes of fatal classes that only say that a virtual table's content is odd."""


def verdict(
    error: BaseException, *, connection: apsw.Connection, statement: int, args: Args | None = None
) -> PacelineError:
    """What the request is told (``statement`` counts from 1).  Raises ``Corruption`` when the file is bad."""
    if isinstance(error, PacelineError):
        return error
    if isinstance(error, UnicodeDecodeError):
        return SqlError(
            f"statement {statement} returns text that is not valid UTF-8",
            code=apsw.SQLITE_MISMATCH,
            extended=apsw.SQLITE_MISMATCH,
            name="SQLITE_MISMATCH",
            statement=statement,
            hint="read it as bytes: CAST(column AS BLOB)",
        )
    if isinstance(error, BINDING_ERRORS):
        assert isinstance(error, Exception)
        return name_bad_argument(args if args is not None else [], statement, error)
    if isinstance(error, MemoryError | apsw.NoMemError):
        return Overloaded("no memory left for this statement", hint="make it smaller")
    assert isinstance(error, apsw.Error), "RUN_ERRORS lists everything that comes here"
    return _from_sqlite(error, connection, statement)


def _from_sqlite(error: apsw.Error, connection: apsw.Connection, statement: int) -> PacelineError:
    if isinstance(error, apsw.InterruptError):
        return TimedOut(f"statement {statement} ran longer than the request's time limit; nothing was done")
    if isinstance(error, apsw.FullError) or _no_space(error, connection):
        return DiskFull(
            "no space left for the database; nothing was done", hint="free disk space on the leader"
        )
    if isinstance(error, apsw.TooBigError):
        return TooLarge(f"statement {statement}: a text or blob is too large")
    if isinstance(error, apsw.AuthError):
        return Forbidden(f"statement {statement} is not allowed")
    extended: int = getattr(error, "extendedresult", apsw.SQLITE_ERROR)
    if isinstance(error, _FATAL) and extended not in _OF_THE_REQUEST:
        raise Corruption(
            f"{connection.filename}: {error}", hint="this node's database file is damaged or its disk failed"
        ) from error
    code = extended & 0xFF
    name = apsw.mapping_extended_result_codes.get(extended) or apsw.mapping_result_codes.get(code)
    return SqlError(
        str(error),
        code=code,
        extended=extended,
        name=str(name or "SQLITE_ERROR"),
        statement=statement,
    )


def _no_space(error: apsw.Error, connection: apsw.Connection) -> bool:
    """An I/O error whose cause is a full disk (growing ``-shm``, for one)."""
    return isinstance(error, apsw.IOError) and connection.system_errno in (errno.ENOSPC, errno.EDQUOT)
