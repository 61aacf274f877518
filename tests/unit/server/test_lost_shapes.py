"""Lost writes as they are shown: requests from the notes beside the entries, rows from pages."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from paceline.server.lostrows import _compare


def database(path: Path, script: str) -> str:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return str(path)


BEFORE = """
CREATE TABLE t(id INTEGER PRIMARY KEY, x COLLATE NOCASE, b BLOB);
CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
CREATE TABLE same(x);
CREATE TABLE gone(x);
CREATE TABLE _paceline_position(x);
INSERT INTO t VALUES (1, 'one', NULL), (2, 'two', x'00ff'), (3, 'three', NULL);
INSERT INTO w VALUES ('a', 1), ('b', 2);
INSERT INTO same VALUES (1);
INSERT INTO gone VALUES ('last');
"""


def compare(tmp_path: Path, change: str) -> dict[str, Any]:
    before = database(tmp_path / "before.db", BEFORE)
    after = database(tmp_path / "after.db", BEFORE + change)
    return {table["table"]: table for table in _compare(before, after)}


def test_rows_are_inserted_changed_and_deleted(tmp_path: Path) -> None:
    found = compare(
        tmp_path,
        "INSERT INTO t VALUES (9, 'nine', 1.5); UPDATE t SET x = 'TWO' WHERE id = 2; DELETE FROM t WHERE id = 3;"
        "UPDATE w SET v = 7 WHERE k = 'b'; INSERT INTO _paceline_position VALUES (1);",
    )
    assert found.keys() == {"t", "w"}, "what did not change, and our own tables, are not shown"
    changes = {next(iter(c["before"] or c["after"])): c for c in found["t"]["changes"]}
    assert found["t"]["columns"] == ["id", "x", "b"] and not found["t"]["more"]
    assert changes[9] == {"key": [9], "before": None, "after": [9, "nine", 1.5]}
    assert changes[2]["before"][1] == "two" and changes[2]["after"][1] == "TWO", (
        "the case counts in any collation"
    )
    assert changes[2]["before"][2] == {"base64": "AP8="}
    assert changes[3]["after"] is None
    assert found["w"]["changes"] == [{"key": ["b"], "before": ["b", 2], "after": ["b", 7]}]


def test_tables_that_came_and_went_show_their_schema_and_rows(tmp_path: Path) -> None:
    found = compare(tmp_path, "CREATE TABLE new(a, b); INSERT INTO new VALUES (1, 2); DROP TABLE gone;")
    assert found["new"]["schema"] == {"before": None, "after": "CREATE TABLE new(a, b)"}
    assert found["new"]["changes"] == [{"key": None, "before": None, "after": [1, 2]}]
    assert found["gone"]["changes"] == [{"key": None, "before": ["last"], "after": None}]


def test_a_changed_schema_is_said_instead_of_compared(tmp_path: Path) -> None:
    found = compare(tmp_path, "ALTER TABLE same ADD COLUMN y;")
    assert found["same"]["changes"] == [] and "y" in found["same"]["schema"]["after"]


@pytest.mark.parametrize("count", [100, 101])
def test_many_rows_are_cut_and_it_is_said(tmp_path: Path, count: int) -> None:
    before = database(tmp_path / "before.db", BEFORE)
    connection = sqlite3.connect(tmp_path / "after.db")
    connection.executescript(BEFORE)
    connection.executemany("INSERT INTO same VALUES (?)", [(n,) for n in range(count)])
    connection.commit()
    connection.close()
    (table,) = _compare(before, str(tmp_path / "after.db"))
    assert len(table["changes"]) == 100 and table["more"] is (count > 100)
