from __future__ import annotations

import pytest

from paceline.engines.sqlite.statements import Statements, classify
from paceline.errors import Forbidden, TooLarge, UsageError
from paceline.limits import SQL_BYTES_MAX

TRIGGER = "CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET x = CASE WHEN 1 THEN 2 END; SELECT 1; END"


@pytest.mark.parametrize(
    ("sql", "verb", "writes", "rows"),
    [
        ("select 1", "SELECT", False, True),
        ("  -- hello; \n /* a;b */ SELECT ';' ; ", "SELECT", False, True),
        ("\ufeffVALUES (1)", "VALUES", False, True),
        ("insert into t values (1)", "INSERT", True, False),
        ("REPLACE INTO t VALUES (1) RETURNING x", "REPLACE", True, True),
        ("with a as (select ';'), b as (delete_me) insert into t select * from a", "INSERT", True, False),
        ("with a(x) as (values (1)) select * from a", "SELECT", False, True),
        ("EXPLAIN DELETE FROM t", "EXPLAIN", False, True),
        ("pragma table_info(t)", "PRAGMA", False, True),
        ("pragma user_version", "PRAGMA", False, True),
        ("pragma main . user_version = 4", "PRAGMA", True, True),
        ("pragma user_version(4)", "PRAGMA", True, True),
        ("pragma incremental_vacuum", "PRAGMA", True, True),
        (TRIGGER, "CREATE", True, False),
        (TRIGGER + ";", "CREATE", True, False),
        ('insert into "a;b" values (`c;`, [d;], "e""f;")', "INSERT", True, False),
        ("select 1 /* never closed ; ", "SELECT", False, True),
        ("(select 1)", "?", True, True),
    ],
)
def test_a_statement_is_classified(sql: str, verb: str, writes: bool, rows: bool) -> None:
    found = classify(sql)
    assert (found.verb, found.writes, found.returns_rows) == (verb, writes, rows)


@pytest.mark.parametrize(
    "sql",
    [
        "select 1; select 2",
        "insert into t values (1); -- x\n commit",
        TRIGGER + "; drop table a",
        "select 1;;; select 2",
    ],
)
def test_several_statements_in_one_text_are_refused(sql: str) -> None:
    with pytest.raises(UsageError, match="more than one"):
        classify(sql)


@pytest.mark.parametrize("sql", ["", "  ", "-- only a comment", ";;", "/* x */ ;"])
def test_an_empty_text_is_refused(sql: str) -> None:
    with pytest.raises(UsageError, match="empty"):
        classify(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "begin",
        "BEGIN IMMEDIATE",
        "/**/commit",
        "End",
        "rollback to x",
        "SAVEPOINT s",
        ";release s",
        "attach 'x' as y",
        "detach y",
        "vacuum into 'x'",
        "VACUUM main INTO 'x'",
        "create table _paceline_x(a)",
        "alter table a rename to _PaceLine_requests",
        "create table c(x references _paceline_requests)",
    ],
)
def test_transaction_words_and_reserved_names_are_forbidden(sql: str) -> None:
    with pytest.raises(Forbidden) as caught:
        classify(sql)
    assert caught.value.hint


def test_plain_vacuum_is_recognised() -> None:
    assert classify("vacuum").vacuum
    assert classify('VACUUM "main";').vacuum
    with pytest.raises(UsageError):
        classify("vacuum other")


def test_bad_texts_are_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="surrogate"):
        classify("select '\ud800'")
    with pytest.raises(UsageError, match="NUL"):
        classify("select 1\0")
    with pytest.raises(TooLarge):
        classify("select '" + "x" * SQL_BYTES_MAX + "'")


def test_the_cache_is_bounded_in_bytes_and_keeps_what_is_used() -> None:
    statements = Statements(bytes_max=2_000)
    first = statements.get("select 0")
    for number in range(1, 50):
        statements.get(f"select {number}")
        assert statements.get("select 0") is first
    assert len(statements) < 8
