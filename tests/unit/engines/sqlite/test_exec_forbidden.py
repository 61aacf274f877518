from __future__ import annotations

import sqlite3

import apsw
import pytest
from exec_support import Leader, many, one

from paceline.engines.sqlite import authorizer
from paceline.engines.sqlite.authorizer import Authorizer
from paceline.errors import Forbidden

FORBIDDEN = [
    "ATTACH ':memory:' AS x",
    "CREATE TEMP TABLE x(a)",
    "CREATE TABLE temp.x(a)",
    "CREATE TEMP VIEW x AS SELECT 1",
    "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE temp.x USING fts5(a)",
    "INSERT INTO _paceline_position VALUES (2, 1, 1, x'', '')",
    "UPDATE _paceline_position SET term = 9",
    'UPDATE "_PACELINE_position" SET term = 9',
    "DELETE FROM _paceline_requests",
    "DROP TABLE _paceline_position",
    "ALTER TABLE _paceline_position ADD COLUMN x",
    "ALTER TABLE t RENAME TO _paceline_mine",
    "CREATE TRIGGER x AFTER UPDATE ON _paceline_position BEGIN SELECT 1; END",
    "CREATE INDEX x ON _paceline_position(term)",
    "CREATE TABLE _paceline_mine(a)",
    "CREATE TABLE child(a REFERENCES _paceline_requests(first_index) ON DELETE CASCADE)",
    "SELECT load_extension('x')",
    "SELECT fts3_tokenizer('simple')",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA main.journal_mode(delete)",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA wal_checkpoint",
    "PRAGMA synchronous = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA page_size = 512",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA query_only = ON",
    "PRAGMA case_sensitive_like = ON",
    "PRAGMA hard_heap_limit = 1",
    "PRAGMA schema_version = 3",
    "EXPLAIN COMMIT",
    "COMMIT",
    "VACUUM INTO 'copy.db'",
]


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_forbidden_sql_is_refused_with_a_hint_and_changes_nothing(leader: Leader, sql: str) -> None:
    leader.ok(one("CREATE TABLE t(a)"), one("INSERT INTO t VALUES (1)", request_id=b"r"))
    before = leader.rows("SELECT type, name, sql FROM sqlite_schema")
    (outcome,) = leader.run(one(sql))
    assert isinstance(outcome.error, Forbidden)
    assert outcome.error.hint
    assert not leader.committed
    assert leader.rows("SELECT type, name, sql FROM sqlite_schema") == before


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA user_version = 7",
        "PRAGMA application_id = 7",
        "PRAGMA table_info(t)",
        "PRAGMA foreign_key_check",
        "PRAGMA integrity_check",
        "PRAGMA optimize",
        "PRAGMA journal_mode",
        "SELECT name FROM pragma_table_info('t')",
        "SELECT * FROM _paceline_position",
        "ANALYZE",
        "REINDEX",
        "ALTER TABLE t ADD COLUMN b",
        "ALTER TABLE t RENAME TO u",
    ],
)
def test_allowed_sql_runs(leader: Leader, sql: str) -> None:
    leader.ok(one("CREATE TABLE t(a)"))
    leader.ok(one(sql))


def test_our_own_statements_cannot_be_reached_by_their_text(leader: Leader) -> None:
    """APSW would hand out a prepared statement again without asking the authorizer."""
    leader.ok(one("CREATE TABLE t(a)"))
    leader.ok(one("INSERT INTO t VALUES (1)"))  # the position's UPDATE is prepared now
    update = "UPDATE _paceline_position SET term = ?, first_index = ?, prev_chain = ? WHERE id = 1"
    (outcome,) = leader.run(one(update, [9, 9, bytes(16)]))
    assert isinstance(outcome.error, Forbidden)


def test_a_trigger_cannot_write_what_its_author_may_not(leader: Leader) -> None:
    leader.ok(one("CREATE TABLE t(a)"))
    (made,) = leader.run(
        one("CREATE TRIGGER x AFTER INSERT ON t BEGIN UPDATE _paceline_position SET term = 9; END")
    )
    assert isinstance(made.error, Forbidden)


def test_a_trigger_that_an_import_brought_cannot_write_our_tables(leader: Leader) -> None:
    leader.ok(one("CREATE TABLE t(a)"))
    leader.writer.close()
    with sqlite3.connect(leader.path) as other:
        other.execute("CREATE TRIGGER x AFTER INSERT ON t BEGIN UPDATE _paceline_position SET term = 9; END")
    other.close()
    leader.writer = leader.open()
    (outcome,) = leader.run(one("INSERT INTO t VALUES (1)"))
    assert isinstance(outcome.error, Forbidden)


def test_every_action_of_sqlite_has_a_verdict() -> None:
    actions = {code for name, code in apsw.mapping_authorizer_function.items() if isinstance(name, str)}
    known = authorizer._FREE | set(authorizer._GUARDED) | set(authorizer._REFUSED)
    known |= {apsw.SQLITE_FUNCTION, apsw.SQLITE_PRAGMA, apsw.SQLITE_COPY}
    assert actions <= known


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(Forbidden):
        Authorizer()(999, None, None, None, None)


def test_forbidden_sql_leaves_its_neighbours_alone(leader: Leader) -> None:
    leader.ok(one("CREATE TABLE t(a)"))
    outcomes = leader.run(
        one("INSERT INTO t VALUES (1)"),
        many("INSERT INTO t VALUES (2)", "PRAGMA journal_mode = DELETE"),
        one("INSERT INTO t VALUES (3)"),
    )
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert leader.rows("SELECT a FROM t") == [[1], [3]]
