"""One node's custody as people and programs see it: ranges, their requests, their rows.

Implements ``runtime.lost.Reader`` for SQLite.  A custody file never changes, so what was counted once is kept.
Every call blocks on the disk.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from paceline.core.entry import Entry, EntryKind
from paceline.engines.base import Pin
from paceline.engines.sqlite.formats import page
from paceline.engines.sqlite.requests import decode_request_list, decode_requests
from paceline.errors import BadEntry, PacelineError, Unavailable, UsageError
from paceline.files import Files
from paceline.ids import Index, Position
from paceline.limits import LOST_CHECK_ENTRIES_MAX
from paceline.log.custody import Custody, CustodyContent, CustodyItem
from paceline.server.json_values import args_to_json
from paceline.server.lostrows import rows_of

__all__ = ["LostReader"]

_KEPT_MAX: Final = 1_000


class LostReader:
    def __init__(self, files: Files, directory: str) -> None:
        self._custody = Custody(files, directory)
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def ranges(self, *, discarded: bool = False) -> list[dict[str, Any]]:
        """Oldest range first; a damaged file is listed with its ``problem``.  ``discarded``: those, too."""
        return [self._summary(item) for item in self._custody.list(discarded=discarded)]

    def discard(self, id: str) -> dict[str, Any]:
        self._custody.discard(id)
        return {"id": id, "discarded": True}

    def find_request(self, request_id: str) -> dict[str, Any] | None:
        """The newest range that has a request of this id (as ``show`` writes it), and the request."""
        for item in reversed(self._custody.list(discarded=True)):
            if not item.problem and isinstance(content := self._try_load(item.id), CustodyContent):
                for request in _requests(content):
                    if request["request_id"] == request_id:
                        return {"id": item.id, "request": request}
        return None

    def fork(self, id: str) -> Index:
        content = self._custody.load(id)
        below = self._below(content)
        first = (
            below[0].index
            if below
            else content.entries[0].index - (len(content.entries) if _surplus(content) else 0)
        )
        return Index(max(0, first - 1))

    def _below(self, content: CustodyContent) -> list[Entry]:
        """Lost entries that the range stands on: what a killed leader executed and never logged comes behind what
        it had logged, and that may be lost, too."""
        first = content.entries[0].index
        if not _surplus(content):
            return []
        for item in reversed(self._custody.list(discarded=True)):
            if item.last is None or item.problem or item.id == content.item.id:
                continue
            if item.first_index < first and first - len(content.entries) - 1 <= item.last.index < first:
                return self._custody.load(item.id).entries
        return []

    def find(self, place: Position) -> str | None:
        for item in self._custody.list(discarded=True):
            if item.problem or item.last is None or not item.first_index <= place.index <= item.last.index:
                continue
            if any(entry.position == place for entry in self._custody.load(item.id).entries):
                return item.id
        return None

    def show(
        self,
        id: str,
        pin: Pin | None,
        history: Sequence[Entry] | None,
        why_not: str | None,
        entries: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """``pin`` is the database now, ``history`` the log from the fork to it; ``why_not``: why they are not there.

        ``entries``: rows of these only, of each by itself.
        """
        content = self._custody.load(id)
        only = None if entries is None else _chosen(content, entries)
        shape = self._summary(content.item)
        shape["requests"] = _requests(content)
        shape["positions"] = [str(entry.position) for entry in content.entries]
        tables, problem = None, why_not
        if pin is not None and history is not None:
            try:
                tables, ids = rows_of(content.entries, pin, history, self._below(content), only)
                shape["requests"] = _named(shape["requests"], ids)
            except PacelineError as error:
                problem = error.message
        shape["rows"] = tables
        shape["rows_problem"] = None if tables is not None else problem or "not known here"
        return shape

    def _summary(self, item: CustodyItem) -> dict[str, Any]:
        known = self._known.get(item.id)
        if known is not None and known["discarded"] != item.discarded:
            known = self._known[item.id] = known | {"discarded": item.discarded}
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


def _chosen(content: CustodyContent, entries: Sequence[int]) -> frozenset[int]:
    if _surplus(content):
        raise UsageError(
            "these entries were never logged, so their rows cannot be told apart",
            hint="leave out --request to look at all of them",
        )
    if len(set(entries)) > LOST_CHECK_ENTRIES_MAX:
        raise UsageError(
            f"rows of at most {LOST_CHECK_ENTRIES_MAX} entries at a time are computed one by one",
            hint="choose fewer requests, or leave out --request to look at the whole range",
        )
    return frozenset(entries)


def _surplus(content: CustodyContent) -> bool:
    """Entries that were never logged: they have no time, and their indexes are only about right."""
    return content.entries[0].time_us == 0


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
        "discarded": item.discarded,
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
    """Every request of the range; one without SQL and id stands for those of an entry that does not name them.

    Requests that failed changed nothing and lost nothing; they are left out.
    """
    found: list[dict[str, Any]] = []
    for entry in content.entries:
        if entry.kind is EntryKind.TXN:
            try:
                found += _of_entry(content, entry)
            except PacelineError as error:
                found.append(_shape(_place(entry), "", None, None, problem=error.message))
    return found


def _place(entry: Entry) -> dict[str, Any]:
    time = _time(entry.time_us) if entry.time_us else None
    return {"index": entry.index, "position": str(entry.position), "time": time}


def _of_entry(content: CustodyContent, entry: Entry) -> list[dict[str, Any]]:
    """Raises ``PacelineError`` when the entry does not say what made it."""
    levels = content.acknowledged.get(entry.index)

    place = _place(entry)
    note = content.locals.get(entry.index)
    if note is not None:
        return [
            _shape(
                place,
                request.durability,
                request.request_id,
                levels,
                sql=[{"sql": sql, "args": args_to_json(args)} for sql, args in request.statements],
                client=request.client,
                rows_affected=request.rows_affected,
                cut=request.cut,
            )
            for request in decode_requests(note)
            if request.outcome == "ok"
        ]
    packed = bytes(page.decode(entry.body, entry.flags).requests)
    if not packed:
        raise Unavailable("it was executed and never logged, so its SQL was never written down")
    return [
        _shape(place, durability, identity, levels, problem="its SQL is in the log of the node that led then")
        for durability, ids in decode_request_list(packed).runs
        for identity in ids
    ]


def _shape(
    place: dict[str, Any], durability: str, identity: bytes | None, levels: Container[str] | None, **more: Any
) -> dict[str, Any]:
    """One request.  ``levels``: those at which its entry had been acknowledged, None when that is not known."""
    return {
        "index": place["index"],
        "position": place["position"],
        "time": place.get("time"),
        "sql": None,
        "durability": durability or None,
        "request_id": _id(identity),
        "client": None,
        "rows_affected": None,
        "acknowledged": None if levels is None else durability in levels,
        "cut": False,
        "problem": None,
    } | more


def _named(requests: list[dict[str, Any]], ids: dict[int, list[bytes]]) -> list[dict[str, Any]]:
    """``requests`` with those that nobody logged called by the ids that the pages tell, and their true indexes.

    Both stand in the order in which they were executed; a group without ids left none, and then it is not known
    which is which.
    """
    logged = {request["index"] for request in requests if request["sql"] is not None}
    groups = [(index, ids[index]) for index in sorted(ids) if index not in logged]
    nameless = [request for request in requests if request["sql"] is None and request["request_id"] is None]
    if len(groups) != len(nameless):
        return requests
    found = [request for request in requests if request not in nameless]
    for request, (index, named) in zip(nameless, groups, strict=True):
        found += [request | {"index": index, "request_id": _id(identity)} for identity in named]
    return found


def _id(identity: bytes | None) -> str | None:
    """As the HTTP API takes it where that is possible, else as hex digits."""
    if identity is None:
        return None
    text = identity.decode("utf-8", "replace")
    return text if text.isprintable() and text.encode() == identity else f"x'{identity.hex()}'"
