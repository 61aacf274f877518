"""``paceline_term()``: the fencing token in SQL."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from engine_support import Cluster
from exec_support import Leader, many, one

from paceline.engines.base import Group
from paceline.engines.sqlite.connect import EngineOptions
from paceline.engines.sqlite.reads import Readers
from paceline.engines.sqlite.statements import Statements
from paceline.errors import SqlError
from paceline.ids import Index, Slot, Term


def run_in(leader: Leader, term: int, *statements: str) -> None:
    slot = Slot(Term(term), Index(leader.index + 1), bytes(16))
    (outcome,), changed = leader.writer.run(Group(slot, [many(*statements)], 0, lambda entry: None))
    assert outcome.error is None and changed
    leader.index += 1
    leader.writer.hold(wait=False)


def test_write_sees_the_term_of_its_own_entry(make_leader: Callable[..., Leader]) -> None:
    leader = make_leader()
    run_in(leader, 3, "CREATE TABLE t(term, stamp DEFAULT (paceline_term()))")
    run_in(leader, 3, "INSERT INTO t(term) VALUES (paceline_term())")
    run_in(leader, 7, "INSERT INTO t(term) VALUES (paceline_term())")
    assert leader.rows("SELECT term, stamp FROM t") == [[3, 3], [7, 7]]


def test_trigger_and_view_may_use_the_term(make_leader: Callable[..., Leader]) -> None:
    leader = make_leader()
    run_in(
        leader,
        4,
        "CREATE TABLE t(a)",
        "CREATE TABLE audit(a, term)",
        "CREATE TRIGGER log AFTER INSERT ON t BEGIN INSERT INTO audit VALUES (new.a, paceline_term()); END",
        "CREATE VIEW now AS SELECT paceline_term() AS term",
    )
    run_in(leader, 5, "INSERT INTO t VALUES (1)")
    assert leader.rows("SELECT * FROM audit") == [[1, 5]]
    assert leader.rows("SELECT term FROM now") == [[1]]  # a group of its own, of the support's term 1


def test_term_is_no_part_of_an_index_or_generated_column(make_leader: Callable[..., Leader]) -> None:
    leader = make_leader()
    leader.ok(one("CREATE TABLE t(a)"))
    for sql in ("CREATE INDEX i ON t(paceline_term())", "CREATE TABLE u(a, b AS (paceline_term()))"):
        (outcome,) = leader.run(one(sql))
        assert isinstance(outcome.error, SqlError), sql


def test_read_sees_the_term_in_which_its_snapshot_was_written(make_leader: Callable[..., Leader]) -> None:
    leader = make_leader()
    readers = Readers(leader.path, options=EngineOptions(), statements=Statements(), monotonic=time.monotonic)
    ask = "SELECT paceline_term()"

    def seen() -> object:
        return readers.query(ask, [], deadline=None, rows_max=9, bytes_max=999).rows[0][0]

    try:
        assert seen() == 0
        run_in(leader, 2, "CREATE TABLE t(a)")
        assert seen() == 2
        leader.rows(ask)  # changes nothing, so the state is still that of term 2
        assert seen() == 2
        run_in(leader, 9, "INSERT INTO t VALUES (1)")
        assert seen() == 9
    finally:
        readers.close()


def test_follower_reads_the_leaders_value(cluster: Cluster) -> None:
    cluster.ok(one("CREATE TABLE t(term)"), one("INSERT INTO t VALUES (paceline_term())"))
    cluster.settle()
    for node in cluster.nodes:
        assert node.rows("SELECT term, paceline_term() FROM t") == [[1, 1]]


@pytest.mark.parametrize("sql", ["SELECT paceline_term(1)", "SELECT PACELINE_TERM()"])
def test_name_and_arguments_are_sqlites(make_leader: Callable[..., Leader], sql: str) -> None:
    (outcome,) = make_leader().run(one(sql))
    assert (outcome.error is not None) == ("1" in sql)
