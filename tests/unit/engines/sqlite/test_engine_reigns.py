"""Opening, leading, following, crashing, and what goes wrong between them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_support import Cluster, Node
from exec_support import many, one
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paceline.core.entry import EntryKind, decode_entry, encode_entry
from paceline.engines.base import Engine, split_local
from paceline.engines.sqlite import plainfile
from paceline.engines.sqlite.formats.page import decode
from paceline.engines.sqlite.requests import decode_request_list, decode_requests
from paceline.errors import BadEntry, Corruption, Diverged, HashMismatch
from paceline.ids import DatabasePosition, Index

FILL = "WITH RECURSIVE r(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM r WHERE i < ?)"


def test_the_engine_is_what_the_contract_asks_for(cluster: Cluster) -> None:
    engine: Engine = cluster.leader.engine
    assert engine.position() is None
    cluster.ok(one("CREATE TABLE t(a)"))
    assert engine.position() == DatabasePosition(1, 1, bytes(16))  # type: ignore[arg-type]
    assert cluster.leader.rows("SELECT term, first_index, cluster FROM _paceline_position") == [[1, 1, "c1"]]


def test_a_group_without_change_makes_no_entry(cluster: Cluster) -> None:
    cluster.ok(one("CREATE TABLE t(a UNIQUE)"), one("INSERT INTO t VALUES (1)"))
    cluster.run(one("SELECT 1"), one("INSERT INTO t VALUES (1)"), one("nonsense"))
    assert len(cluster.log) == 1
    cluster.ok(one("INSERT INTO t VALUES (2)"))
    cluster.settle()


def test_an_entry_lists_its_requests_and_the_record_keeps_their_sql(cluster: Cluster) -> None:
    cluster.run(one("CREATE TABLE t(a)", request_id=b"r1", client="me"), one("nonsense"), one("SELECT 1"))
    entry = cluster.log[-1]
    listed = decode_request_list(bytes(decode(entry.body, entry.flags).requests))
    assert (listed.failed, listed.runs) == (1, [("local", [b"r1", None])])
    record = decode_entry(cluster.records[-1])
    assert (record.kind, record.index, record.term) == (EntryKind.REQUESTS, entry.index, entry.term)
    assert split_local(record.body)[0] == cluster.leader.engine.capture_mark()
    logged = decode_requests(record.body)
    assert [item.outcome for item in logged] == ["ok", "SqlError", "ok"]
    assert logged[0].statements[0][0] == "CREATE TABLE t(a)"


def test_a_large_transaction_is_split_into_parts(cluster: Cluster) -> None:
    cluster.ok(one("CREATE TABLE t(a)"))
    cluster.settle()
    before = cluster.nodes[1].digest()
    cluster.ok(one(FILL + " INSERT INTO t SELECT randomblob(1000) FROM r", [6000]), one("SELECT 1"))
    kinds = [entry.kind for entry in cluster.log[1:]]
    assert len(kinds) >= 3
    assert kinds == [EntryKind.TXN_PART] * (len(kinds) - 1) + [EntryKind.TXN]
    cluster.settle()
    assert cluster.nodes[1].engine.position() == DatabasePosition(1, 2, cluster.log[0].chain)  # type: ignore[arg-type]
    cluster.nodes[1].engine.undo(reversed(cluster.log[1:]))
    assert cluster.nodes[1].digest() == before


def test_unfinished_parts_are_voided_by_any_other_entry(cluster: Cluster) -> None:
    cluster.ok(one("CREATE TABLE t(a)"))
    cluster.settle()
    follower = cluster.nodes[1]
    start = len(cluster.log)
    cluster.ok(one(FILL + " INSERT INTO t SELECT randomblob(1000) FROM r", [6000]))
    part = cluster.log[start]
    cluster.leader.engine.follow()
    cluster.leader.engine.undo(reversed(cluster.log[start:]))
    del cluster.log[start:]
    cluster.slot = part.next_slot
    cluster.log.append(part)
    cluster.leader.engine.lead(Index(0))
    cluster.noop()
    cluster.ok(one("INSERT INTO t VALUES (1)"))
    cluster.settle()
    assert follower.rows("SELECT a FROM t") == [[1]]
    follower.engine.undo(reversed(cluster.log[start:]))
    assert follower.rows("SELECT a FROM t") == []


def test_a_kind_that_contradicts_the_body_is_a_bad_entry(cluster: Cluster) -> None:
    cluster.ok(one("CREATE TABLE t(a)"))
    entry = cluster.log[0]
    wrong = encode_entry(cluster.slot, EntryKind.TXN_PART, bytes(entry.body), time_us=0, flags=entry.flags)
    end = encode_entry(wrong.next_slot, EntryKind.TXN, bytes(entry.body), time_us=0, flags=entry.flags)
    with pytest.raises(BadEntry):
        cluster.nodes[1].engine.apply([wrong, end])


def test_entries_that_do_not_fit_are_a_mismatch_and_change_nothing(cluster: Cluster) -> None:
    cluster.ok(one("CREATE TABLE t(a)"))
    cluster.settle()
    cluster.ok(one("INSERT INTO t VALUES (1)"))
    cluster.ok(one("INSERT INTO t VALUES (2)"))
    follower = cluster.nodes[1]
    before = follower.digest()
    with pytest.raises(HashMismatch):
        follower.engine.apply([cluster.log[2]])
    assert follower.digest() == before
    cluster.settle()


def test_leadership_goes_round_and_ids_are_remembered(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(3)
    cluster.ok(one("CREATE TABLE t(a)"))
    for turn in range(6):
        (first,) = cluster.ok(one("INSERT INTO t VALUES (?) RETURNING a", [turn], request_id=b"%d" % turn))
        at = len(cluster.log)
        cluster.switch(cluster.nodes[(turn + 1) % 3])
        again, old = cluster.ok(
            one("INSERT INTO t VALUES (99)", request_id=b"%d" % turn),
            one("INSERT INTO t VALUES (99)", request_id=b"0"),
        )
        assert again.repeated_at == at and again.results == first.results
        assert old.repeated_at is not None
    cluster.settle()
    assert cluster.leader.rows("SELECT a FROM t") == [[turn] for turn in range(6)]


def test_an_undone_request_id_may_be_used_again(cluster: Cluster) -> None:
    cluster.ok(one("CREATE TABLE t(a)"))
    cluster.ok(one("INSERT INTO t VALUES (1)", request_id=b"x"))
    cluster.leader.engine.follow()
    cluster.leader.engine.undo([cluster.log.pop()])
    cluster.slot = cluster.log[-1].next_slot
    cluster.leader.engine.lead(Index(0))
    (fresh,) = cluster.ok(one("INSERT INTO t VALUES (2)", request_id=b"x"))
    assert fresh.repeated_at is None
    cluster.settle()


def test_checkpoints_on_both_sides_change_nothing(cluster: Cluster) -> None:
    leader, follower = cluster.leader.engine, cluster.nodes[1].engine
    cluster.ok(one("CREATE TABLE t(a)"))
    for turn in range(4):
        cluster.ok(one("INSERT INTO t VALUES (?)", [turn]))
        cluster.settle()
        assert leader.checkpoint() is None
        assert leader.checkpoint(force=True) == len(cluster.log)
        assert follower.checkpoint(force=True) == len(cluster.log)
        assert not leader.checkpoint_due()
    cluster.settle()
    wal = os.path.getsize(str(cluster.leader.path) + "-wal")
    assert wal == 0


def test_a_reader_that_blocks_the_checkpoint_is_waited_out(cluster: Cluster) -> None:
    cluster.ok(one("CREATE TABLE t(a)"))
    pin = cluster.leader.engine.pin()
    cluster.ok(one("INSERT INTO t VALUES (1)"))
    before = pin.digest()
    assert cluster.leader.engine.checkpoint(force=True) is None
    cluster.ok(one("INSERT INTO t VALUES (2)"))
    assert pin.digest() == before
    pin.close()
    assert cluster.leader.engine.checkpoint(force=True) == 3
    cluster.settle()


def test_queries_run_on_both_sides_with_their_position(cluster: Cluster) -> None:
    cluster.ok(one("CREATE TABLE t(a)"))
    cluster.settle()
    cluster.ok(one("INSERT INTO t VALUES (1)"))
    ask: dict[str, Any] = {"deadline": None, "rows_max": 10, "bytes_max": 1000}
    here = cluster.leader.engine.query("SELECT count(*) FROM t", [], **ask)
    there = cluster.nodes[1].engine.query("SELECT count(*) FROM t", [], **ask)
    assert (here.rows, there.rows) == ([[1]], [[0]])
    assert here.position is not None and there.position is not None
    assert (here.position.first_index, there.position.first_index) == (2, 1)


def reopened(node: Node, **options: Any) -> Node:
    node.engine.close()
    plainfile.forget(str(node.path))
    fresh = Node(node.path, **options)
    fresh.applied = node.applied
    return fresh


def test_a_node_comes_back_where_it_was(cluster: Cluster) -> None:
    cluster.ok(one("CREATE TABLE t(a)"))
    cluster.settle()
    position = cluster.leader.engine.position()
    for number in range(2):
        node = cluster.nodes[number] = reopened(cluster.nodes[number])
        assert node.engine.open() == position
        assert not os.path.exists(str(node.path) + "-wal") or os.path.getsize(str(node.path) + "-wal") == 0
    cluster.leader = cluster.nodes[0]
    cluster.leader.engine.lead(Index(0))
    cluster.ok(one("INSERT INTO t VALUES (1)"))
    cluster.settle()


def test_a_database_of_another_cluster_is_refused(cluster: Cluster) -> None:
    cluster.ok(one("CREATE TABLE t(a)"))
    cluster.settle()
    node = cluster.nodes[1] = reopened(cluster.nodes[1], cluster="c2")
    with pytest.raises(Diverged, match="belongs to cluster c1"):
        node.engine.open()


@pytest.mark.parametrize("content", [b"", os.urandom(5000), b"SQLite format 2\0" + bytes(5000)])
def test_what_is_no_database_is_refused_and_untouched(tmp_path: Path, content: bytes) -> None:
    node = Node(tmp_path / "x" / "main.db")
    node.path.write_bytes(content)
    with pytest.raises(Corruption, match="not a SQLite database, or it is encrypted"):
        node.engine.open()
    assert node.path.read_bytes() == content
    plainfile.forget(str(node.path))


def crash(node: Node, folder: Path) -> Node:
    """The files as a kill would leave them, under another name."""
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(str(node.path) + suffix, str(folder / "main.db") + suffix)
    if (node.path.parent / "state").exists():
        shutil.copy(node.path.parent / "state", folder / "state")
        os.utime(folder / "main.db", ns=(os.stat(node.path).st_atime_ns, os.stat(node.path).st_mtime_ns))
    copy = Node(folder / "main.db")
    copy.applied = node.applied
    return copy


def test_a_killed_leaders_surplus_is_found_and_undone(cluster: Cluster, tmp_path: Path) -> None:
    cluster.ok(one("CREATE TABLE t(a)"))
    cluster.ok(one("INSERT INTO t VALUES (1)"))
    cluster.settle()
    digest = cluster.leader.digest()
    mark = cluster.leader.engine.capture_mark()
    cluster.ok(one("INSERT INTO t VALUES (2)"))
    cluster.ok(one(FILL + " INSERT INTO t SELECT randomblob(1000) FROM r", [6000]), one("VACUUM"))
    back = crash(cluster.leader, tmp_path / "crash")
    position = back.engine.open()
    assert position is not None and position.first_index == 4
    surplus = back.engine.surplus([(Index(1), mark)])
    assert len(surplus) > 3
    assert back.engine.undo(reversed(surplus)) == cluster.nodes[1].engine.position()
    assert back.digest() == digest
    assert back.engine.surplus([(Index(1), back.engine.capture_mark())]) == []
    back.engine.close()
    plainfile.forget(str(back.path))


def test_a_foreign_commit_is_captured_with_the_next_group(cluster: Cluster) -> None:
    cluster.ok(one("CREATE TABLE t(a)"))
    assert cluster.leader.engine._writer is not None
    cluster.leader.engine._writer.release()
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "c.execute('insert into t values (99)')\n"
        "c.commit()\n"
        "c.execute('select 1')\n"
        "import os; os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(cluster.leader.path)], check=True)
    cluster.ok(one("INSERT INTO t VALUES (1)"))
    assert cluster.leader.engine.foreign_commits == 1
    cluster.settle()
    assert cluster.nodes[1].rows("SELECT a FROM t") == [[99], [1]]


def test_a_snapshot_brings_a_new_node_up(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster(page_size=1024)
    cluster.ok(one("CREATE TABLE t(a)"))
    cluster.ok(one(FILL + " INSERT INTO t SELECT randomblob(100) FROM r", [500]))
    node = Node(tmp_path / "new" / "main.db")
    node.engine.open()
    assert node.rows("SELECT count(*) FROM sqlite_schema") == [[0]]
    pin = cluster.leader.engine.pin()
    units = [(first, unit) for first in range(1, pin.unit_count + 1) for unit in pin.read(first, 1)]
    assert node.engine.install(pin.unit_bytes, pin.unit_count, units) == pin.position
    pin.close()
    assert node.digest() == cluster.leader.digest()
    assert node.rows("SELECT count(*) FROM t") == [[500]]
    node.applied = len(cluster.log)
    cluster.nodes.append(node)
    cluster.ok(one("DELETE FROM t WHERE rowid % 2"))
    cluster.settle()


REQUEST = st.sampled_from(
    [
        many("INSERT INTO t(b) VALUES (1)"),
        many("INSERT INTO t(b) VALUES (randomblob(9000))"),
        many("INSERT INTO t(b) VALUES (1), (2)", "INSERT INTO u VALUES (1)"),
        many("INSERT OR ROLLBACK INTO u VALUES (1)"),
        many("INSERT OR FAIL INTO u VALUES (7), (1)"),
        many("UPDATE t SET b = b || 'x' WHERE a % 3 = 0"),
        many("DELETE FROM t WHERE a % 2"),
        many("DELETE FROM t"),
        many("CREATE INDEX IF NOT EXISTS i ON t(b)"),
        many("DROP INDEX IF EXISTS i"),
        many("CREATE TABLE IF NOT EXISTS w AS SELECT * FROM t"),
        many("DROP TABLE IF EXISTS w"),
        many("INSERT INTO f VALUES (hex(randomblob(30)))"),
        many("VACUUM"),
        many("SELECT 1"),
        many("nonsense"),
    ]
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(groups=st.lists(st.lists(REQUEST, min_size=1, max_size=6), min_size=1, max_size=12), data=st.data())
def test_any_groups_in_any_hands_end_equal_and_go_back(
    make_cluster: Callable[..., Cluster], groups: list[Any], data: st.DataObject
) -> None:
    cluster = make_cluster()
    try:
        cluster.ok(
            many(
                "CREATE TABLE t(a INTEGER PRIMARY KEY, b)",
                "CREATE TABLE u(a UNIQUE)",
                "CREATE VIRTUAL TABLE f USING fts5(x)",
                "INSERT INTO u VALUES (1)",
            )
        )
        cluster.settle()
        start, before = len(cluster.log), cluster.leader.digest()
        for group in groups:
            cluster.run(*group)
            match data.draw(st.sampled_from(["on", "on", "settle", "checkpoint", "switch"])):
                case "settle":
                    cluster.settle()
                case "checkpoint":
                    for node in cluster.nodes:
                        node.engine.checkpoint(force=True)
                case "switch":
                    cluster.switch(cluster.nodes[1 - cluster.nodes.index(cluster.leader)])
                case _:
                    pass
        cluster.settle()
        assert cluster.leader.rows("PRAGMA integrity_check") == [["ok"]]
        cluster.leader.engine.follow()
        for node in cluster.nodes:
            node.engine.undo(reversed(cluster.log[start:]))
            assert node.digest() == before
    finally:
        cluster.close()
        cluster.nodes.clear()


FOREIGN = (
    "import sqlite3, sys, os\n"
    "c = sqlite3.connect(sys.argv[1])\n"
    "c.execute('insert into t values (99)')\n"
    "c.commit()\n"
    "os._exit(0) if sys.argv[2] == 'kill' else c.close()"
)


def write_behind_its_back(path: Path, how: str) -> None:
    subprocess.run([sys.executable, "-c", FOREIGN, str(path), how], check=True)


@pytest.mark.parametrize("how", ["kill", "close"])
def test_a_write_while_the_node_was_down_is_noticed(cluster: Cluster, how: str) -> None:
    cluster.ok(one("CREATE TABLE t(a)"))
    cluster.settle()
    node = cluster.nodes[1]
    node.engine.close()
    plainfile.forget(str(node.path))
    write_behind_its_back(node.path, how)
    node = cluster.nodes[1] = Node(node.path)
    with pytest.raises(Diverged):
        node.engine.open()
    # It stays open, so that pages can be compared and repaired.
    pin = cluster.leader.engine.pin()
    units = list(enumerate(pin.read(1, pin.unit_count), 1))
    assert node.engine.install(pin.unit_bytes, pin.unit_count, units) == pin.position
    pin.close()
    node.applied = len(cluster.log)
    cluster.settle()


def test_a_write_between_following_and_leading_is_noticed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.ok(one("CREATE TABLE t(a)"))
    cluster.settle()
    engine = cluster.nodes[1].engine
    release = engine._applier.release_for_leading

    def released(log_end: int) -> bytes:
        mark = release(log_end)
        write_behind_its_back(cluster.nodes[1].path, "kill")
        return mark

    monkeypatch.setattr(engine._applier, "release_for_leading", released)
    with pytest.raises(Diverged, match="began to lead"):
        engine.lead(Index(0))
    assert engine._writer is None
    assert cluster.nodes[1].rows("SELECT a FROM t") == [[99]]


def test_a_write_between_leading_and_following_is_noticed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.ok(one("CREATE TABLE t(a)"))
    engine = cluster.leader.engine
    reopen = engine._applier.open

    def opened() -> str | None:
        write_behind_its_back(cluster.leader.path, "kill")
        return reopen()

    monkeypatch.setattr(engine._applier, "open", opened)
    with pytest.raises(Diverged, match="stopped leading"):
        engine.follow()
    monkeypatch.undo()
    assert engine.position() is not None


def test_a_group_that_lost_its_transaction_is_one_entry(cluster: Cluster) -> None:
    cluster.ok(one("CREATE TABLE t(a UNIQUE)"), one("INSERT INTO t VALUES (0)"))
    bad = one("INSERT OR ROLLBACK INTO t VALUES (0)")
    for culprits in (1, 3):
        before = len(cluster.log)
        group = [
            one("INSERT INTO t VALUES (?)", [before * 10 + n], request_id=b"%d/%d" % (before, n))
            for n in range(4)
        ]
        outcomes = cluster.run(*group[:2], *[bad] * culprits, *group[2:])
        assert [outcome.error is None for outcome in outcomes] == [True] * 2 + [False] * culprits + [True] * 2
        assert len(cluster.log) == before + 1
        cluster.settle()
    cluster.switch(cluster.nodes[1])
    (again,) = cluster.ok(group[3])
    assert again.repeated_at == before + 1


def test_a_value_of_a_strange_type_does_not_stop_the_leader(cluster: Cluster) -> None:
    outcomes = cluster.run(one("CREATE TABLE t(a)"), one("INSERT INTO t VALUES (?)", [object()]))
    assert outcomes[0].error is None and outcomes[1].error is not None
    logged = decode_requests(decode_entry(cluster.records[-1]).body)
    assert logged[1].cut and "object" in logged[1].statements[0][1][0]
    cluster.settle()


def test_foreign_writers_stay_locked_out_on_both_sides(cluster: Cluster) -> None:
    def write(node: Node) -> str:
        script = (
            "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('insert into t values (9)')"
        )
        return subprocess.run(
            [sys.executable, "-c", script, str(node.path)], capture_output=True, text=True
        ).stderr

    cluster.ok(one("CREATE TABLE t(a)"))
    cluster.settle()
    for node in cluster.nodes:
        assert "database is locked" in write(node)
        node.engine.checkpoint(force=True)
        assert "database is locked" in write(node)
    assert cluster.leader.rows("SELECT a FROM t") == []
