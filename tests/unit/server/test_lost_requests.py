"""Requests of lost entries: from the note beside the entry, from the entry itself, or from the pages' memory of ids."""

from __future__ import annotations

from typing import Any

import msgspec

from paceline.server.lost import _id, _named
from paceline.server.lostrows import remembered_ids


def request(index: int, *, sql: bool = False, id: str | None = None) -> dict[str, Any]:
    return {"index": index, "sql": [] if sql else None, "request_id": id, "problem": None}


def test_requests_that_nobody_logged_get_their_ids_and_true_indexes_in_order() -> None:
    nameless = [request(106), request(107)]
    found = _named(nameless, {25: [b"b", b"c"], 24: [b"a"]})
    assert [(r["index"], r["request_id"]) for r in found] == [(24, "a"), (25, "b"), (25, "c")]


def test_requests_that_were_logged_keep_what_they_say() -> None:
    logged = [request(7, sql=True, id="x"), request(8, sql=True)]
    assert _named(logged, {7: [b"x"]}) == logged


def test_nothing_is_guessed_when_a_group_left_no_ids() -> None:
    nameless = [request(106), request(107)]
    assert _named(nameless, {24: [b"a"]}) == nameless


def test_ids_are_read_from_the_engines_memory() -> None:
    assert remembered_ids(msgspec.msgpack.encode([[b"a", None], [b"\xff", b"results"]])) == [b"a", b"\xff"]


def test_an_id_is_text_where_it_is_one() -> None:
    assert _id(None) is None
    assert _id("bestellung-é".encode()) == "bestellung-é"
    assert _id(b"\xff\x00") == "x'ff00'" and _id(b"a\nb") == "x'610a62'"
