from __future__ import annotations

from collections.abc import Callable

import pytest
from exec_support import Leader, many, one

from paceline.engines.sqlite.dedup import FORGET_ROWS_MAX, Dedup
from paceline.errors import RequestExpired, SqlError, UsageError
from paceline.ids import counted_id


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


# -- what was forgotten does not run a second time ------------------------------------


def counted(count: int, session: bytes = b"session1") -> bytes:
    return counted_id(session, count)


def test_forgotten_id_of_a_session_is_refused_and_runs_nothing(leader: Leader) -> None:
    limit(leader, count_max=5)
    for value in range(10):
        leader.ok(add(value, counted(value)))
    known, expired = leader.run(add(100, counted(9)), add(101, counted(0)))
    assert known.repeated_at is not None
    assert isinstance(expired.error, RequestExpired) and expired.error.hint
    assert leader.rows("SELECT count(*) FROM t WHERE a >= 100") == [[0]]
    (fresh,) = leader.ok(add(102, counted(10)))
    assert fresh.repeated_at is None, "the session goes on"


def test_forgotten_ids_stay_refused_in_later_reigns(leader: Leader) -> None:
    limit(leader, seconds_max=60)
    leader.ok(add(1, counted(1)), add(2, counted(7, b"session2")))
    leader.time_s += 61
    leader.ok(add(3, counted(2)))
    leader.reign_again()
    first, other, early, last = leader.run(
        add(4, counted(1)),
        add(5, counted(7, b"session2")),
        add(6, counted(6, b"session2")),
        add(7, counted(2)),
    )
    assert all(isinstance(outcome.error, RequestExpired) for outcome in (first, other, early))
    assert last.repeated_at is not None
    assert leader.rows("SELECT a FROM t") == [[1], [2], [3]]


def test_what_a_failed_commit_would_have_forgotten_is_still_known(leader: Leader) -> None:
    limit(leader, count_max=2)
    leader.ok(add(1, counted(1)), add(2, counted(2)))
    bad = one("INSERT OR ROLLBACK INTO t VALUES (1)")
    leader.run(add(3, counted(3)), bad)
    dedup = leader.writer._dedup
    leader.writer._auth.trusted = True
    anew = Dedup(leader.writer.connection, monotonic=lambda: leader.time_s, count_max=2)
    leader.writer._auth.trusted = False
    assert (anew._sessions, anew._known.keys()) == (dedup._sessions, dedup._known.keys())


def test_ids_of_other_forms_are_not_taken_for_counted_ones(leader: Leader) -> None:
    """Once forgotten they run again: that is what is promised for them."""
    limit(leader, count_max=3)
    forms = (b"2026-11-26-00017", b"\xff" + b"x" * 15, b"x" * 17, b"\xff" * 17)
    for value, form in enumerate(forms * 1):
        leader.ok(add(value, form))
    for value in range(10, 20):
        leader.ok(add(value, b"%d" % value))
    outcomes = leader.ok(*(add(100 + value, form) for value, form in enumerate(forms)))
    assert [outcome.repeated_at for outcome in outcomes] == [None] * len(forms)


def test_sessions_are_bounded_and_the_oldest_goes(leader: Leader) -> None:
    limit(leader, count_max=1, sessions_max=3)
    for value in range(10):
        leader.time_s += 1
        leader.ok(add(value, counted(1, b"session%d" % value)))
    assert leader.rows("SELECT count(*) FROM _paceline_sessions") == [[3]]
    assert set(leader.writer._dedup._sessions) == {b"session%d" % n for n in (6, 7, 8)}
    leader.reign_again()
    assert list(leader.writer._dedup._sessions) == [b"session%d" % n for n in (6, 7, 8)]
    (refused,) = leader.run(add(100, counted(1, b"session8")))
    assert isinstance(refused.error, RequestExpired)


def test_user_sql_cannot_change_what_was_forgotten(leader: Leader) -> None:
    limit(leader, count_max=1)
    leader.ok(add(1, counted(1)))
    leader.ok(add(2, counted(2)))
    (outcome,) = leader.run(one("DELETE FROM _paceline_sessions"))
    assert outcome.error is not None
