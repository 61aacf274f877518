from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from paceline.engines.sqlite.connect import EngineOptions, create_database, open_writer
from paceline.engines.sqlite.imports import import_database
from paceline.engines.sqlite.position import POSITION_TABLE, read_position
from paceline.errors import Corruption, PacelineError, UsageError


def nothing(done: int, total: int) -> None:
    pass


def make(path: Path, *, journal: str = "delete", page_size: int = 4096, rows: int = 2000) -> None:
    connection = apsw.Connection(str(path))
    connection.pragma("page_size", page_size)
    connection.pragma("journal_mode", journal)
    connection.execute("CREATE TABLE t(a); PRAGMA user_version = 5")
    connection.execute(
        "WITH RECURSIVE r(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM r WHERE i < ?)"
        " INSERT INTO t SELECT hex(randomblob(50)) FROM r",
        (rows,),
    )
    connection.close()


@pytest.mark.parametrize(("journal", "page_size"), [("delete", 4096), ("wal", 1024), ("truncate", 65536)])
def test_a_database_is_copied_in_and_the_original_untouched(
    tmp_path: Path, journal: str, page_size: int
) -> None:
    source, target = tmp_path / "a.db", tmp_path / "b.db"
    make(source, journal=journal, page_size=page_size)
    before = source.read_bytes()
    seen: list[tuple[int, int]] = []
    import_database(str(source), str(target), lambda done, total: seen.append((done, total)))
    assert source.read_bytes() == before
    assert seen and seen[-1][0] == seen[-1][1]
    copy = open_writer(str(target), EngineOptions())
    assert copy.pragma("page_size") == page_size
    assert copy.pragma("user_version") == 5
    assert copy.execute("SELECT count(*) FROM t").get == 2000
    assert read_position(copy) is None
    copy.close()
    assert not [name for name in os.listdir(tmp_path) if "import" in name]


def test_a_database_in_use_is_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "a.db", tmp_path / "b.db"
    make(source, journal="wal")
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('begin immediate')\n"
        "c.execute('insert into t values (1)')\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(source)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        other.stdout.readline()
        import_database(str(source), str(target), nothing)
        other.stdin.close()
        other.wait()
    copy = open_writer(str(target), EngineOptions())
    assert copy.execute("SELECT count(*) FROM t").get == 2000
    copy.close()


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def damaged(path: Path) -> None:
    make(path)
    raw = bytearray(path.read_bytes())
    raw[4096 * 3 : 4096 * 4] = os.urandom(4096)
    path.write_bytes(raw)


def reserved(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE _paceline_mine(a)")
    connection.close()


BAD: list[tuple[Any, type[PacelineError], str]] = [
    (garbage, UsageError, "not a SQLite database, or it is encrypted"),
    (damaged, Corruption, "integrity check"),
    (reserved, UsageError, "_paceline_mine"),
    (lambda path: None, UsageError, "no file"),
]


@pytest.mark.parametrize(("prepare", "kind", "message"), BAD)
def test_a_bad_source_is_refused_and_leaves_nothing(
    tmp_path: Path, prepare: Any, kind: type[PacelineError], message: str
) -> None:
    source, target = tmp_path / "a.db", tmp_path / "b.db"
    prepare(source)
    with pytest.raises(kind, match=message):
        import_database(str(source), str(target), nothing)
    assert set(os.listdir(tmp_path)) <= {"a.db"}


def test_the_tables_of_an_earlier_cluster_are_removed(tmp_path: Path) -> None:
    source, target = tmp_path / "a.db", tmp_path / "b.db"
    connection = apsw.Connection(str(source))
    connection.execute(
        f"CREATE TABLE {POSITION_TABLE}(id, term, first_index, prev_chain, cluster);"
        "CREATE TABLE _paceline_requests(a); CREATE TABLE t(a)"
    )
    connection.close()
    import_database(str(source), str(target), nothing)
    copy = open_writer(str(target), EngineOptions())
    assert [name for (name,) in copy.execute("SELECT name FROM sqlite_schema")] == ["t"]
    copy.close()


def test_a_target_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    source, target = tmp_path / "a.db", tmp_path / "b.db"
    make(source)
    target.write_bytes(b"mine")
    with pytest.raises(UsageError, match="already there"):
        import_database(str(source), str(target), nothing)
    assert target.read_bytes() == b"mine"


def test_a_new_database_is_the_same_bytes_everywhere(tmp_path: Path) -> None:
    for name in ("a", "b"):
        create_database(str(tmp_path / name), EngineOptions(page_size=1024))
    first = (tmp_path / "a").read_bytes()
    assert first == (tmp_path / "b").read_bytes()
    assert first[96:100] == (3_051_003).to_bytes(4, "big")
    connection = open_writer(str(tmp_path / "a"), EngineOptions())
    assert connection.pragma("page_size") == 1024
    connection.close()
    create_database(str(tmp_path / "a"), EngineOptions())
    assert (tmp_path / "a").read_bytes() == first


def test_opening_what_is_no_database_says_so(tmp_path: Path) -> None:
    garbage(tmp_path / "x")
    with pytest.raises(Corruption, match="not a SQLite database, or it is encrypted"):
        open_writer(str(tmp_path / "x"), EngineOptions())
    make(tmp_path / "y")
    with pytest.raises(UsageError, match="journal mode delete"):
        open_writer(str(tmp_path / "y"), EngineOptions())
    with pytest.raises(UsageError, match="cannot open"):
        open_writer(str(tmp_path / "none"), EngineOptions())
    with pytest.raises(UsageError, match="power of two"):
        EngineOptions(page_size=1000)
