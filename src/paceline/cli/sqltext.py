"""Just enough reading of SQL to route it: where a statement ends, and whether it only reads.

SQLite itself is the judge of every statement; a wrong guess here costs an
error message, never data.  Nothing here rewrites SQL.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Final

from paceline.errors import UsageError

__all__ = ["is_complete", "is_read", "parse_argument", "split_statements"]

_TOKEN: Final = re.compile(
    r"""\s+ | --[^\n]*(?:\n|$) | /\*.*?(?:\*/|$)        # white space and comments
      | '(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\]
      | [A-Za-z_][A-Za-z0-9_$]* | [();] | .""",
    re.VERBOSE | re.DOTALL,
)
_READS: Final = frozenset({"SELECT", "VALUES", "EXPLAIN", "PRAGMA"})
_MAIN_VERBS: Final = frozenset({"SELECT", "VALUES", "INSERT", "UPDATE", "DELETE", "REPLACE"})
_NUMBER: Final = re.compile(r"^[+-]?\d+$")
_REAL: Final = re.compile(r"^[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?$")
_BLOB: Final = re.compile(r"^[xX]'((?:[0-9A-Fa-f]{2})*)'$")


def _tokens(sql: str) -> list[str]:
    """Tokens that mean something: no white space, no comments."""
    found = (match[0] for match in _TOKEN.finditer(sql))
    return [token for token in found if not token.isspace() and not token.startswith(("--", "/*"))]


def is_complete(sql: str) -> bool:
    """Whether SQLite sees a whole statement, its ``;`` included (knows strings, comments and triggers)."""
    return sqlite3.complete_statement(sql)


def split_statements(text: str) -> list[str]:
    """The statements of ``text``, without their ``;``; the last one may lack it."""
    statements: list[str] = []
    start = 0
    for match in _TOKEN.finditer(text):
        if match[0] == ";" and is_complete(text[start : match.end()]):
            piece = text[start : match.start()].strip()
            if _tokens(piece):
                statements.append(piece)
            start = match.end()
    rest = text[start:].strip()
    if _tokens(rest):
        statements.append(rest)
    return statements


def is_read(sql: str) -> bool:
    """Whether the statement reads, going by its first word (for WITH: by its main verb)."""
    words = [token.upper() for token in _tokens(sql)]
    if not words:
        return True
    if words[0] != "WITH":
        # `PRAGMA x = y` sets something: the leader's business.
        return words[0] in _READS and not (words[0] == "PRAGMA" and "=" in words)
    depth = 0
    for word in words[1:]:
        depth += (word == "(") - (word == ")")
        if depth == 0 and word in _MAIN_VERBS:
            return word in _READS
    return True


def parse_argument(text: str) -> int | float | str | bytes | None:
    """A value from the command line: ``42``, ``1.5``, ``null``, ``x'0aff'``; everything else is text.

    Single quotes make text of anything: ``'42'``.
    """
    if text.lower() == "null":
        return None
    if _NUMBER.match(text):
        number = int(text)
        if not -(2**63) <= number < 2**63:
            raise UsageError(
                f"{text} does not fit in 64 bits", hint=f"quote it to pass it as text: \"'{text}'\""
            )
        return number
    if _REAL.match(text):
        return float(text)
    blob = _BLOB.match(text)
    if blob:
        return bytes.fromhex(blob[1])
    if len(text) >= 2 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    return text
