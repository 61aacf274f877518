"""A request fails alone: whatever SQLite does to the group's transaction, its neighbours keep theirs."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from exec_support import Leader, many, one

from paceline.errors import DiskFull, Overloaded, SqlError, TimedOut, TooLarge, Unavailable, UsageError
from paceline.ids import DatabasePosition

ENDLESS = "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r) INSERT INTO t SELECT i FROM r"
SCHEMA = """CREATE TABLE t(a)
CREATE TABLE u(a UNIQUE ON CONFLICT ROLLBACK)
CREATE TABLE f(a UNIQUE)
CREATE TABLE p(id INTEGER PRIMARY KEY)
CREATE TABLE c(pid REFERENCES p(id) DEFERRABLE INITIALLY DEFERRED)
CREATE TABLE now(pid REFERENCES p(id))
CREATE TRIGGER no BEFORE INSERT ON t WHEN new.a = -1 BEGIN SELECT RAISE(ROLLBACK, 'no way'); END
CREATE TRIGGER part AFTER INSERT ON t WHEN new.a = -2 BEGIN SELECT RAISE(FAIL, 'half way'); END
INSERT INTO u VALUES (1)
INSERT INTO f VALUES (5)"""


class Clock:
    """Stands still until a statement has looked at it ``patience`` times."""

    def __init__(self) -> None:
        self.looks = 0
        self.patience = 3

    def __call__(self) -> float:
        self.looks += 1
        return 0.0 if self.looks < self.patience else 1e9


@pytest.fixture
def leader(make_leader: Callable[..., Leader]) -> Leader:
    made = make_leader(foreign_keys=True)
    made.ok(many(*SCHEMA.split("\n")))
    return made


FAILURES = {
    "constraint": (one("INSERT INTO f VALUES (5)"), "UNIQUE"),
    "syntax": (one("INSRT INTO t VALUES (1)"), "syntax error"),
    "second statement": (many("INSERT INTO t VALUES (9)", "INSERT INTO f VALUES (5)"), "UNIQUE"),
    "or rollback": (one("INSERT OR ROLLBACK INTO f VALUES (5)"), "UNIQUE"),
    "schema rollback": (one("INSERT INTO u VALUES (1)"), "UNIQUE"),
    "raise rollback": (one("INSERT INTO t VALUES (-1)"), "no way"),
    "or fail keeps nothing": (one("INSERT OR FAIL INTO f VALUES (98), (99), (5)"), "UNIQUE"),
    "raise fail keeps nothing": (one("INSERT INTO t VALUES (-2)"), "half way"),
    "deferred foreign key": (one("INSERT INTO c VALUES (77)"), "FOREIGN KEY"),
    "immediate foreign key": (one("INSERT INTO now VALUES (77)"), "FOREIGN KEY"),
    "deferred by pragma": (
        many("PRAGMA defer_foreign_keys = ON", "INSERT INTO now VALUES (77)"),
        "FOREIGN KEY",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_neighbours_keep_their_work(leader: Leader, name: str) -> None:
    culprit, message = FAILURES[name]
    before = leader.index
    outcomes = leader.run(one("INSERT INTO t VALUES (1)"), culprit, one("INSERT INTO t VALUES (2)"))
    assert outcomes[0].error is None and outcomes[2].error is None
    error = outcomes[1].error
    assert isinstance(error, SqlError) and message in error.message
    assert outcomes[1].results is None
    assert error.name.startswith(("SQLITE_CONSTRAINT", "SQLITE_ERROR"))
    assert leader.rows("SELECT a FROM t") == [[1], [2]]
    assert leader.rows("SELECT a FROM f") == [[5]]
    assert leader.rows("SELECT (SELECT count(*) FROM c) + (SELECT count(*) FROM now)") == [[0]]
    assert leader.writer.position() == DatabasePosition(1, before + 1, bytes(16))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FAILURES)
def test_a_group_of_failures_leaves_no_entry(leader: Leader, name: str) -> None:
    culprit, _ = FAILURES[name]
    position = leader.writer.position()
    outcomes = leader.run(culprit, culprit, culprit)
    assert all(isinstance(outcome.error, SqlError) for outcome in outcomes)
    assert not leader.committed
    assert leader.writer.position() == position


def test_a_second_lost_transaction_makes_the_group_run_singly(leader: Leader) -> None:
    bad = [FAILURES[name][0] for name in ("or rollback", "raise rollback", "schema rollback")]
    outcomes = leader.run(
        *[item for culprit in bad for item in (one("INSERT INTO t VALUES (1)"), culprit)],
        one("INSERT INTO t VALUES (2) RETURNING a", request_id=b"x"),
    )
    assert [outcome.error is None for outcome in outcomes] == [True, False] * 3 + [True]
    assert leader.rows("SELECT a FROM t") == [[1], [1], [1], [2]]
    (again,) = leader.ok(one("INSERT INTO t VALUES (2)", request_id=b"x"))
    assert again.repeated_at == leader.index


def test_pragma_defer_foreign_keys_counts_for_its_own_request_only(leader: Leader) -> None:
    first, second = leader.run(
        many("PRAGMA defer_foreign_keys = ON", "INSERT INTO now VALUES (3)", "INSERT INTO p VALUES (3)"),
        many("INSERT INTO now VALUES (4)", "INSERT INTO p VALUES (4)"),
    )
    assert first.error is None
    assert isinstance(second.error, SqlError) and second.error.statement == 1


def test_a_time_limit_stops_one_request(make_leader: Callable[..., Leader]) -> None:
    clock = Clock()
    leader = make_leader(monotonic=clock)
    leader.ok(one("CREATE TABLE t(a)"))
    outcomes = leader.run(
        one("INSERT INTO t VALUES (1)"),
        one(ENDLESS, deadline=5.0),
        one("INSERT INTO t VALUES (2)"),
    )
    assert isinstance(outcomes[1].error, TimedOut)
    assert outcomes[0].error is None and outcomes[2].error is None
    assert leader.rows("SELECT a FROM t") == [[1], [2]]
    assert clock.looks >= clock.patience


def test_a_request_whose_time_is_over_does_not_run(make_leader: Callable[..., Leader]) -> None:
    leader = make_leader(monotonic=lambda: 10.0)
    late, fine = leader.run(one("CREATE TABLE t(a)", deadline=9.0), one("CREATE TABLE u(a)", deadline=11.0))
    assert isinstance(late.error, TimedOut) and fine.error is None
    assert leader.rows("SELECT name FROM sqlite_schema WHERE name IN ('t', 'u')") == [["u"]]


def test_a_full_database_fails_the_large_request_only(leader: Leader) -> None:
    leader.allow_pages(10)
    outcomes = leader.run(
        one("INSERT INTO t VALUES (1)"),
        one("INSERT INTO t VALUES (zeroblob(1000000))"),
        one("INSERT INTO t VALUES (2)"),
    )
    assert isinstance(outcomes[1].error, DiskFull)
    assert outcomes[0].error is None and outcomes[2].error is None
    assert leader.rows("SELECT a FROM t") == [[1], [2]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where the machine lets us mount one."""
    where = tmp_path / "disk"
    where.mkdir()
    mounted = os.geteuid() == 0 and (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(where)], capture_output=True
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("cannot mount a tmpfs here")
    yield where
    subprocess.run(["umount", str(where)], check=True)


def test_a_full_disk_fails_requests_and_leaves_the_database_whole(small_disk: Path) -> None:
    leader = Leader(str(small_disk / "x.db"), cache_bytes=64 * 1024)
    try:
        leader.ok(one("CREATE TABLE t(a)"))
        outcomes = leader.run(
            one("INSERT INTO t VALUES (1)"),
            one("INSERT INTO t VALUES (randomblob(3000000))"),
            one("INSERT INTO t VALUES (2)"),
        )
        assert isinstance(outcomes[1].error, DiskFull)
        assert [outcome.error for outcome in outcomes[::2]] == [None, None]
        assert leader.rows("SELECT a FROM t") == [[1], [2]]
        failed = 0
        for _ in range(200):
            (outcome,) = leader.run(one("INSERT INTO t VALUES (randomblob(20000))"))
            failed += isinstance(outcome.error, DiskFull)
        assert failed
        assert leader.rows("PRAGMA integrity_check") == [["ok"]]
        kept = leader.rows("SELECT count(*) FROM t")[0][0]
        assert kept == 2 + 200 - failed
    finally:
        leader.close()


def test_results_of_a_select_are_bounded(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.engines.sqlite.writer.RESULT_ROWS_MAX", 5)
    outcomes = leader.run(
        many("INSERT INTO t VALUES (1)", "SELECT value FROM json_each('[1,2,3,4,5,6]')"),
        one("INSERT INTO t VALUES (2), (3), (4), (5), (6), (7) RETURNING a"),
        one("SELECT value FROM json_each('[1,2,3,4,5]')"),
    )
    assert isinstance(outcomes[0].error, TooLarge) and isinstance(outcomes[1].error, TooLarge)
    assert outcomes[2].error is None
    assert leader.rows("SELECT a FROM t") == []


def test_result_bytes_are_bounded_over_the_whole_request(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paceline.engines.sqlite.writer.RESULT_BYTES_MAX", 1_000)
    half = "SELECT zeroblob(600)"
    fine, large = leader.run(one(half), many(half, half))
    assert fine.error is None
    assert isinstance(large.error, TooLarge)


def test_only_reads_leave_no_entry(leader: Leader) -> None:
    leader.ok(one("SELECT 1"), one("PRAGMA user_version"))
    assert not leader.committed


def test_vacuum_runs_after_its_neighbours_and_alone(leader: Leader) -> None:
    leader.ok(one("INSERT INTO t VALUES (zeroblob(100000))"))
    leader.ok(one("DELETE FROM t"))
    assert leader.rows("PRAGMA freelist_count")[0][0] > 20
    outcomes = leader.run(
        one("INSERT INTO t VALUES (1)"),
        one("VACUUM"),
        many("INSERT INTO t VALUES (2)", "VACUUM"),
        one("vacuum main"),
    )
    assert [outcome.error is None for outcome in outcomes] == [True, True, False, True]
    assert isinstance(outcomes[2].error, UsageError)
    assert outcomes[1].results is not None
    assert leader.committed
    assert leader.rows("PRAGMA freelist_count") == [[0]]
    assert leader.rows("SELECT a FROM t") == [[1]]


def test_a_foreign_writer_is_locked_out_between_groups(leader: Leader) -> None:
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "c.execute('insert into t values (99)')"
    )
    run = subprocess.run([sys.executable, "-c", script, leader.path], capture_output=True, text=True)
    assert "database is locked" in run.stderr
    assert leader.rows("SELECT a FROM t") == []
    assert leader.writer.foreign_commits == 0


def test_a_foreign_commit_that_slips_in_is_counted(leader: Leader) -> None:
    leader.writer.release()
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "c.execute('insert into t values (99)')\n"
        "c.commit()"
    )
    subprocess.run([sys.executable, "-c", script, leader.path], check=True)
    leader.ok(one("INSERT INTO t VALUES (1)"))
    assert leader.writer.foreign_commits == 1
    assert leader.rows("SELECT a FROM t") == [[99], [1]]


def test_a_lock_that_another_program_keeps_is_reported_not_waited_for_for_ever(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paceline.engines.sqlite.writer.FOREIGN_LOCK_MS_MAX", 1)
    leader.writer.release()
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)\n"
        "c.execute('begin immediate')\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, leader.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        other.stdout.readline()
        outcomes = leader.run(one("INSERT INTO t VALUES (1)"), one("INSERT INTO t VALUES (2)"))
        other.stdin.close()
        other.wait()
    assert all(isinstance(outcome.error, Unavailable) for outcome in outcomes)
    assert not leader.committed
    leader.ok(one("INSERT INTO t VALUES (1)"))


def test_neighbours_do_not_see_each_others_rowids(leader: Leader) -> None:
    _, second, third = leader.ok(
        one("INSERT INTO t VALUES (1)"),
        one("SELECT last_insert_rowid()"),
        one("UPDATE t SET a = 2"),
    )
    assert second.results is not None and second.results[0].rows == [[0]]
    assert third.results is not None
    assert (third.results[0].last_insert_rowid, third.results[0].rows_affected) == (0, 1)


def test_an_empty_request_and_too_many_statements_are_refused(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paceline.engines.sqlite.writer.STATEMENTS_MAX", 2)
    empty, three = leader.run(many(), many("SELECT 1", "SELECT 2", "SELECT 3"))
    assert isinstance(empty.error, UsageError) and isinstance(three.error, UsageError)


def test_a_huge_value_is_refused(make_leader: Callable[..., Leader]) -> None:
    leader = make_leader(value_bytes_max=10_000)
    leader.ok(one("CREATE TABLE t(a)"))
    made, bound = leader.run(
        one("INSERT INTO t VALUES (zeroblob(10001))"), one("INSERT INTO t VALUES (?)", [b"x" * 10_001])
    )
    assert isinstance(made.error, TooLarge | Overloaded)
    assert isinstance(bound.error, TooLarge | Overloaded)


def test_the_file_stays_readable_for_other_programs(leader: Leader) -> None:
    leader.ok(one("INSERT INTO t VALUES (1)"))
    script = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('select a from t').fetchall())"
    run = subprocess.run([sys.executable, "-c", script, leader.path], capture_output=True, text=True)
    assert run.stdout.strip() == "[(1,)]"
    assert sqlite3.sqlite_version  # the other library, in the other process
