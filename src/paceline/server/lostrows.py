"""Rows before and after a range of lost entries, computed from pages.

Theory.  A page entry is the XOR of the images before and after it.  So from the database as it is now, every
later entry of the new history taken back gives the database at the fork, and the lost entries put on top of that
give the database as their clients saw it.  The hashes in the lost entries prove both.  The two images become
temporary files, and SQLite says which rows differ.

The memory of request ids is a table like any other, so the ids of requests that nobody logged are found the same way.

It needs the whole log since the fork and two copies of the database, so there are bounds; beyond them, or
when a page cannot be proved, the requests' SQL is what there is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from typing import Any, Final

import apsw

from paceline.core.entry import Entry, EntryKind
from paceline.engines.base import Pin
from paceline.engines.sqlite.dedup import REQUESTS_TABLE, remembered_ids
from paceline.engines.sqlite.formats import page
from paceline.engines.sqlite.formats.page import PageDelta
from paceline.engines.sqlite.pagesource import page_hash
from paceline.errors import TooLarge, Unavailable
from paceline.limits import LOST_DATABASE_BYTES_MAX, LOST_ROWS_MAX
from paceline.server.json_values import rows_to_json

__all__ = ["rows_of"]

_READ_PAGES: Final = 256
_CHANGES: Final = (EntryKind.TXN, EntryKind.TXN_PART)


def rows_of(
    lost: Sequence[Entry],
    pin: Pin,
    history: Sequence[Entry],
    below: Sequence[Entry] = (),
    only: Collection[int] | None = None,
) -> tuple[list[dict[str, Any]], dict[int, list[bytes]]]:
    """One dict for each table that differs; and the request ids that were applied, by the first index of their
    transaction.  ``history`` may begin earlier than the fork, and ``below`` are other lost entries that these stand on:
    the place where the hashes fit is looked for.  ``only``: what these entries of ``lost`` changed, each by itself
    (``index`` says which).  Raises ``TooLarge``, ``Unavailable``."""
    size = pin.unit_bytes
    if pin.unit_count * size > LOST_DATABASE_BYTES_MAX:
        raise TooLarge(
            f"the database is too large to compute rows ({pin.unit_count * size} bytes; the limit is "
            f"{LOST_DATABASE_BYTES_MAX})"
        )
    image = _Image(pin)
    changes = _deltas(lost)
    _go_to_fork(image, changes, lost[0].index, history, below)
    with tempfile.TemporaryDirectory(prefix="paceline-lost-") as directory:
        before, after = os.path.join(directory, "before.db"), os.path.join(directory, "after.db")
        if not changes:
            return [], {}
        if only is not None:
            return list(_one_by_one(image, lost, only, before, after)), {}
        image.write(before)
        for delta in changes:
            image.redo(delta)
        image.write(after)
        return _compare(before, after), _applied_ids(before, after)


def _one_by_one(
    image: _Image, lost: Sequence[Entry], only: Collection[int], before: str, after: str
) -> Iterator[dict[str, Any]]:
    parts: list[Entry] = []
    for entry in lost:
        parts.append(entry)
        if entry.kind is EntryKind.TXN_PART:
            continue
        if entry.index in only:
            image.write(before)
        for delta in _deltas(parts):
            image.redo(delta)
        if entry.index in only:
            image.write(after)
            yield from ({"index": int(entry.index), **table} for table in _compare(before, after))
        parts.clear()


def _deltas(entries: Sequence[Entry]) -> list[PageDelta]:
    return [page.decode(entry.body, entry.flags) for entry in entries if entry.kind in _CHANGES]


def _go_to_fork(
    image: _Image, changes: list[PageDelta], first: int, history: Sequence[Entry], below: Sequence[Entry]
) -> None:
    """Bring ``image`` to the state on which ``changes`` were made.  Raises ``Unavailable``."""
    for entry in reversed([entry for entry in history if entry.kind in _CHANGES]):
        if entry.index < first and not below and image.fits(changes):
            return
        image.undo(page.decode(entry.body, entry.flags))
    for delta in _deltas(below):
        image.redo(delta)
    if not image.fits(changes):
        raise Unavailable(
            "the database as it was at the fork cannot be computed here: the log since then is not complete, or this "
            "node has not been rewound yet"
        )


class _Image:
    """A whole database in memory, page by page."""

    def __init__(self, pin: Pin) -> None:
        self._size = pin.unit_bytes
        self._count = pin.unit_count
        self._pages: dict[int, bytes] = {}
        for first in range(1, pin.unit_count + 1, _READ_PAGES):
            count = min(_READ_PAGES, pin.unit_count + 1 - first)
            self._pages.update(enumerate(pin.read(first, count), first))

    def _xor(self, delta: PageDelta) -> None:
        if delta.page_size != self._size:
            raise Unavailable("the page size has changed since")
        zero = bytes(self._size)
        for row, number in enumerate(delta.pages.tolist()):
            old = int.from_bytes(self._pages.get(number, zero), "little")
            new = old ^ int.from_bytes(delta.xor[row].tobytes(), "little")
            self._pages[number] = new.to_bytes(self._size, "little")

    def undo(self, delta: PageDelta) -> None:
        self._xor(delta)
        self._count = delta.page_count_before

    def redo(self, delta: PageDelta) -> None:
        self._xor(delta)
        self._count = delta.page_count_after

    def fits(self, changes: Sequence[PageDelta]) -> bool:
        """Whether the pages that the lost entries change are here as those entries found them."""
        seen: set[int] = set()
        for delta in changes:
            for number, expected in zip(delta.pages.tolist(), delta.before.tolist(), strict=True):
                if number in seen:
                    continue
                seen.add(number)
                image = self._pages.get(number)
                if expected and (image is None or page_hash(image) != expected):
                    return False
        return True

    def write(self, path: str) -> None:
        zero = bytes(self._size)
        with open(path, "wb") as file:
            for number in range(1, self._count + 1):
                image = self._pages.get(number, zero)
                if (
                    number == 1
                ):  # no write-ahead log belongs to this file: say 'rollback journal' in the header
                    image = image[:18] + b"\1\1" + image[20:]
                file.write(image)


def _open(before: str, after: str) -> apsw.Connection:
    """``main`` is before the lost entries, ``after`` what their clients saw."""
    connection = apsw.Connection(
        f"file:{before}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    )
    connection.execute("ATTACH ? AS after", (f"file:{after}?immutable=1",))
    return connection


def _compare(before: str, after: str) -> list[dict[str, Any]]:
    connection = _open(before, after)
    try:
        old, new = _tables(connection, "main"), _tables(connection, "after")
        found = []
        for name in sorted(old | new):
            shape = _table(connection, name, old.get(name), new.get(name))
            if shape is not None:
                found.append(shape)
        return found
    except apsw.Error as error:
        raise Unavailable(f"SQLite cannot read the computed images: {error}") from None
    finally:
        connection.close()


def _applied_ids(before: str, after: str) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    with closing(_open(before, after)) as connection:
        if REQUESTS_TABLE in _tables(connection, "after", ours=True):
            known: set[bytes] = set()
            if REQUESTS_TABLE in _tables(connection, "main", ours=True):
                for (body,) in connection.execute(f"SELECT body FROM main.{REQUESTS_TABLE}"):
                    known.update(remembered_ids(body))
            for first_index, body in connection.execute(
                f"SELECT first_index, body FROM after.{REQUESTS_TABLE}"
            ):
                if fresh := [identity for identity in remembered_ids(body) if identity not in known]:
                    found[first_index] = fresh
    return found


def _tables(connection: apsw.Connection, schema: str, *, ours: bool = False) -> dict[str, str]:
    query = (
        f"SELECT name, sql FROM {schema}.sqlite_schema WHERE type = 'table' AND rootpage > 0 "
        f"AND name NOT GLOB 'sqlite_*' AND {'' if ours else 'NOT '}name GLOB '_paceline_*'"
    )
    return {str(name): str(sql) for name, sql in connection.execute(query)}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _columns(connection: apsw.Connection, schema: str, table: str) -> tuple[list[str], list[str]]:
    """Names of the key and of all columns; the key of an ordinary table is the rowid."""
    rows = list(connection.execute("SELECT name, pk FROM pragma_table_info(?, ?)", (table, schema)))
    columns = [str(name) for name, _ in rows]
    try:
        connection.execute(f"SELECT rowid FROM {schema}.{_quoted(table)} LIMIT 0").fetchall()
        return ["rowid"], columns
    except apsw.SQLError:
        return [str(name) for name, pk in sorted(rows, key=lambda row: row[1]) if pk], columns


def _table(connection: apsw.Connection, name: str, old: str | None, new: str | None) -> dict[str, Any] | None:
    """What the lost range did to one table; None when nothing."""
    if old is None or new is None:
        only = "main" if new is None else "after"
        _, columns = _columns(connection, only, name)
        rows = list(connection.execute(f"SELECT * FROM {only}.{_quoted(name)} LIMIT {LOST_ROWS_MAX + 1}"))
        shown = [list(row) for row in rows[:LOST_ROWS_MAX]]
        changes = [
            {"key": None, "before": row, "after": None}
            if new is None
            else {"key": None, "before": None, "after": row}
            for row in shown
        ]
        return _shape(name, [], columns, changes, len(rows) > LOST_ROWS_MAX) | {
            "schema": {"before": old, "after": new}
        }
    key, columns = _columns(connection, "main", name)
    if old != new and _columns(connection, "after", name) != (key, columns):
        return _shape(name, [], columns, [], False) | {"schema": {"before": old, "after": new}}
    gone, came = (dict(_difference(connection, name, key, columns, *way)) for way in _WAYS)
    keys = list(dict.fromkeys([*gone, *came]))
    if not keys and old == new:
        return None
    changes = [{"key": list(k), "before": gone.get(k), "after": came.get(k)} for k in keys[:LOST_ROWS_MAX]]
    more = len(keys) > LOST_ROWS_MAX
    shape = _shape(name, key, columns, changes, more)
    return shape | {"schema": {"before": old, "after": new}} if old != new else shape


_WAYS: Final = (("main", "after"), ("after", "main"))


def _difference(
    connection: apsw.Connection, table: str, key: list[str], columns: list[str], here: str, there: str
) -> Iterator[tuple[tuple[Any, ...], list[Any]]]:
    """Rows of ``here`` that ``there`` lacks, byte for byte, by key."""
    wanted = ", ".join(
        [
            *(k if k == "rowid" else _quoted(k) for k in key),
            *(f"{_quoted(c)} COLLATE BINARY" for c in columns),
        ]
    )
    of = _quoted(table)
    query = (
        f"SELECT {wanted} FROM {here}.{of} EXCEPT SELECT {wanted} FROM {there}.{of} LIMIT {LOST_ROWS_MAX + 1}"
    )
    for row in connection.execute(query):
        yield tuple(row[: len(key)]), list(row[len(key) :])


def _shape(
    name: str, key: list[str], columns: list[str], changes: list[dict[str, Any]], more: bool
) -> dict[str, Any]:
    for change in changes:
        for side in ("key", "before", "after"):
            if change[side] is not None:
                change[side] = rows_to_json([change[side]])[0]
    return {"table": name, "key": key, "columns": columns, "changes": changes, "more": more}
