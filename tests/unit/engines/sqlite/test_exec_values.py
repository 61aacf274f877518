from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

import pytest
from exec_support import Leader, many, one
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paceline.errors import SqlError, TooLarge, UsageError
from paceline.limits import ARGS_MAX


class Colour(IntEnum):
    RED = 3


@pytest.fixture
def leader(make_leader: Any) -> Leader:
    made: Leader = make_leader()
    made.ok(one("CREATE TABLE t(a)"))
    return made


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (1.5, 1.5),
        (-0.0, -0.0),
        (math.inf, math.inf),
        (math.nan, None),
        ("", ""),
        ("a\0b", "a\0b"),
        ("☃𝄞", "☃𝄞"),
        (b"", b""),
        (b"\xff\0", b"\xff\0"),
        (True, 1),
        (Colour.RED, 3),
        (bytearray(b"x"), b"x"),
        (memoryview(b"xy")[1:], b"y"),
    ],
)
def test_every_storage_class_makes_the_round_trip(leader: Leader, value: Any, stored: Any) -> None:
    (outcome,) = leader.ok(one("INSERT INTO t VALUES (?) RETURNING a", [value]))
    assert outcome.results is not None and outcome.results[0].rows is not None
    found = outcome.results[0].rows[0][0]
    assert type(found) is type(stored)
    assert found == stored


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([1, 2**63], "statement 1, argument 2: 9223372036854775808 does not fit"),
        ([1, "\ud800"], "statement 1, argument 2: the text holds a lone surrogate"),
        ([1, object()], "statement 1, argument 2: object is not a value"),
        ([1, [2]], "argument 2: list is not"),
        ([1], "uses 2 and there are 1"),
        ([1, 2, 3], "uses 2 and there are 3"),
        ({"a": 1}, "statement 1"),
    ],
)
def test_a_bad_argument_is_named(leader: Leader, args: Any, message: str) -> None:
    (outcome,) = leader.run(one("INSERT INTO t SELECT ? + ?", args))
    assert isinstance(outcome.error, UsageError)
    assert message in outcome.error.message


def test_named_arguments_work_with_and_without_their_mark(leader: Leader) -> None:
    sql = "INSERT INTO t VALUES (:a || @b || $c) RETURNING a"
    for args in ({"a": "1", "b": "2", "c": "3"}, {":a": "1", "@b": "2", "$c": "3"}):
        (outcome,) = leader.ok(one(sql, args))
        assert outcome.results is not None and outcome.results[0].rows == [["123"]]
    (missing,) = leader.run(one(sql, {"a": 1, "b": 2}))
    assert isinstance(missing.error, UsageError) and "'c'" in missing.error.message
    (wide,) = leader.run(one(sql, {"a": 2**64, "b": 2, "c": 3}))
    assert isinstance(wide.error, UsageError) and "argument 'a'" in wide.error.message


def test_the_second_statement_is_named(leader: Leader) -> None:
    request = many("SELECT 1", "SELECT ?")
    request.statements[1] = ("SELECT ?", [2**70])
    (outcome,) = leader.run(request)
    assert isinstance(outcome.error, UsageError) and "statement 2, argument 1" in outcome.error.message
    (outcome,) = leader.run(many("SELECT 1", "SELECT nothing"))
    assert isinstance(outcome.error, SqlError) and outcome.error.statement == 2


def test_arguments_must_be_a_list_or_a_dict_and_not_too_many(leader: Leader) -> None:
    request = one("SELECT ?")
    request.statements[0] = ("SELECT ?", "x")  # type: ignore[assignment]
    many_args = one("SELECT ?", [1] * (ARGS_MAX + 1))
    text, count = leader.run(request, many_args)
    assert isinstance(text.error, UsageError)
    assert isinstance(count.error, TooLarge)


def test_text_that_is_not_utf8_is_an_error_with_the_way_out(leader: Leader) -> None:
    leader.ok(one("INSERT INTO t VALUES (CAST(x'ff41' AS TEXT))"))
    bad, fine = leader.run(one("SELECT a FROM t"), one("SELECT CAST(a AS BLOB) FROM t"))
    assert isinstance(bad.error, SqlError)
    assert "CAST" in (bad.error.hint or "")
    assert fine.results is not None and fine.results[0].rows == [[b"\xffA"]]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
        min_size=1,
        max_size=20,
    )
)
def test_any_values_come_back_as_they_went(leader: Leader, values: list[Any]) -> None:
    sql = "SELECT " + ", ".join("?" for _ in values)
    (outcome,) = leader.ok(one(sql, values))
    assert outcome.results is not None
    assert outcome.results[0].rows == [values]
