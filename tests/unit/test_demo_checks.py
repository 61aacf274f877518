"""The demo's proofs can fail: each is shown a lie, and must see it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cluster import wait_for
from demo import proof
from demo.processes import Failed, Readers

_BASE = 10


def _database(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(
        "PRAGMA journal_mode = WAL;"
        "CREATE TABLE flights (id INTEGER PRIMARY KEY, arr_time INTEGER, time_hour TEXT, carrier TEXT,"
        " flight INTEGER);"
        "CREATE TABLE board (id INTEGER PRIMARY KEY, departed INTEGER, landed INTEGER);"
        "INSERT INTO board VALUES (1, 2, 1);"
        f"INSERT INTO flights VALUES ({_BASE + 1}, 700, 'h', 'AA', 1), ({_BASE + 2}, NULL, 'h', 'AA', 2);"
    )
    return db


@pytest.fixture
def database(tmp_path: Path) -> Iterator[tuple[Path, sqlite3.Connection]]:
    path = tmp_path / "main.db"
    db = _database(path)
    yield path, db
    db.close()


@pytest.fixture
def readers() -> Iterator[Readers]:
    started = Readers(_BASE)
    yield started
    started.kill()


def _failure(readers: Readers) -> str:
    """Wait until a reader has found something."""

    def found() -> str | None:
        try:
            readers.check()
        except Failed as failure:
            return str(failure)
        return None

    return wait_for("the reader's complaint", found, 20)


def test_reader_is_content_with_whole_states(
    database: tuple[Path, sqlite3.Connection], readers: Readers
) -> None:
    readers.add("n2", database[0])
    assert readers.stop()["n2"]["checks"] >= 1


def test_reader_sees_a_torn_state(database: tuple[Path, sqlite3.Connection], readers: Readers) -> None:
    path, db = database
    db.execute("UPDATE board SET departed = departed + 1")
    readers.add("n2", path)
    assert "torn state" in _failure(readers)


def _rise_or_fall(db: sqlite3.Connection) -> None:
    db.executescript(
        "BEGIN; UPDATE board SET landed = 1 - landed;"
        f"UPDATE flights SET arr_time = CASE WHEN arr_time IS NULL THEN 700 END"
        f" WHERE id = {_BASE + 1}; COMMIT;"
    )


def test_reader_sees_a_count_that_falls(database: tuple[Path, sqlite3.Connection], readers: Readers) -> None:
    path, db = database
    readers.add("n2", path)

    def rise_or_fall_and_look() -> str | None:
        _rise_or_fall(db)
        try:
            readers.check()
        except Failed as failure:
            return str(failure)
        return None

    assert "went backwards" in wait_for("the reader's complaint", rise_or_fall_and_look, 20)


def test_reader_of_a_node_that_led_lets_a_count_fall_and_nothing_else(
    database: tuple[Path, sqlite3.Connection], readers: Readers
) -> None:
    path, db = database
    readers.add("n2", path)
    readers.led("n2")
    for _ in range(8):  # more than enough for the complaint of the test above
        _rise_or_fall(db)
        time.sleep(0.15)
        readers.check()
    db.execute("UPDATE board SET departed = departed + 1")
    assert "torn state" in _failure(readers)


def _acknowledged(path: Path, departed: str, landed: str) -> Path:
    db = sqlite3.connect(path)
    db.executescript(
        "CREATE TABLE departed (id INTEGER PRIMARY KEY, time_hour TEXT, carrier TEXT, flight INTEGER);"
        "CREATE TABLE landed (id INTEGER PRIMARY KEY);"
        f"INSERT INTO departed VALUES {departed}; INSERT INTO landed VALUES {landed};"
    )
    db.close()
    return path


@pytest.mark.parametrize(
    ("departed", "landed", "whole"),
    [
        ("(11, 'h', 'AA', 1), (12, 'h', 'AA', 2)", "(11)", True),
        ("(13, 'h', 'AA', 3)", "(11)", False),
        ("(11, 'h', 'AA', 9)", "(11)", False),
        ("(11, 'h', 'AA', 1)", "(12)", False),
    ],
)
def test_proof_misses_what_was_acknowledged(
    database: tuple[Path, sqlite3.Connection], tmp_path: Path, departed: str, landed: str, whole: bool
) -> None:
    acknowledged = _acknowledged(tmp_path / "acknowledged.db", departed, landed)
    if whole:
        assert proof.sound_and_complete(database[0], acknowledged) == 2
    else:
        with pytest.raises(Failed, match="missing"):
            proof.sound_and_complete(database[0], acknowledged)


def test_proof_sees_one_different_byte(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"0" * 9000)
    second.write_bytes(b"0" * 8999 + b"1")
    assert proof.same_bytes({"n1": first, "n2": first}) == proof.sha256(first)
    with pytest.raises(Failed, match="differ"):
        proof.same_bytes({"n1": first, "n2": second})
