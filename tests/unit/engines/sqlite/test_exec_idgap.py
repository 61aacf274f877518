"""Each reign leaves a gap in the ids of AUTOINCREMENT tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from exec_support import Leader, many, one

from paceline.engines.base import Group, Outcome, WriteRequest
from paceline.engines.sqlite.connect import EngineOptions
from paceline.engines.sqlite.idgap import ID_TABLES_SQL, id_tables
from paceline.engines.sqlite.reads import Readers
from paceline.engines.sqlite.statements import Statements
from paceline.errors import SqlError
from paceline.ids import Index, Slot, Term

GAP = 1_000
ADD = "INSERT INTO t(a) VALUES (?) RETURNING id"


@pytest.fixture
def leader(make_leader: Callable[..., Leader]) -> Leader:
    made = make_leader()
    run(made, 1, many("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a UNIQUE)"))
    return made


def run(leader: Leader, term: int, *requests: WriteRequest, gap: int = GAP) -> list[Outcome]:
    slot = Slot(Term(term), Index(leader.index + 1), bytes(16))
    group = Group(slot, list(requests), 0, lambda entry: None, id_gap=gap)
    outcomes, changed = leader.writer.run(group)
    leader.index += changed
    leader.writer.hold(wait=False)
    return outcomes


def ids(outcomes: list[Outcome]) -> list[Any]:
    return [o.results[0].rows[0][0] if o.results and o.results[0].rows else None for o in outcomes]


def test_first_write_of_a_reign_leaves_a_gap_once(leader: Leader) -> None:
    assert ids(run(leader, 1, one(ADD, [1]), one(ADD, [2]))) == [1, 2]
    assert ids(run(leader, 2, one(ADD, [3]), one(ADD, [4]))) == [GAP + 3, GAP + 4]
    assert ids(run(leader, 2, one(ADD, [5]))) == [GAP + 5]
    leader.reign_again()  # a new writer in the same term has nothing to fear
    assert ids(run(leader, 2, one(ADD, [6]))) == [GAP + 6]
    leader.reign_again()
    assert ids(run(leader, 7, one(ADD, [7]))) == [2 * GAP + 7]


def test_gap_of_zero_leaves_nothing_out(leader: Leader) -> None:
    run(leader, 1, one(ADD, [1]), gap=0)
    assert ids(run(leader, 2, one(ADD, [2]), gap=0)) == [2]


def test_table_without_rows_gets_its_gap_too(leader: Leader) -> None:
    """What was lost may have been its first rows."""
    assert ids(run(leader, 2, one(ADD, [1]))) == [GAP + 1]


def test_a_group_that_changes_nothing_leaves_the_gap_to_the_next(leader: Leader) -> None:
    run(leader, 1, one(ADD, [1]))
    run(leader, 2, one("nonsense"), one(ADD, [1]), one("SELECT 1"))
    assert not leader.rows("SELECT 1 FROM sqlite_sequence WHERE seq > 1000")
    assert ids(run(leader, 2, one(ADD, [2]))) == [GAP + 2]


def test_requests_that_run_singly_share_one_gap(leader: Leader) -> None:
    run(leader, 1, one(ADD, [1]))
    bad = one("INSERT OR ROLLBACK INTO t(a) VALUES (1)")
    outcomes = run(leader, 2, one(ADD, [2]), bad, one(ADD, [3]), bad, one(ADD, [4]))
    assert ids(outcomes) == [GAP + 2, None, GAP + 3, None, GAP + 4]


def test_request_that_ends_the_transaction_leaves_the_gap_in_the_second_attempt(leader: Leader) -> None:
    run(leader, 1, one(ADD, [1]))
    outcomes = run(leader, 2, one("INSERT OR ROLLBACK INTO t(a) VALUES (1)"), one(ADD, [2]))
    assert isinstance(outcomes[0].error, SqlError)
    assert ids(outcomes) == [None, GAP + 2]


@pytest.mark.parametrize("seq", [2**63 - 1, 2**63 - GAP, "'x'", 1.5])
def test_counter_that_cannot_be_moved_is_left_alone(leader: Leader, seq: object) -> None:
    run(leader, 1, one(ADD, [1]), one(f"UPDATE sqlite_sequence SET seq = {seq}"))
    run(leader, 2, one("CREATE TABLE other(a)"))
    ((kept,),) = leader.rows("SELECT seq FROM sqlite_sequence")
    assert kept == (seq if seq != "'x'" else "x")


def test_a_word_in_a_comment_makes_no_counter(leader: Leader) -> None:
    run(leader, 1, one("CREATE TABLE u(id INTEGER PRIMARY KEY /* not AUTOINCREMENT */, a)"))
    run(leader, 2, one(ADD, [1]))
    assert leader.rows("SELECT name FROM sqlite_sequence") == [["t"]]


def test_tables_whose_ids_may_come_again_are_told(leader: Leader) -> None:
    run(
        leader,
        1,
        many(
            "CREATE TABLE plain(id INTEGER PRIMARY KEY, a)",
            "CREATE TABLE 'quoted name'(a, b integer, PRIMARY KEY (b))",
            "CREATE TABLE big(id BIGINT PRIMARY KEY)",
            "CREATE TABLE pair(a INTEGER, b INTEGER, PRIMARY KEY (a, b))",
            "CREATE TABLE rowless(id INTEGER PRIMARY KEY) WITHOUT ROWID",
            "CREATE TABLE heap(a)",
            "CREATE VIRTUAL TABLE words USING fts5(a)",
        ),
        one("INSERT INTO plain(a) VALUES (1)", request_id=b"r"),
    )
    readers = Readers(leader.path, options=EngineOptions(), statements=Statements(), monotonic=time.monotonic)
    try:
        rows = readers.query(ID_TABLES_SQL, [], deadline=None, rows_max=99, bytes_max=99_999).rows
    finally:
        readers.close()
    found = {item["table"]: item["reused"] for item in id_tables(rows)}
    assert {name: found[name] for name in ("plain", "quoted name", "t")} == {
        "plain": True,
        "quoted name": True,
        "t": False,
    }
    assert not found.keys() & {"big", "pair", "rowless", "heap", "words", "_paceline_requests"}
