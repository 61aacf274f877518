"""Which of SQLite's errors fail one request, and which stop the node."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import apsw
import pytest
from exec_support import Leader, many, one

from paceline.engines.sqlite.requests import decode_requests, encode_requests
from paceline.errors import Corruption, SqlError, UsageError


def test_damaged_pages_stop_the_node_and_name_the_file(leader: Leader) -> None:
    leader.ok(many("CREATE TABLE t(a)", "INSERT INTO t VALUES (zeroblob(100000))"))
    leader.ok(
        one(
            "WITH RECURSIVE r(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM r WHERE i < 2000)"
            " INSERT INTO t SELECT randomblob(100) FROM r"
        )
    )
    leader.writer.release()
    leader.writer.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    leader.writer.close()
    with open(leader.path, "r+b") as file:
        file.seek(4096 * 30)
        file.write(os.urandom(4096 * 30))
    leader.writer = leader.open()
    with pytest.raises(Corruption, match=r"leader0\.db"):
        leader.run(one("SELECT sum(length(a)) FROM t"))


def test_an_odd_virtual_table_fails_its_request_only(leader: Leader) -> None:
    leader.ok(
        many(
            "CREATE TABLE body(a)",
            "CREATE VIRTUAL TABLE f USING fts5(a, content='body')",
            "INSERT INTO f(rowid, a) VALUES (1, 'one two')",
        )
    )
    odd, fine = leader.run(
        one("INSERT INTO f(f, rank) VALUES ('integrity-check', 1)"), one("INSERT INTO body VALUES (1)")
    )
    assert isinstance(odd.error, SqlError)
    assert odd.error.name == "SQLITE_CORRUPT_VTAB"
    assert fine.error is None


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("INSERT INTO t(a) VALUES (1)", "SQLITE_CONSTRAINT_UNIQUE"),
        ("INSERT INTO t(a, b) VALUES (2, NULL)", "SQLITE_CONSTRAINT_NOTNULL"),
        ("INSERT INTO t(a, c) VALUES (2, -1)", "SQLITE_CONSTRAINT_CHECK"),
        ("INSERT INTO s VALUES ('x')", "SQLITE_CONSTRAINT_DATATYPE"),
        ("SELECT abs(-9223372036854775808)", "SQLITE_ERROR"),
        ("SELECT nothing", "SQLITE_ERROR"),
    ],
)
def test_errors_carry_sqlites_own_names(leader: Leader, sql: str, name: str) -> None:
    leader.ok(
        many(
            "CREATE TABLE t(a UNIQUE, b NOT NULL DEFAULT 0, c CHECK (c > 0))",
            "INSERT INTO t(a) VALUES (1)",
            "CREATE TABLE s(a INTEGER) STRICT",
        )
    )
    (outcome,) = leader.run(many("SELECT 1", sql))
    assert isinstance(outcome.error, SqlError)
    assert outcome.error.name == name
    assert outcome.error.extended & 0xFF == outcome.error.code
    assert outcome.error.statement == 2


class Strange:
    pass


@pytest.mark.parametrize("value", [Strange(), 2**70, "\ud800", [1], {"a": Strange()}])
def test_values_that_nobody_can_hold_fail_their_request_and_can_be_logged(leader: Leader, value: Any) -> None:
    requests = [one("SELECT 1"), one("SELECT ?", [value])]
    outcomes = leader.run(*requests)
    assert isinstance(outcomes[1].error, UsageError)
    first, second = decode_requests(b"\0" + encode_requests(requests, outcomes))
    assert first.statements[0][0] == "SELECT 1" and not first.cut
    assert second.outcome == "UsageError"


@pytest.mark.parametrize("sql", [None, 5, [], b"SELECT 1", "SELECT '\ud800'"])
def test_a_statement_that_is_no_text_is_refused(leader: Leader, sql: Any) -> None:
    requests = [one(sql), one("CREATE TABLE t(a)")]
    bad, fine = leader.run(*requests)
    assert isinstance(bad.error, UsageError) and fine.error is None
    assert decode_requests(b"\0" + encode_requests(requests, [bad, fine]))


def test_a_bug_of_ours_is_not_taken_for_the_users(
    make_leader: Callable[..., Leader], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = make_leader()

    def bug(*_: Any) -> None:
        raise TypeError("ours")

    monkeypatch.setattr("paceline.engines.sqlite.writer.check_args", bug)
    with pytest.raises(TypeError, match="ours"):
        leader.run(one("SELECT 1"))
