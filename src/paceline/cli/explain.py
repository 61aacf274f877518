"""One log entry, taken apart: header, requests, changed bytes.

``explain`` returns plain values (what ``--json`` prints); ``lines`` turns them
into text.  A page entry becomes runs of changed bytes, each with sequence
(the entry's index), page, offset, old bytes, new bytes and the checksum (hash)
of the page after it.  Where the page images cannot be had, the XOR of old and new
stands in their place and is called so.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from paceline.cli.pageimages import Images, images_after
from paceline.cli.rows import to_json_value
from paceline.cli.text import plural
from paceline.core.entry import Entry, EntryFlags, EntryKind
from paceline.engines.sqlite.formats import page as page_format
from paceline.engines.sqlite.formats.page import U8, PageDelta
from paceline.engines.sqlite.requests import decode_request_list, decode_requests
from paceline.errors import BadEntry, UsageError
from paceline.log.inspect import LogRecord, records

__all__ = ["explain", "lines", "time_text"]

_GAP: Final = 4
"""Changed bytes closer than this are shown as one run."""
_SHOWN_BYTES: Final = 16


def time_text(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def explain(log: str, database: str | None, index: int) -> dict[str, Any]:
    """Everything known here about entry ``index`` of the log directory ``log``."""
    found: LogRecord | None = None
    requests: Entry | None = None
    first = last = 0
    for record in records(log):
        entry = record.entry
        if entry.kind is EntryKind.REQUESTS and entry.index == index:
            requests = entry
        if entry.kind < EntryKind.REQUESTS:
            first, last = first or entry.index, entry.index
            found = record if entry.index == index else found
    if found is None:
        have = f"it has {first} to {last}" if first else "it is empty"
        raise UsageError(f"entry {index} is not in this log; {have}", hint="paceline log ls")
    shape = _header(found)
    entry = found.entry
    if entry.kind in (EntryKind.TXN, EntryKind.TXN_PART):
        shape |= _transaction(entry, log, database)
    elif entry.kind is EntryKind.CONFIG:
        import json

        shape["config"] = json.loads(bytes(entry.body))
    elif entry.kind is EntryKind.BARRIER:
        shape["barrier"] = bytes(entry.body).hex()
    if requests is not None:
        shape["requests"] = _requests(requests)
    return shape


def _header(record: LogRecord) -> dict[str, Any]:
    entry = record.entry
    return {
        "index": entry.index,
        "term": entry.term,
        "kind": entry.kind.name.lower().replace("_", "-"),
        "time": time_text(entry.time_us),
        "position": str(entry.position),
        "crc32c": entry.record[4:8].hex(),
        "record_bytes": len(entry.record),
        "body_bytes": len(entry.body),
        "compressed": bool(entry.flags & EntryFlags.ZSTD),
        "segment": record.segment,
        "offset": record.offset,
    }


def _transaction(entry: Entry, log: str, database: str | None) -> dict[str, Any]:
    delta = page_format.decode(entry.body, entry.flags)
    images: Images = {}
    if database is not None:
        images = images_after(database, entry.index, delta, (record.entry for record in records(log)))
    shape: dict[str, Any] = {
        "page_size": delta.page_size,
        "database_pages": [delta.page_count_before, delta.page_count_after],
        "pages": [_page(entry, delta, row, images) for row in range(len(delta))],
    }
    if delta.requests:
        listed = decode_request_list(bytes(delta.requests))
        shape["request_ids"] = [
            {"durability": durability, "id": identity.hex() if identity else None}
            for durability, ids in listed.runs
            for identity in ids
        ]
        shape["failed_requests"] = listed.failed
    return shape


def _page(entry: Entry, delta: PageDelta, row: int, images: Images) -> dict[str, Any]:
    number = int(delta.pages[row])
    pair = images.get(number)
    return {
        "page": number,
        "hash_before": _hash(int(delta.before[row])),
        "hash_after": _hash(int(delta.after[row])),
        "images": "proved" if pair else "not known here",
        "changes": [_change(entry, delta, row, start, end, pair) for start, end in _runs(delta.xor[row])],
    }


def _change(
    entry: Entry, delta: PageDelta, row: int, start: int, end: int, pair: tuple[bytes, bytes] | None
) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "sequence": entry.index,
        "page": int(delta.pages[row]),
        "offset": start,
        "checksum": _hash(int(delta.after[row])),
    }
    if pair is None:
        return shape | {"xor": delta.xor[row][start:end].tobytes().hex()}
    return shape | {"old": pair[0][start:end].hex(), "new": pair[1][start:end].hex()}


def _runs(xor: U8) -> Iterator[tuple[int, int]]:
    """Ranges of changed bytes; small gaps belong to the range."""
    changed = np.flatnonzero(xor)
    if not len(changed):
        return
    breaks = np.flatnonzero(np.diff(changed) > _GAP)
    starts = [int(changed[0]), *(int(changed[i + 1]) for i in breaks)]
    ends = [*(int(changed[i]) for i in breaks), int(changed[-1])]
    for start, end in zip(starts, ends, strict=True):
        yield start, end + 1


def _hash(value: int) -> str:
    return f"{value:016x}" if value else "absent"


def _requests(entry: Entry) -> list[dict[str, Any]] | str:
    try:
        logged = decode_requests(entry.body)
    except BadEntry as error:
        return error.message
    return [
        {
            "outcome": request.outcome,
            "durability": request.durability,
            "id": request.request_id.hex() if request.request_id else None,
            "client": request.client,
            "rows_affected": request.rows_affected,
            "cut": request.cut,
            "statements": [{"sql": sql, "args": _args(args)} for sql, args in request.statements],
        }
        for request in logged
    ]


def _args(args: Any) -> Any:
    if isinstance(args, dict):
        return {name: to_json_value(value) for name, value in args.items()}
    return [to_json_value(value) for value in args]


# -- text ----------------------------------------------------------------------


def lines(shape: dict[str, Any], *, full: bool) -> Iterator[str]:
    """For people.  ``full`` shows all changed bytes instead of the first ones of each run."""
    yield f"entry {shape['index']}   term {shape['term']}   {shape['kind']}   {shape['time']}"
    yield f"  position  {shape['position']}"
    packed = ", zstd" if shape["compressed"] else ""
    body = f"body {shape['body_bytes']} bytes{packed}"
    yield f"  record    {shape['record_bytes']} bytes, CRC32C {shape['crc32c']}; {body}"
    yield f"  stored    {shape['segment']} at byte {shape['offset']}"
    if "config" in shape:
        import json

        yield from ("  " + line for line in json.dumps(shape["config"], indent=2).splitlines())
    if "barrier" in shape:
        yield f"  barrier   {shape['barrier']} (paceline verify)"
    yield from _request_lines(shape)
    if "pages" in shape:
        before, after = shape["database_pages"]
        size = plural(after, "page") if before == after else f"{before} → {plural(after, 'page')}"
        changed = plural(len(shape["pages"]), "page")
        yield f"  database  {size} of {shape['page_size']} bytes; {changed} changed"
        for page in shape["pages"]:
            yield ""
            yield from _page_lines(page, full=full)


def _request_lines(shape: dict[str, Any]) -> Iterator[str]:
    requests = shape.get("requests")
    if isinstance(requests, str):
        yield f"  requests  {requests}"
    elif requests is None and "request_ids" in shape:
        count = len(shape["request_ids"])
        failed = f", {shape['failed_requests']} failed" if shape["failed_requests"] else ""
        yield f"  requests  {count}{failed}; their SQL is only in the leader's own log"
    for number, request in enumerate(requests if isinstance(requests, list) else [], 1):
        identity = f"   id {request['id']}" if request["id"] else ""
        durability = request["durability"] or "default"
        yield f"  request {number}   {request['outcome']}   durability {durability}{identity}"
        for statement in request["statements"]:
            yield f"    {' '.join(statement['sql'].split())}"
            if statement["args"]:
                import json

                yield f"      {json.dumps(statement['args'], ensure_ascii=False)}"


def _page_lines(page: dict[str, Any], *, full: bool) -> Iterator[str]:
    yield f"  page {page['page']}   checksum {page['hash_before']} → {page['hash_after']}"
    if page["images"] != "proved":
        yield "    the images of this page are not known here; XOR of old and new:"
    yield "    sequence      page    offset  bytes"
    for change in page["changes"]:
        place = f"    {change['sequence']:8}  {change['page']:8}  {change['offset']:8}"
        if "xor" in change:
            yield f"{place}  xor {_hex(change['xor'], full)}"
        else:
            yield f"{place}  old {_hex(change['old'], full)}"
            yield f"{' ' * len(place)}  new {_hex(change['new'], full)}"


def _hex(text: str, full: bool) -> str:
    """Hex in groups of four digits, with the printable characters beside it."""
    data = bytes.fromhex(text)
    shown = data if full else data[:_SHOWN_BYTES]
    characters = "".join(chr(b) if 32 <= b < 127 else "." for b in shown)
    rest = f" … {plural(len(data), 'byte')}" if len(shown) < len(data) else ""
    return f"{shown.hex(' ', -2)}  |{characters}|{rest}"
