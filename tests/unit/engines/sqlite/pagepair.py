"""Shared by the tests of the lower half: a leader and a follower without a log between them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import apsw

from paceline.engines.sqlite import plainfile
from paceline.engines.sqlite.applier import Applier
from paceline.engines.sqlite.capture import Capture
from paceline.engines.sqlite.connect import EngineOptions, create_database
from paceline.engines.sqlite.formats import page
from paceline.engines.sqlite.formats.page import PageDelta
from paceline.engines.sqlite.pin import SnapshotPin

__all__ = ["Other", "Pair", "digest", "other_process", "random_rows"]

Transaction = list[PageDelta]


class Pair:
    """``run`` SQL on the leader, ``capture`` it as decoded bodies, ``apply`` them to the follower."""

    def __init__(self, folder: Path, *, page_size: int = 4096, before: tuple[str, ...] = ()) -> None:
        """``before``: statements that shape the database before it is copied to the follower."""
        self.leader_path = self._folder(folder / "leader")
        self.follower_path = self._folder(folder / "follower")
        if before:
            self._import(page_size, before)
        create_database(self.leader_path, EngineOptions(page_size=page_size))
        self.sql = apsw.Connection(self.leader_path)
        self.sql.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self.sql.pragma("synchronous", "normal")
        self.capture = Capture(self.leader_path)
        self.capture.attach(self.sql, None)
        self.applier = Applier(self.follower_path)
        assert self.applier.open() is None

    @staticmethod
    def _folder(folder: Path) -> str:
        folder.mkdir(parents=True)
        return str(folder / "main.db")

    def _import(self, page_size: int, statements: tuple[str, ...]) -> None:
        connection = apsw.Connection(self.leader_path)
        connection.pragma("page_size", page_size)
        for statement in statements:
            connection.execute(statement)
        connection.pragma("journal_mode", "wal")
        connection.close()
        Path(self.follower_path).write_bytes(Path(self.leader_path).read_bytes())

    def run(self, sql: str, args: tuple[object, ...] = ()) -> None:
        self.sql.execute(sql, args)  # type: ignore[arg-type]

    def take(self) -> Transaction:
        """Capture what was committed, through encoded bodies, and advance."""
        bodies = [page.encode(delta) for delta in self.capture.changed()]
        self.capture.advance()
        return [page.decode(*body) for body in bodies]

    def ship(self) -> Transaction:
        transaction = self.take()
        self.applier.apply(transaction)
        return transaction

    def equal(self) -> bool:
        return digest(self.leader_path) == digest(self.follower_path)

    def files_equal(self) -> bool:
        """Byte for byte, after both logs were emptied into the files."""
        assert self.capture.checkpoint() and self.applier.checkpoint()
        return Path(self.leader_path).read_bytes() == Path(self.follower_path).read_bytes()

    def close(self) -> None:
        self.capture.detach()
        self.sql.close()
        self.applier.close()
        for path in (self.leader_path, self.follower_path):
            plainfile.forget(path)


def digest(path: str) -> bytes:
    pin = SnapshotPin(path, None)
    try:
        return pin.digest()
    finally:
        pin.close()


def random_rows(table: str, count: int, size: int) -> str:
    return (
        f"WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < {count})"
        f" INSERT INTO {table}(x) SELECT randomblob({size}) FROM r"
    )


class Other:
    """Another process with the standard library's own SQLite; ``ask`` runs one expression in it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdin is not None and process.stdout is not None
        self._stdin: IO[str] = process.stdin
        self._stdout: IO[str] = process.stdout

    def ask(self, expression: str) -> str:
        self._stdin.write(expression + "\n")
        self._stdin.flush()
        return self._stdout.readline().strip()

    def can_write(self) -> bool:
        """Whether this process gets SQLite's write lock."""
        return self.ask("lock()") == "got"


_PROGRAM = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
def q(sql):
    return c.execute(sql).fetchall()
def lock():
    try:
        c.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        return str(error)
    c.execute("ROLLBACK")
    return "got"
for line in sys.stdin:
    try:
        print(eval(line), flush=True)
    except Exception as error:
        print(repr(error), flush=True)
"""


@contextmanager
def other_process(path: str) -> Iterator[Other]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, os.fspath(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Other(process)
    finally:
        process.communicate()
