"""Numbers and positions as people read them.  Pure functions."""

from __future__ import annotations

from paceline.errors import SqlError
from paceline.ids import Position

__all__ = ["human_bytes", "human_count", "human_ms", "human_seconds", "plural", "short_position", "sql_error"]


def human_bytes(count: int | float) -> str:
    """``512 B``, ``1.4 MB`` (powers of 1000, as disks are sold and `ls -h --si` prints)."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def human_count(count: int) -> str:
    return f"{count:,}"


def human_ms(ms: float | None) -> str:
    if ms is None:
        return "-"
    if ms < 10:
        return f"{ms:.1f} ms"
    return f"{ms:.0f} ms" if ms < 10_000 else human_seconds(ms / 1000)


def human_seconds(seconds: float) -> str:
    """``12 s``, ``3 min``, ``2 h 5 min``, ``4 d 2 h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def short_position(text: str | None) -> str:
    """``term/index`` of a position's text form; other texts as they are."""
    if not text:
        return "-"
    try:
        return Position.parse(text).short
    except ValueError:
        return text


def sql_error(error: SqlError) -> str:
    """SQLite's message with its code, and which statement it was."""
    where = f", statement {error.statement}" if error.statement else ""
    return f"{error.message} ({error.name}{where})"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
