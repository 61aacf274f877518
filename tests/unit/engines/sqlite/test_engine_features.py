"""SQL of every kind, from the leader's engine through entries into a follower's: the files end equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from engine_support import Cluster
from exec_support import many, one

FEATURES: dict[str, tuple[list[str], str, list[list[Any]]]] = {
    "returning": (
        ["CREATE TABLE t(a INTEGER PRIMARY KEY, b)", "INSERT INTO t(b) VALUES (1), (2) RETURNING a, b"],
        "SELECT * FROM t",
        [[1, 1], [2, 2]],
    ),
    "upsert": (
        [
            "CREATE TABLE t(a PRIMARY KEY, n DEFAULT 1)",
            "INSERT INTO t(a) VALUES ('x')",
            "INSERT INTO t(a) VALUES ('x') ON CONFLICT(a) DO UPDATE SET n = n + 1",
        ],
        "SELECT * FROM t",
        [["x", 2]],
    ),
    "cte and window": (
        [
            "CREATE TABLE t(a, s)",
            "WITH RECURSIVE r(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM r WHERE i < 4)"
            " INSERT INTO t SELECT i, sum(i) OVER (ORDER BY i) FROM r",
        ],
        "SELECT * FROM t WHERE a = 4",
        [[4, 10]],
    ),
    "json": (
        [
            "CREATE TABLE t(d, x AS (d ->> '$.n'))",
            "INSERT INTO t(d) VALUES (jsonb('{\"n\": 5}'))",
            "UPDATE t SET d = jsonb_set(d, '$.n', 6)",
        ],
        "SELECT x, json(d) FROM t",
        [[6, '{"n":6}']],
    ),
    "fts5": (
        [
            "CREATE VIRTUAL TABLE t USING fts5(body)",
            "INSERT INTO t VALUES ('the quick fox'), ('a slow dog')",
            "DELETE FROM t WHERE t MATCH 'dog'",
            "INSERT INTO t(t) VALUES ('optimize')",
        ],
        "SELECT body FROM t WHERE t MATCH 'quick'",
        [["the quick fox"]],
    ),
    "r-tree": (
        [
            "CREATE VIRTUAL TABLE t USING rtree(id, x0, x1)",
            "INSERT INTO t VALUES (1, 0, 1), (2, 5, 6)",
            "DELETE FROM t WHERE id = 1",
        ],
        "SELECT id FROM t WHERE x0 > 4",
        [[2]],
    ),
    "generated and strict": (
        ["CREATE TABLE t(a INTEGER, b INTEGER AS (a * 2) STORED) STRICT", "INSERT INTO t(a) VALUES (4)"],
        "SELECT b FROM t",
        [[8]],
    ),
    "triggers": (
        [
            "CREATE TABLE t(a)",
            "CREATE TABLE log(what)",
            "CREATE TRIGGER x AFTER INSERT ON t BEGIN INSERT INTO log VALUES ('+' || new.a);"
            " INSERT INTO log VALUES ('!'); END",
            "INSERT INTO t VALUES (1)",
        ],
        "SELECT what FROM log",
        [["+1"], ["!"]],
    ),
    "views with instead of": (
        [
            "CREATE TABLE t(a)",
            "CREATE VIEW v AS SELECT a FROM t",
            "CREATE TRIGGER x INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES (new.a + 1); END",
            "INSERT INTO v VALUES (1)",
        ],
        "SELECT a FROM v",
        [[2]],
    ),
    "alter table": (
        [
            "CREATE TABLE t(a, b)",
            "INSERT INTO t VALUES (1, 2)",
            "ALTER TABLE t ADD COLUMN c DEFAULT 3",
            "ALTER TABLE t RENAME COLUMN a TO z",
            "ALTER TABLE t DROP COLUMN b",
            "ALTER TABLE t RENAME TO u",
        ],
        "SELECT z, c FROM u",
        [[1, 3]],
    ),
    "vacuum": (
        [
            "CREATE TABLE t(a)",
            "WITH RECURSIVE r(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM r WHERE i < 300)"
            " INSERT INTO t SELECT randomblob(1000) FROM r",
            "DELETE FROM t WHERE rowid > 3",
            "VACUUM",
            "INSERT INTO t VALUES (1)",
        ],
        "SELECT count(*) FROM t",
        [[4]],
    ),
    "without rowid": (
        [
            "CREATE TABLE t(a, b, PRIMARY KEY (b, a)) WITHOUT ROWID",
            "INSERT INTO t VALUES (1, 2), (2, 1)",
        ],
        "SELECT a FROM t",
        [[2], [1]],
    ),
    "autoincrement and drop": (
        [
            "CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT)",
            "INSERT INTO t DEFAULT VALUES",
            "DELETE FROM t",
            "INSERT INTO t DEFAULT VALUES",
            "CREATE TABLE gone(a)",
            "DROP TABLE gone",
        ],
        "SELECT a FROM t",
        [[2]],
    ),
    "pragmas": (
        ["PRAGMA user_version = 7", "PRAGMA application_id = 9", "CREATE TABLE t(a)", "ANALYZE"],
        "SELECT user_version, application_id FROM pragma_user_version, pragma_application_id",
        [[7, 9]],
    ),
    "chance and time": (
        [
            "CREATE TABLE t(a DEFAULT (random()), b DEFAULT CURRENT_TIMESTAMP)",
            "INSERT INTO t DEFAULT VALUES",
        ],
        "SELECT count(*) FROM t WHERE a IS NOT NULL AND b IS NOT NULL",
        [[1]],
    ),
    "math, cascade and partial index": (
        [
            "CREATE TABLE p(a PRIMARY KEY)",
            "CREATE TABLE c(a REFERENCES p ON DELETE CASCADE, x)",
            "CREATE INDEX i ON c(x) WHERE x > 1",
            "INSERT INTO p VALUES (1), (2)",
            "INSERT INTO c VALUES (1, sqrt(16)), (2, pi())",
            "DELETE FROM p WHERE a = 2",
        ],
        "SELECT x FROM c",
        [[4.0]],
    ),
}


@pytest.mark.parametrize("together", [False, True], ids=["statement by statement", "in one group"])
@pytest.mark.parametrize("name", FEATURES)
def test_followers_end_bit_identical(make_cluster: Callable[..., Cluster], name: str, together: bool) -> None:
    statements, question, answer = FEATURES[name]
    cluster = make_cluster(foreign_keys=True)
    if together:
        cluster.ok(*[one(sql) for sql in statements if sql != "VACUUM"])
    else:
        for sql in statements:
            cluster.ok(one(sql))
    cluster.settle()
    follower = cluster.nodes[1]
    assert follower.rows(question) == answer
    assert follower.rows("PRAGMA integrity_check") == [["ok"]]
    assert cluster.leader.rows(question) == answer


def test_everything_at_once_can_be_taken_back(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    follower = cluster.nodes[1]
    cluster.ok(one("CREATE TABLE base(a)"))
    cluster.settle()
    before, position, start = follower.digest(), follower.engine.position(), len(cluster.log)
    for number, (statements, _, _) in enumerate(FEATURES.values()):
        drop = [
            f"DROP {kind} IF EXISTS {thing}"
            for kind, thing in [("VIEW", "v"), ("TABLE", "t"), ("TABLE", "u"), ("TABLE", "log")]
        ]
        cluster.ok(many(*drop, "DROP TABLE IF EXISTS c", "DROP TABLE IF EXISTS p"))
        for sql in statements:
            cluster.ok(one(sql))
        if number % 4 == 0:
            cluster.settle()
    cluster.settle()
    follower.engine.undo(reversed(cluster.log[start:]))
    assert follower.digest() == before
    assert follower.engine.position() == position
    follower.applied = start
    cluster.settle()
