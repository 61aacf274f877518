from __future__ import annotations

from collections.abc import Callable

import pytest
from exec_support import Leader, many, one

from paceline.engines.sqlite.dedup import FORGET_ROWS_MAX, Dedup
from paceline.errors import SqlError, UsageError


@pytest.fixture
def leader(make_leader: Callable[..., Leader]) -> Leader:
    made = make_leader()
    made.ok(one("CREATE TABLE t(a UNIQUE)"))
    return made


def add(value: int, request_id: bytes | None = None) -> object:
    return one("INSERT INTO t VALUES (?) RETURNING a", [value], request_id=request_id)


def test_a_repeated_id_answers_the_first_outcome_and_runs_nothing(leader: Leader) -> None:
    (first,) = leader.ok(add(1, b"a"))
    at = leader.index
    (again,) = leader.ok(add(2, b"a"))
    assert again.repeated_at == at and first.repeated_at is None
    assert again.results == first.results
    assert not leader.committed
    assert leader.rows("SELECT a FROM t") == [[1]]


def test_a_repeated_id_inside_one_group_runs_once(leader: Leader) -> None:
    first, again = leader.ok(add(1, b"a"), add(2, b"a"))
    assert first.repeated_at is None
    assert again.repeated_at == leader.index
    assert again.results == first.results
    assert leader.rows("SELECT a FROM t") == [[1]]


def test_a_failed_request_is_not_remembered(leader: Leader) -> None:
    leader.ok(add(1))
    (failed,) = leader.run(add(1, b"a"))
    assert isinstance(failed.error, SqlError)
    (fine,) = leader.ok(add(2, b"a"))
    assert fine.repeated_at is None


def test_the_memory_survives_a_change_of_leader(leader: Leader) -> None:
    leader.ok(add(1, b"a"), add(2, b"b"))
    at = leader.index
    leader.reign_again()
    a, b, c = leader.ok(add(7, b"a"), add(8, b"b"), add(9, b"c"))
    assert (a.repeated_at, b.repeated_at, c.repeated_at) == (at, at, None)
    assert a.results is not None and a.results[0].rows == [[1]]
    assert leader.rows("SELECT a FROM t") == [[1], [2], [9]]


def test_a_group_that_ran_again_remembers_each_id_once(leader: Leader) -> None:
    leader.ok(add(1))
    bad = one("INSERT OR ROLLBACK INTO t VALUES (1)", request_id=b"bad")
    outcomes = leader.run(add(2, b"a"), bad, add(3, b"b"), bad)
    assert [outcome.error is None for outcome in outcomes] == [True, False, True, False]
    leader.reign_again()
    outcomes = leader.run(add(2, b"a"), bad, add(3, b"b"))
    assert [outcome.repeated_at is not None for outcome in outcomes] == [True, False, True]


def test_singly_run_requests_are_remembered_across_a_change_of_leader(leader: Leader) -> None:
    leader.ok(add(1))
    bad = one("INSERT OR ROLLBACK INTO t VALUES (1)")
    leader.run(add(2, b"a"), bad, add(3, b"b"), bad, add(4, b"c"))
    leader.reign_again()
    outcomes = leader.ok(add(5, b"a"), add(5, b"b"), add(5, b"c"))
    assert all(outcome.repeated_at == leader.index for outcome in outcomes)


def test_a_large_result_is_forgotten_but_not_the_request(leader: Leader) -> None:
    request = many("INSERT INTO t VALUES (1)", "SELECT zeroblob(5000)", request_id=b"a")
    leader.ok(request)
    (again,) = leader.ok(request)
    assert again.repeated_at == leader.index
    assert again.results is None


def test_a_request_that_only_reads_is_not_remembered(leader: Leader) -> None:
    leader.ok(one("SELECT 1", request_id=b"a"))
    assert not leader.committed


def test_the_table_is_made_only_when_an_id_is_used(leader: Leader) -> None:
    present = "SELECT count(*) FROM sqlite_schema WHERE name = '_paceline_requests'"
    assert leader.rows(present) == [[0]]
    leader.ok(add(1, b"a"))
    assert leader.rows(present) == [[1]]


@pytest.mark.parametrize("request_id", [b"", b"x" * 65])
def test_an_id_of_wrong_length_is_refused(leader: Leader, request_id: bytes) -> None:
    (outcome,) = leader.run(add(1, request_id))
    assert isinstance(outcome.error, UsageError)


def limit(leader: Leader, **bounds: int) -> None:
    leader.writer._auth.trusted = True
    leader.writer._dedup = Dedup(leader.writer.connection, monotonic=lambda: leader.time_s, **bounds)
    leader.writer._auth.trusted = False


def test_memory_is_bounded_by_count(leader: Leader) -> None:
    limit(leader, count_max=5)
    for value in range(20):
        leader.ok(add(value, b"%d" % value))
    assert len(leader.writer._dedup) <= 5
    assert leader.rows("SELECT count(*) FROM _paceline_requests")[0][0] <= 5
    newest, oldest = leader.ok(add(100, b"19"), add(101, b"0"))
    assert newest.repeated_at is not None and oldest.repeated_at is None


def test_a_step_of_the_clock_forgets_nothing(leader: Leader) -> None:
    leader.ok(add(1, b"a"))
    leader.time_s += 2 * 3600
    leader.ok(add(2, b"b"))
    again, _ = leader.ok(add(1, b"a"), add(3, b"c"))
    assert again.repeated_at is not None


def test_age_goes_on_in_the_next_reign(leader: Leader) -> None:
    limit(leader)
    leader.ok(add(1, b"a"))
    leader.time_s += 50
    leader.ok(add(2, b"b"))
    limit(leader, seconds_max=60)
    leader.time_s += 11
    leader.ok(add(3, b"c"))
    second, first = leader.ok(add(4, b"b"), add(5, b"a"))
    assert second.repeated_at is not None and first.repeated_at is None


def test_memory_is_bounded_by_age_a_few_rows_at_a_time(leader: Leader) -> None:
    limit(leader, seconds_max=60)
    for value in range(10):
        leader.ok(add(value, b"%d" % value))
    leader.time_s += 61
    leader.ok(add(100, b"new"))
    assert leader.rows("SELECT count(*) FROM _paceline_requests") == [[10 + 1 - FORGET_ROWS_MAX]]
    leader.reign_again()
    assert len(leader.writer._dedup) == 10 + 1 - FORGET_ROWS_MAX
    (again,) = leader.ok(add(101, b"new"))
    assert again.repeated_at is not None
