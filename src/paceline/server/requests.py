"""Checks that every request passes, whichever protocol it came by.

The codecs have checked shapes; here stand the rules that both protocols share:
how many statements, how long the SQL, which values, which time limit.  A
refusal names the place: ``statements[2]: argument 1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from paceline.client.reading import bounded, parse_read
from paceline.engines.base import Value, WriteRequest
from paceline.errors import TooLarge, UsageError
from paceline.limits import (
    ARGS_MAX,
    SQL_BYTES_MAX,
    STATEMENTS_MAX,
    TIMEOUT_MS_DEFAULT,
)

__all__ = ["check_args", "check_read", "check_sql", "check_timeout", "write_request"]

_KINDS: Final = frozenset({type(None), int, float, str, bytes})
_SQL_SURELY_FITS: Final = SQL_BYTES_MAX // 4
"""A text of n characters has at most 4n bytes; only longer ones are measured exactly."""
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1

Args = list[Value] | dict[str, Value]


def write_request(
    statements: Sequence[tuple[str, Args]],
    durability: str | None,
    request_id: bytes | None,
    client: str,
) -> WriteRequest:
    """The engine's request, checked.  Raises ``UsageError`` and ``TooLarge``."""
    if not statements:
        raise UsageError("a request needs at least one statement")
    if len(statements) > STATEMENTS_MAX:
        raise TooLarge(
            f"{len(statements)} statements in one request; the limit is {STATEMENTS_MAX}",
            hint="split the request, or use INSERT ... SELECT",
        )
    for place, (sql, args) in enumerate(statements):
        if len(sql) > _SQL_SURELY_FITS:
            check_sql(sql, place)
        if args:
            check_args(args, place)
    return WriteRequest(
        list(statements) if type(statements) is not list else statements,
        durability or "",
        request_id,
        None,
        client,
    )


def check_sql(sql: str, place: int | None = None) -> None:
    """Raises ``TooLarge``."""
    if len(sql) > _SQL_SURELY_FITS and len(sql.encode()) > SQL_BYTES_MAX:
        raise TooLarge(
            f"{_at(place)}the SQL text is over the limit of {SQL_BYTES_MAX} bytes",
            hint="pass values as arguments",
        )


def check_args(args: Args, place: int | None = None) -> None:
    """Only SQLite's storage classes may pass.  Raises ``UsageError`` and ``TooLarge``."""
    if len(args) > ARGS_MAX:
        raise TooLarge(f"{_at(place)}{len(args)} arguments; the limit is {ARGS_MAX}")
    values = args if type(args) is list else args.values()  # type: ignore[union-attr]
    for value in values:
        kind = type(value)
        if kind is str or kind is bytes or value is None or kind is float:
            continue
        if kind is not int or not _INT_MIN <= value <= _INT_MAX:  # type: ignore[operator]
            raise _bad_value(args, place)


def _bad_value(args: Args, place: int | None) -> UsageError:
    named: list[tuple[Any, Any]] = list(args.items() if isinstance(args, dict) else enumerate(args))
    for name, value in named:
        if type(value) not in _KINDS:
            return UsageError(
                f"{_at(place)}argument {name!r} is a {type(value).__name__}",
                hint="use null, a number, text or a BLOB",
            )
        if type(value) is int and not _INT_MIN <= value <= _INT_MAX:
            break
    return UsageError(
        f"{_at(place)}argument {name!r} does not fit in a signed 64-bit integer", hint="send it as text"
    )


def _at(place: int | None) -> str:
    return "" if place is None else f"statements[{place}]: "


def check_read(read: str | None, token: str | None = None, max_lag_ms: int | None = None) -> str:
    """The level to read at: as given, or what ``token`` and ``max_lag_ms`` imply.  Raises ``UsageError``."""
    if max_lag_ms is None:
        return parse_read(read) if read is not None else "session" if token else "local"
    level = bounded(max_lag_ms)
    if token or (read is not None and parse_read(read) != level):
        raise UsageError(
            "max_lag_ms is a read level of its own", hint="leave out read and token, or max_lag_ms"
        )
    return level


def check_timeout(timeout_ms: int | None) -> int:
    """The time limit to use; the codecs have checked its range."""
    return TIMEOUT_MS_DEFAULT if timeout_ms is None else timeout_ms
