"""``paceline log`` on the files of a real engine and a real log."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from clifakes import run

from paceline.core.entry import Entry
from paceline.engines.base import Group, Value, WriteRequest
from paceline.engines.sqlite.engine import SqliteEngine
from paceline.files import RealFiles
from paceline.ids import Index, Slot, Term
from paceline.log.journal import Log

STATEMENTS: list[tuple[str, list[Value] | dict[str, Value]]] = [
    ("CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT)", []),
    ("INSERT INTO t(x) VALUES (?)", ["needle-one"]),
    ("UPDATE t SET x = :new WHERE id = 1", {"new": "needle-two"}),
    ("INSERT INTO t(x) VALUES (?)", ["another"]),
]


class Node:
    """A data directory that ran ``STATEMENTS`` as leader, one group each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "db").mkdir()
        (path / "log").mkdir()
        log, _ = Log.open(RealFiles(), str(path / "log"), cluster=b"c" * 16)
        engine = SqliteEngine(str(path / "db" / "main.db"), cluster="c" * 32)
        engine.open()
        engine.lead(Index(0))
        self.engine = engine
        for number, statement in enumerate(STATEMENTS):
            self._run(log, statement, time_us=1_700_000_000_000_000 + number)
        log.close()

    def _run(self, log: Log, statement: Any, *, time_us: int) -> None:
        slot = Slot(Term(1), Index(log.last.index + 1), log.last.chain)
        parts: list[Entry] = []
        request = WriteRequest([statement], "quorum", b"id" + bytes([slot.index]))
        result = self.engine.run_group(Group(slot, [request], time_us, parts.append))
        assert result.entry is not None and result.local is not None and not parts
        log.stage([result.entry], [result.local])
        log.flush()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def explain(node: Node, index: int, *more: str) -> dict[str, Any]:
    result = run(["log", "explain", str(index), "--data", str(node.path), "--json", *more])
    assert result.exit_code == 0, result.output
    shape = json.loads(result.stdout)
    assert isinstance(shape, dict)
    return shape


def changes(shape: dict[str, Any], key: str) -> bytes:
    return b"|".join(bytes.fromhex(c[key]) for page in shape["pages"] for c in page["changes"])


@pytest.mark.parametrize("closed", [False, True], ids=["with a -wal", "checkpointed"])
def test_explain_proves_old_and_new_bytes_of_every_entry(node: Node, closed: bool) -> None:
    if closed:
        node.engine.close()
    for index in range(1, len(STATEMENTS) + 1):
        shape = explain(node, index)
        assert shape["pages"] and all(page["images"] == "proved" for page in shape["pages"])
    update = explain(node, 3)
    assert b"one" in changes(update, "old") and b"two" in changes(update, "new")
    change = update["pages"][-1]["changes"][0]
    assert change["sequence"] == 3 and {"page", "offset", "checksum"} <= change.keys()
    if not closed:
        node.engine.close()


def test_explain_shows_requests_with_sql_and_bindings(node: Node) -> None:
    (request,) = explain(node, 3)["requests"]
    assert request["statements"] == [{"sql": STATEMENTS[2][0], "args": {"new": "needle-two"}}]
    assert request["id"] == (b"id" + bytes([3])).hex() and request["outcome"] == "ok"
    node.engine.close()


def test_explain_without_the_right_database_says_xor(node: Node, tmp_path: Path) -> None:
    node.engine.close()
    database = tmp_path / "db" / "main.db"
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE t SET x = x || '!'")
    connection.close()
    shape = explain(node, 4)
    unknown = [page for page in shape["pages"] if page["images"] != "proved"]
    assert unknown and all("xor" in change for page in unknown for change in page["changes"])
    text = run(["log", "explain", "4", "--data", str(node.path)]).stdout
    assert "the images of this page are not known here; XOR of old and new:" in text
    database.unlink()
    assert all(page["images"] == "not known here" for page in explain(node, 4)["pages"])


def test_explain_text_names_what_the_issue_asks_for(node: Node) -> None:
    text = run(["log", "explain", "3", "--data", str(node.path), "--full"]).stdout
    assert "entry 3   term 1   txn" in text
    assert "sequence" in text and "offset" in text and "checksum" in text
    assert "|one|" in text and "|two|" in text, text
    node.engine.close()


def test_explain_of_an_entry_that_is_not_there_says_what_is(node: Node) -> None:
    result = run(["log", "explain", "9", "--data", str(node.path)])
    assert result.exit_code == 2 and "entry 9 is not in this log; it has 1 to 4" in result.output
    node.engine.close()


def test_ls_lists_the_newest_or_from_an_index(node: Node) -> None:
    def listed(*args: str) -> list[int]:
        lines = run(["log", "ls", "--data", str(node.path), "--json", *args]).stdout.splitlines()
        return [json.loads(line)["index"] for line in lines]

    assert listed() == [1, 2, 3, 4]
    assert listed("--limit", "2") == [3, 4]
    assert listed("--from", "2", "--limit", "2") == [2, 3]
    row = json.loads(run(["log", "ls", "--data", str(node.path), "--json", "--limit", "1"]).stdout)
    assert row["kind"] == "txn" and row["requests"] == 1 and row["pages"] >= 1
    node.engine.close()


def test_verify_finds_a_flipped_bit(node: Node) -> None:
    node.engine.close()
    assert run(["log", "verify", "--data", str(node.path)]).exit_code == 0
    (segment,) = (node.path / "log").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[300] ^= 1
    segment.write_bytes(data)
    result = run(["log", "verify", "--data", str(node.path)])
    assert result.exit_code == 1 and "DAMAGED" in result.stdout


def test_directory_without_a_log_is_named(tmp_path: Path) -> None:
    result = run(["log", "ls", "--data", str(tmp_path)])
    assert result.exit_code == 2 and "has no log directory" in result.output
