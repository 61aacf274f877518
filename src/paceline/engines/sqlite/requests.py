"""What the log keeps of the requests in a group: a list that ships, and a full record that does not.

- The *request list* stands in the entry's body: ids and durability of the
  requests that took effect, and how many failed.  One byte for a request
  without an id, as requests of one durability share its name.
- The *REQUESTS record* stands beside the entry in this node's own log: SQL,
  bindings, client and outcome of every request, compressed.  Custody, audit and
  ``log explain`` read it.  Too large for a record, it drops the longest values
  first and says so (``cut``).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import zstandard

from paceline.core.entry import EntryFlags, EntryKind, encode_local
from paceline.engines.base import Outcome, WriteRequest, join_local, split_local
from paceline.errors import BadEntry
from paceline.ids import Index, Term
from paceline.limits import ENTRY_BODY_BYTES_MAX

__all__ = [
    "LoggedRequest",
    "RequestList",
    "decode_request_list",
    "decode_requests",
    "encode_request_list",
    "encode_requests",
    "requests_record",
]

_LIMIT: Final = ENTRY_BODY_BYTES_MAX - 512
_CUTS: Final = (64 * 1024, 1024, 16)
"""Values longer than this are cut, tried one after the other."""


class RequestList(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Requests of one entry, in order: runs of (durability, ids; nil for a request without)."""

    failed: int
    runs: list[tuple[str, list[bytes | None]]]


class LoggedRequest(msgspec.Struct, array_like=True, gc=False):
    """One request as the leader ran it.  ``outcome``: 'ok', 'repeated', or the kind of error."""

    statements: list[tuple[Any, Any]]  # msgspec cannot type a union of text and bytes
    durability: str
    request_id: bytes | None
    client: str
    outcome: str
    rows_affected: int
    cut: bool = False


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_list: Final = msgspec.msgpack.Decoder(RequestList).decode
_decode_logged: Final = msgspec.msgpack.Decoder(list[LoggedRequest]).decode


class _Compressors(threading.local):
    """A compressor must not be shared between threads, and takes 10 us to make."""

    def __init__(self) -> None:
        self.one = zstandard.ZstdCompressor(level=1)


_compressors: Final = _Compressors()


def _compress(data: bytes) -> bytes:
    return _compressors.one.compress(data)


def encode_request_list(requests: Sequence[WriteRequest], outcomes: Sequence[Outcome]) -> bytes:
    failed = 0
    runs: list[tuple[str, list[bytes | None]]] = []
    for request, outcome in zip(requests, outcomes, strict=True):
        if outcome.error is not None:
            failed += 1
        elif outcome.repeated_at is None:
            if not runs or runs[-1][0] != request.durability:
                runs.append((request.durability, []))
            runs[-1][1].append(request.request_id)
    return _encode(RequestList(failed, runs))


def decode_request_list(data: bytes) -> RequestList:
    try:
        return _decode_list(data)
    except msgspec.MsgspecError as error:
        raise BadEntry(f"the entry's request list cannot be read: {error}") from error


def encode_requests(requests: Sequence[WriteRequest], outcomes: Sequence[Outcome]) -> bytes:
    """The body of a REQUESTS record without its capture mark: zstd of msgpack."""
    logged = [_log(request, outcome) for request, outcome in zip(requests, outcomes, strict=True)]
    try:
        body = _compress(_encode(logged))
    except (TypeError, ValueError, OverflowError):
        # An embedded client may pass what neither SQLite nor msgpack can hold; its request failed.
        for item in logged:
            _describe(item)
        body = _compress(_encode(logged))
    for longest in _CUTS:
        if len(body) <= _LIMIT:
            return body
        for item in logged:
            _cut(item, longest)
        body = _compress(_encode(logged))
    if len(body) > _LIMIT:
        for item in logged:
            item.statements, item.cut = [(str(sql)[:64], []) for sql, _ in item.statements[:16]], True
            item.client = item.client[:64]
        body = _compress(_encode(logged))
    assert len(body) <= _LIMIT, "GROUP_REQUESTS_MAX bounds this"
    return body


def _log(request: WriteRequest, outcome: Outcome) -> LoggedRequest:
    if outcome.error is not None:
        state, rows = type(outcome.error).__name__, 0
    else:
        state = "ok" if outcome.repeated_at is None else "repeated"
        rows = 0
        for result in outcome.results or ():
            rows += result.rows_affected
    return LoggedRequest(
        request.statements, request.durability, request.request_id, request.client, state, rows
    )


def _describe(item: LoggedRequest) -> None:
    """Text for the values of a request that cannot be encoded."""
    try:
        _encode(item)
    except (TypeError, ValueError, OverflowError):
        item.statements = [(ascii(sql), [ascii(args)]) for sql, args in item.statements]
        item.cut = True


def _cut(item: LoggedRequest, longest: int) -> None:
    def short(value: Any) -> Any:
        if isinstance(value, str | bytes) and len(value) > longest:
            item.cut = True
            return f"<{len(value)} {'characters' if isinstance(value, str) else 'bytes'} cut>"
        return value

    item.statements = [
        (
            sql,
            {name: short(value) for name, value in args.items()}
            if isinstance(args, dict)
            else [short(value) for value in args],
        )
        for sql, args in item.statements
    ]


def requests_record(term: Term, index: Index, mark: bytes, body: bytes, *, time_us: int) -> bytes:
    """The local record that belongs beside the TXN at ``index``."""
    return encode_local(
        EntryKind.REQUESTS, term, index, join_local(mark, body), time_us=time_us, flags=EntryFlags.NONE
    )


def decode_requests(body: bytes | memoryview) -> list[LoggedRequest]:
    """Requests in the body of a REQUESTS record (with its capture mark); raises ``BadEntry``."""
    _, packed = split_local(body)
    try:
        raw = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        return _decode_logged(raw)
    except (zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise BadEntry(f"the REQUESTS record cannot be read: {error}") from error
