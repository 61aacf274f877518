from __future__ import annotations

import os

import pytest
from exec_support import many, one

from paceline.core.entry import EntryKind, decode_entry
from paceline.engines.base import Outcome, StatementResult, split_local
from paceline.engines.sqlite import requests
from paceline.engines.sqlite.requests import (
    decode_request_list,
    decode_requests,
    encode_request_list,
    encode_requests,
    requests_record,
)
from paceline.errors import BadEntry, UsageError
from paceline.ids import Index, Term

REQUESTS = [
    one("INSERT INTO t VALUES (?, ?)", [1, b"\xff"], request_id=b"a", client="me"),
    one("INSERT INTO t VALUES (:x)", {"x": None}),
    many("SELECT 1", "SELECT 2.5"),
    one("nonsense"),
    one("INSERT", request_id=b"z"),
]
REQUESTS[2].durability = "quorum"
OUTCOMES = [
    Outcome(results=[StatementResult(1, 2)]),
    Outcome(results=[StatementResult(1, 1)]),
    Outcome(results=[StatementResult(), StatementResult()]),
    Outcome(error=UsageError("no")),
    Outcome(results=[], repeated_at=Index(3)),
]


def test_the_request_list_names_what_took_effect() -> None:
    found = decode_request_list(encode_request_list(REQUESTS, OUTCOMES))
    assert found.failed == 1
    assert found.runs == [("local", [b"a", None]), ("quorum", [None])]


def test_a_request_without_id_takes_one_byte_of_the_list() -> None:
    small = encode_request_list(REQUESTS[1:2] * 16, OUTCOMES[1:2] * 16)
    large = encode_request_list(REQUESTS[1:2] * 116, OUTCOMES[1:2] * 116)
    assert len(large) - len(small) == 100


def test_the_record_holds_sql_bindings_client_and_outcome() -> None:
    body = encode_requests(REQUESTS, OUTCOMES)
    entry = decode_entry(requests_record(Term(2), Index(9), b"mark", body, time_us=5))
    assert (entry.kind, entry.term, entry.index) == (EntryKind.REQUESTS, 2, 9)
    assert split_local(entry.body) == (b"mark", body)
    found = decode_requests(entry.body)
    assert [item.outcome for item in found] == ["ok", "ok", "ok", "UsageError", "repeated"]
    assert [list(map(list, item.statements)) for item in found] == [
        [list(statement) for statement in request.statements] for request in REQUESTS
    ]
    assert (found[0].client, found[0].rows_affected, found[0].request_id) == ("me", 2, b"a")
    assert not any(item.cut for item in found)


def test_a_record_too_large_loses_its_longest_values_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_LIMIT", 200_000)
    long, short = os.urandom(300_000), os.urandom(1_000)
    group = [one("INSERT INTO t VALUES (?)", [long]), one("INSERT INTO t VALUES (?)", [short])]
    body = encode_requests(group, OUTCOMES[:2])
    assert len(body) <= 200_000
    first, second = decode_requests(b"\0" + body)
    assert first.cut and "300000 bytes cut" in first.statements[0][1][0]
    assert not second.cut and second.statements[0][1] == [short]
    assert group[0].statements[0][1] == [long]


def test_a_record_of_huge_sql_still_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_LIMIT", 4_000)
    group = [many(*[f"SELECT '{os.urandom(500).hex()}'" for _ in range(50)])]
    body = encode_requests(group, OUTCOMES[2:3])
    assert len(body) <= 4_000
    (item,) = decode_requests(b"\0" + body)
    assert item.cut and len(item.statements) == 16


def test_damaged_bytes_are_bad_entries() -> None:
    body = encode_requests(REQUESTS, OUTCOMES)
    for bad in (b"\0", b"\0" + body[:-9], b"\0garbage"):
        with pytest.raises(BadEntry):
            decode_requests(bad)
    with pytest.raises(BadEntry):
        decode_request_list(b"\xc1")
