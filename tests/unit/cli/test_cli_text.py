"""Reading SQL just enough, and printing values."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.cli.rows import render
from paceline.cli.sqltext import is_read, parse_argument, split_statements
from paceline.cli.text import human_bytes, human_ms, human_seconds, plural, short_position


@pytest.mark.parametrize(
    ("sql", "reads"),
    [
        ("SELECT 1", True),
        ("  -- note\n/* x */ select 1", True),
        ("VALUES (1)", True),
        ("EXPLAIN QUERY PLAN DELETE FROM t", True),
        ("INSERT INTO t SELECT * FROM u", False),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("WITH a(x) AS (SELECT 'delete'), b AS (SELECT 2) INSERT INTO t SELECT * FROM a", False),
        ("WITH a AS (SELECT 1) DELETE FROM t", False),
        ('WITH "insert" AS (SELECT 1) SELECT * FROM "insert"', True),
        ("PRAGMA table_info(t)", True),
        ("PRAGMA user_version = 3", False),
        ("VACUUM", False),
        ("REPLACE INTO t VALUES (1)", False),
        ("", True),
    ],
)
def test_main_verb_decides_between_read_and_write(sql: str, reads: bool) -> None:
    assert is_read(sql) is reads


def test_statements_are_split_where_sqlite_ends_them() -> None:
    trigger = "CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; END"
    text = f"SELECT ';' -- ;\n, \"a;b\"; {trigger}; /* ; */ ; SELECT 2"
    assert split_statements(text) == ["SELECT ';' -- ;\n, \"a;b\"", trigger, "SELECT 2"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("-7", -7),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("null", None),
        ("NULL", None),
        ("x'00fF'", b"\x00\xff"),
        ("x'0'", "x'0'"),
        ("'42'", "42"),
        ("'it''s'", "it's"),
        ("hello", "hello"),
        ("1.2.3", "1.2.3"),
        ("", ""),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_arguments_have_the_type_that_they_look_like(text: str, value: object) -> None:
    assert parse_argument(text) == value and type(parse_argument(text)) is type(value)


CELLS = st.none() | st.integers() | st.floats() | st.text() | st.binary()


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_table_has_one_line_a_row_and_no_control_characters(rows: list[tuple[Any, Any]]) -> None:
    lines = render(["a", "b"], rows, "table", width_max=20).split("\n")
    assert len(lines) == len(rows) + 2
    assert all(line.isprintable() for line in lines)


def test_json_rows_survive_infinities_and_blobs() -> None:
    rows = [[math.inf, -math.inf, b"\0"], [1.5, None, "ü"]]
    lines = render(["a", "b", "c"], rows, "json").split("\n")
    assert [json.loads(line) for line in lines] == [
        {"a": "Infinity", "b": "-Infinity", "c": {"base64": "AA=="}},
        {"a": 1.5, "b": None, "c": "ü"},
    ]


def test_long_cells_are_cut_for_eyes_only() -> None:
    assert render(["a"], [["x" * 100]], "table", width_max=10).endswith("\nxxxxxxxxx…")
    assert render(["a"], [["x" * 100]], "table").endswith("x" * 100)


def test_numbers_stand_right_and_wide_characters_keep_columns() -> None:
    assert render(["n", "t"], [[1, "日本"], [100, "ab"]], "table") == (
        "  n  t\n───  ────\n  1  日本\n100  ab"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (human_bytes(512), "512 B"),
        (human_bytes(1_400_000), "1.4 MB"),
        (human_bytes(999_999), "1.0 MB"),
        (human_bytes(5_000_000_000_000), "5000 GB"),
        (human_ms(0.44), "0.4 ms"),
        (human_ms(12_000), "12 s"),
        (human_ms(None), "-"),
        (human_seconds(7500), "2 h 5 min"),
        (human_seconds(90_000), "1 d 1 h"),
        (plural(1, "row"), "1 row"),
        (plural(1200, "row"), "1,200 rows"),
        (short_position("00000002-00000000000017-" + "0" * 32), "2/17"),
        (short_position(None), "-"),
    ],
)
def test_quantities_read_well(text: str, expected: str) -> None:
    assert text == expected
