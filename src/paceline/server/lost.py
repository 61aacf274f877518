"""One node's custody as people and programs see it: ranges, their requests, their rows.

Implements ``runtime.lost.Reader`` for SQLite.  A custody file never changes, so what was counted once is kept.
Every call blocks on the disk.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from paceline.core.entry import Entry, EntryKind
from paceline.engines.base import Pin
from paceline.engines.sqlite.formats import page
from paceline.engines.sqlite.requests import decode_request_list, decode_requests
from paceline.errors import BadEntry, PacelineError
from paceline.files import Files
from paceline.ids import Index, Position
from paceline.log.custody import Custody, CustodyContent, CustodyItem
from paceline.server.json_values import args_to_json
from paceline.server.lostrows import rows_of

__all__ = ["LostReader"]

_KEPT_MAX: Final = 1_000


class LostReader:
    def __init__(self, files: Files, directory: str) -> None:
        self._custody = Custody(files, directory)
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def ranges(self) -> list[dict[str, Any]]:
        """Oldest range first; a damaged file is listed with its ``problem``."""
        return [self._summary(item) for item in self._custody.list()]

    def fork(self, id: str) -> Index:
        content = self._custody.load(id)
        return Index(content.entries[0].index - 1)

    def find(self, place: Position) -> str | None:
        for item in self._custody.list():
            if item.problem or item.last is None or not item.first_index <= place.index <= item.last.index:
                continue
            if any(entry.position == place for entry in self._custody.load(item.id).entries):
                return item.id
        return None

    def show(
        self, id: str, pin: Pin | None, history: Sequence[Entry] | None, why_not: str | None
    ) -> dict[str, Any]:
        """``pin`` is the database now, ``history`` the log from the fork to it; ``why_not``: why they are not there."""
        content = self._custody.load(id)
        shape = self._summary(content.item)
        shape["requests"] = _requests(content)
        shape["positions"] = [str(entry.position) for entry in content.entries]
        tables, problem = None, why_not
        if pin is not None and history is not None:
            try:
                tables = rows_of(content.entries, pin, history)
            except PacelineError as error:
                problem = error.message
        shape["rows"] = tables
        shape["rows_problem"] = None if tables is not None else problem or "not known here"
        return shape

    def _summary(self, item: CustodyItem) -> dict[str, Any]:
        known = self._known.get(item.id)
        if known is None:
            known = _summary(item, None if item.problem else self._try_load(item.id))
            if not known["problem"]:
                self._known[item.id] = known
                if len(self._known) > _KEPT_MAX:
                    self._known.popitem(last=False)
        return dict(known)

    def _try_load(self, id: str) -> CustodyContent | str:
        try:
            return self._custody.load(id)
        except BadEntry as error:
            return error.message


def _summary(item: CustodyItem, content: CustodyContent | str | None) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "id": item.id,
        "reason": item.reason or None,
        "time": _time(item.time_us) if item.time_us else None,
        "term_now": item.term_now,
        "entries": item.count,
        "first_index": item.first_index,
        "last_index": item.last.index if item.last else None,
        "last": str(item.last) if item.last else None,
        "bytes": item.bytes,
        "requests": None,
        "acknowledged": None,
        "problem": item.problem or None,
    }
    if isinstance(content, str):
        shape["problem"] = content
    elif content is not None:
        requests = _requests(content)
        shape["requests"] = len(requests)
        told = [request["acknowledged"] for request in requests]
        shape["acknowledged"] = None if None in told else sum(told)
    return shape


def _time(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _requests(content: CustodyContent) -> list[dict[str, Any]]:
    """Every request of the range.  Requests that failed changed nothing and lost nothing; they are left out."""
    found: list[dict[str, Any]] = []
    for entry in content.entries:
        if entry.kind is EntryKind.TXN:
            found += _of_entry(content, entry)
    return found


def _of_entry(content: CustodyContent, entry: Entry) -> list[dict[str, Any]]:
    levels = content.acknowledged.get(entry.index)
    head = {"index": entry.index, "position": str(entry.position), "time": _time(entry.time_us)}
    note = content.locals.get(entry.index)
    if note is not None:
        try:
            logged = decode_requests(note)
        except BadEntry as error:
            return [head | _request(None, None, None, None, problem=error.message)]
        return [
            head
            | {
                "sql": [{"sql": sql, "args": args_to_json(args)} for sql, args in request.statements],
                "durability": request.durability or None,
                "request_id": _id(request.request_id),
                "client": request.client,
                "rows_affected": request.rows_affected,
                "cut": request.cut,
                "acknowledged": None if levels is None else request.durability in levels,
            }
            for request in logged
            if request.outcome == "ok"
        ]
    try:
        listed = decode_request_list(bytes(page.decode(entry.body, entry.flags).requests))
    except (BadEntry, PacelineError):
        return [head | _request(None, None, None, None, problem="its requests were not kept here")]
    return [
        head
        | _request(None, durability, _id(identity), None, problem="its SQL is on the leader of that time")
        for durability, ids in listed.runs
        for identity in ids
    ]


def _request(
    sql: None, durability: str | None, request_id: Any, client: str | None, *, problem: str
) -> dict[str, Any]:
    return {
        "sql": sql,
        "durability": durability,
        "request_id": request_id,
        "client": client,
        "rows_affected": None,
        "cut": False,
        "acknowledged": None,
        "problem": problem,
    }


def _id(identity: bytes | None) -> str | None:
    """As the HTTP API takes it where that is possible, else as hex digits."""
    if identity is None:
        return None
    text = identity.decode("utf-8", "replace")
    return text if text.isprintable() and text.encode() == identity else f"x'{identity.hex()}'"
