from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from exec_support import Leader, many, one

from paceline.engines.base import QueryResult
from paceline.engines.sqlite.connect import EngineOptions
from paceline.engines.sqlite.reads import Readers
from paceline.engines.sqlite.statements import Statements
from paceline.errors import Forbidden, Overloaded, SqlError, TimedOut, TooLarge, UsageError
from paceline.ids import DatabasePosition

ENDLESS = "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r) SELECT max(i) FROM r"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leader(make_leader: Callable[..., Leader]) -> Leader:
    made = make_leader()
    made.ok(many("CREATE TABLE t(a INTEGER, b TEXT)", "INSERT INTO t VALUES (1, 'x'), (2, 'y')"))
    return made


@pytest.fixture
def readers(leader: Leader, clock: Clock) -> Iterator[Readers]:
    made = Readers(
        leader.path, options=EngineOptions(readers_max=2), statements=Statements(), monotonic=clock
    )
    yield made
    made.close()


def ask(readers: Readers, sql: str, args: Any = (), **limits: Any) -> QueryResult:
    limits = {"deadline": None, "rows_max": 1000, "bytes_max": 100_000} | limits
    return readers.query(sql, list(args) if isinstance(args, tuple) else args, **limits)


def test_a_read_answers_rows_columns_types_and_its_position(leader: Leader, readers: Readers) -> None:
    found = ask(readers, "SELECT a, b, a + 1 AS c FROM t WHERE a = ?", [2])
    assert (found.columns, found.types) == (["a", "b", "c"], ["INTEGER", "TEXT", None])
    assert found.rows == [[2, "y", 3]]
    assert found.position == DatabasePosition(1, 1, bytes(16))  # type: ignore[arg-type]
    leader.ok(one("INSERT INTO t VALUES (3, 'z')"))
    assert ask(readers, "SELECT 1").position == DatabasePosition(1, 2, bytes(16))  # type: ignore[arg-type]


def test_an_empty_result_has_columns(readers: Readers) -> None:
    found = ask(readers, "SELECT a, b FROM t WHERE 0")
    assert (found.columns, found.rows) == (["a", "b"], [])


def test_what_the_leader_has_not_committed_is_not_seen(leader: Leader, readers: Readers) -> None:
    leader.run(one("INSERT OR ROLLBACK INTO nothing VALUES (1)"))
    assert ask(readers, "SELECT count(*) FROM t").rows == [[2]]


@pytest.mark.parametrize(
    "sql", ["EXPLAIN DELETE FROM t", "EXPLAIN QUERY PLAN SELECT * FROM t", "PRAGMA table_info(t)"]
)
def test_explain_and_reading_pragmas_work(readers: Readers, sql: str) -> None:
    assert ask(readers, sql).rows


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (1, 1)",
        "DELETE FROM t RETURNING a",
        "WITH x AS (SELECT 1) UPDATE t SET a = 2",
        "CREATE TABLE u(a)",
        "PRAGMA user_version = 3",
        "VACUUM",
        "REINDEX",
    ],
)
def test_a_read_cannot_write(readers: Readers, sql: str) -> None:
    with pytest.raises(UsageError, match="may write"):
        ask(readers, sql)
    assert ask(readers, "SELECT count(*) FROM t").rows == [[2]]


def test_the_connection_itself_cannot_write_either(leader: Leader, readers: Readers) -> None:
    """The lexer is not the only fence."""
    reader, generation = readers._take()
    with pytest.raises(UsageError, match="may write"):
        reader.query("INSERT INTO t VALUES (1, 1)", [], 10, 10)
    readers._give(reader, generation)


def test_forbidden_sql_is_forbidden_in_reads_too(readers: Readers) -> None:
    for sql in ("SELECT load_extension('x')", "EXPLAIN ATTACH 'x' AS y", "BEGIN"):
        with pytest.raises(Forbidden):
            ask(readers, sql)


def test_results_are_bounded(readers: Readers) -> None:
    with pytest.raises(TooLarge, match="rows"):
        ask(readers, "SELECT * FROM t", rows_max=1)
    with pytest.raises(TooLarge, match="bytes"):
        ask(readers, "SELECT zeroblob(200000)")
    assert ask(readers, "SELECT * FROM t", rows_max=2).rows
    assert len(readers._idle) == 1


def test_a_read_stops_at_its_deadline(readers: Readers, clock: Clock) -> None:
    clock.step = 0.01
    with pytest.raises(TimedOut):
        ask(readers, ENDLESS, deadline=1.0)
    with pytest.raises(TimedOut):
        ask(readers, "SELECT 1", deadline=clock.now)
    assert ask(readers, "SELECT 1").rows == [[1]]


def test_errors_are_named(readers: Readers) -> None:
    with pytest.raises(SqlError, match="no such table"):
        ask(readers, "SELECT * FROM missing")
    with pytest.raises(UsageError, match="argument 1"):
        ask(readers, "SELECT ?", [2**64])
    with pytest.raises(SqlError, match="UTF-8"):
        ask(readers, "SELECT CAST(x'ff' AS TEXT)")
    assert ask(readers, "SELECT 1").rows == [[1]]


def test_more_reads_than_connections_wait_and_then_fail(leader: Leader, readers: Readers) -> None:
    taken = [readers._free.acquire() for _ in range(2)]
    assert all(taken)
    with pytest.raises(Overloaded):
        ask(readers, "SELECT 1", deadline=0.01)
    readers._free.release(2)
    assert ask(readers, "SELECT 1").rows == [[1]]


def test_many_threads_read_one_pool(leader: Leader, readers: Readers) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(30):
                assert ask(readers, "SELECT a FROM t").rows[:2] == [[1], [2]]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        leader.ok(one("INSERT INTO t VALUES (9, 'n')"))
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(readers._idle) <= 2


def test_after_reopen_every_connection_is_new(leader: Leader, readers: Readers) -> None:
    ask(readers, "SELECT 1")
    old = readers._idle[0]
    held, generation = readers._take()
    assert held is old
    readers.reopen()
    readers._give(held, generation)
    assert readers._idle == []
    assert ask(readers, "SELECT 1").rows == [[1]]
    assert readers._idle[0] is not old
