"""What kind of statement a SQL text is, found without asking SQLite.

A small lexer that knows SQLite's comments, strings and quoted names; no
grammar.  It answers what must be known before a statement reaches SQLite:
that it is exactly one statement, that it is not a transaction word, whether it
is a VACUUM, may write, returns rows, inserts.

Why before SQLite.  APSW keeps prepared statements by their text and does not
ask the authorizer again for one it has; a transaction word must never get
there.  (Our own control statements carry a secret comment, see ``control``.)
Whatever this lexer should take for one statement and SQLite for two still
meets the authorizer, which denies transaction words too.

Results are cached by text, bounded in bytes.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import msgspec

from paceline.errors import Forbidden, TooLarge, UsageError
from paceline.limits import SQL_BYTES_MAX, STATEMENT_TEXT_CACHE_BYTES

__all__ = ["RESERVED_PREFIX", "Statement", "Statements", "classify", "has_word", "words"]


def words(text: str) -> frozenset[str]:
    """A set of names, written as one text."""
    return frozenset(text.split())


RESERVED_PREFIX: Final = "_paceline"
"""Names of tables, indexes, triggers and views that belong to Paceline start so."""

_RESERVED: Final = re.compile(rf"(?<![A-Za-z0-9_$]){RESERVED_PREFIX}", re.IGNORECASE)


class Statement(msgspec.Struct, frozen=True, gc=False):
    """One statement's nature.  ``verb`` is its governing keyword: for WITH the verb after the tables."""

    sql: str
    verb: str
    writes: bool
    returns_rows: bool
    counts_rows: bool
    inserts: bool
    vacuum: bool = False


_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\n\f\r\ufeff]+|--[^\n]*|/\*.*?(?:\*/|\Z))
      | (?P<string>'(?:[^']|'')*(?:'|\Z)|"(?:[^"]|"")*(?:"|\Z)|`(?:[^`]|``)*(?:`|\Z)|\[[^\]]*(?:\]|\Z))
      | (?P<word>[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
      | (?P<end>;)
      | (?P<open>\()
      | (?P<close>\))
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)

_DML: Final = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE"})
_READS: Final = frozenset({"SELECT", "VALUES", "EXPLAIN"})
_SCHEMA: Final = frozenset({"CREATE", "ALTER", "DROP"})
_TRANSACTION: Final = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"})
_ATTACH: Final = frozenset({"ATTACH", "DETACH"})
_PRAGMA_READS: Final = words(
    """table_info table_xinfo table_list index_list index_info index_xinfo foreign_key_list
    foreign_key_check integrity_check quick_check"""
)
"""Pragmas whose argument is what to look at, not a new value."""


def classify(sql: str) -> Statement:
    """Look at one statement; raises ``UsageError`` (none, several, too long) or ``Forbidden``."""
    _check_text(sql)
    tokens = list(_tokens(sql))
    end = _end_of_first(tokens)
    if end == 0:
        raise UsageError("the SQL text is empty", hint="send one statement")
    if any(kind != "end" for kind, _ in tokens[end:]):
        raise UsageError(
            "the SQL text holds more than one statement",
            hint="send a list with one statement per item; together they are one transaction",
        )
    return _nature(sql, [token for token in tokens[:end] if token[0] != "end"])


def has_word(sql: str, word: str) -> bool:
    """Whether ``word`` (upper case) stands in ``sql`` as a word: in no comment, string or quoted name."""
    return ("word", word) in _tokens(sql)


def _check_text(sql: str) -> None:
    if not isinstance(sql, str):
        raise UsageError(f"a statement must be text, not {type(sql).__name__}")
    try:
        size = len(sql.encode())
    except UnicodeEncodeError:
        raise UsageError("the SQL text holds a lone surrogate, which is no character") from None
    if size > SQL_BYTES_MAX:
        raise TooLarge(
            f"the SQL text has {size} bytes, the limit is {SQL_BYTES_MAX}",
            hint="pass values as arguments, not inside the text",
        )
    if "\0" in sql:
        raise UsageError("the SQL text holds a NUL character")


def _tokens(sql: str) -> Iterator[tuple[str, str]]:
    """Kind and text (words in upper case) of each token that is not space."""
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup
        assert kind is not None
        if kind == "word":
            yield kind, match[0].upper()
        elif kind != "space":
            yield kind, match[0]


def _end_of_first(tokens: list[tuple[str, str]]) -> int:
    """How many tokens the first statement has; leading semicolons count as nothing."""
    start = 0
    while start < len(tokens) and tokens[start][0] == "end":
        start += 1
    if start == len(tokens):
        return 0
    del tokens[:start]
    trigger = _is_create_trigger(tokens)
    for place, (kind, _) in enumerate(tokens):
        if kind == "end" and (not trigger or _ends_trigger(tokens, place)):
            return place
    return len(tokens)


def _is_create_trigger(tokens: list[tuple[str, str]]) -> bool:
    """CREATE [TEMP|TEMPORARY] TRIGGER: the only statement with semicolons inside."""
    head = [text for kind, text in tokens[:3] if kind == "word"]
    return head[:2] == ["CREATE", "TRIGGER"] or (
        head[:1] == ["CREATE"] and head[1:2] in (["TEMP"], ["TEMPORARY"]) and head[2:] == ["TRIGGER"]
    )


def _ends_trigger(tokens: list[tuple[str, str]], place: int) -> bool:
    """A trigger ends at the semicolon after ``; END`` (nothing else puts END right after a semicolon)."""
    return place >= 2 and tokens[place - 1] == ("word", "END") and tokens[place - 2][0] == "end"


def _nature(sql: str, tokens: list[tuple[str, str]]) -> Statement:
    kind, verb = tokens[0]
    if kind != "word":
        verb = "?"  # SQLite will name the syntax error better than we can
    if verb in _TRANSACTION:
        raise Forbidden(
            f"{verb} is not allowed here: each request is a transaction of its own",
            hint="send the statements of one transaction as one list",
        )
    if verb in _ATTACH:
        raise Forbidden(
            f"{verb} is not allowed: only the cluster's own database is replicated",
            hint="import the other file into a cluster of its own",
        )
    if verb == "VACUUM":
        return _vacuum(sql, tokens)
    if verb in _SCHEMA and _RESERVED.search(sql):
        raise Forbidden(
            f"names that start with {RESERVED_PREFIX} belong to Paceline and may not appear in a schema",
            hint="choose another name",
        )
    if verb == "WITH":
        verb = _verb_after_with(tokens)
    dml = verb in _DML
    return Statement(
        sql=sql,
        verb=verb,
        writes=_pragma_writes(tokens) if verb == "PRAGMA" else verb not in _READS,
        returns_rows=(not dml and verb not in _SCHEMA) or ("word", "RETURNING") in tokens,
        counts_rows=dml,
        inserts=verb in ("INSERT", "REPLACE"),
    )


def _vacuum(sql: str, tokens: list[tuple[str, str]]) -> Statement:
    rest = [text.strip("\"'`[]").upper() for _, text in tokens[1:]]
    if "INTO" in rest:
        raise Forbidden(
            "VACUUM INTO is not allowed: it writes a file on the server", hint="use `paceline backup`"
        )
    if rest not in ([], ["MAIN"]):
        raise UsageError("only plain VACUUM is understood")
    return Statement(
        sql=sql, verb="VACUUM", writes=True, returns_rows=False, counts_rows=False, inserts=False, vacuum=True
    )


def _verb_after_with(tokens: list[tuple[str, str]]) -> str:
    depth = 0
    for kind, text in tokens[1:]:
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
        elif kind == "word" and depth == 0 and (text in _DML or text in _READS):
            return text
    return "?"


def _pragma_writes(tokens: list[tuple[str, str]]) -> bool:
    """Whether a PRAGMA may change something; ``PRAGMA name`` alone only asks, with few exceptions."""
    parts = [text.strip("\"'`[]").lower() for kind, text in tokens[1:] if kind in ("word", "string")]
    names = parts[1:] if ("other", ".") in tokens else parts
    if not names or names[0] in _PRAGMA_READS:
        return False
    sets = any(kind == "open" or (kind == "other" and text == "=") for kind, text in tokens)
    return sets or names[0] in ("incremental_vacuum", "optimize")


class Statements:
    """Classified statements by text, the least recently used going first.  Safe from several threads."""

    def __init__(self, bytes_max: int = STATEMENT_TEXT_CACHE_BYTES) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._known: OrderedDict[str, Statement] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, sql: str) -> Statement:
        """As :func:`classify`, cached."""
        with self._lock:
            found = self._known.get(sql) if isinstance(sql, str) else None
            if found is not None:
                self._known.move_to_end(sql)
        if found is None:
            found = classify(sql)
            self._keep(sql, found)
        return found

    def _keep(self, sql: str, found: Statement) -> None:
        with self._lock:
            if sql not in self._known:
                self._known[sql] = found
                self._bytes += _cost(sql)
            while self._bytes > self._bytes_max:
                oldest, _ = self._known.popitem(last=False)
                self._bytes -= _cost(oldest)


def _cost(sql: str) -> int:
    return 4 * len(sql) + 256
