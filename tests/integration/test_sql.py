"""SQLite's features over HTTP, through a follower, and bit-identical on every node afterwards."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cluster import Cluster
from conftest import MakeCluster
from load import Load, Readers, make_tables
from web import get, post


@pytest.fixture(scope="module")
def cluster(shared: Cluster) -> Cluster:
    return shared


def execute(cluster: Cluster, *statements: Any, through: str = "n2", **options: Any) -> list[dict[str, Any]]:
    answer = post(cluster[through], "/api/v1/execute", {"statements": list(statements), **options})
    assert answer.status == 200, answer.json
    assert answer.headers["paceline-leader"] == "n1" and answer.headers["paceline-term"]
    results: list[dict[str, Any]] = answer.json["results"]
    return results


def query(cluster: Cluster, sql: str, args: Any = (), node: str = "n3") -> list[list[Any]]:
    answer = post(cluster[node], "/api/v1/query", {"sql": sql, "args": list(args)})
    assert answer.status == 200, answer.json
    rows: list[list[Any]] = answer.json["rows"]
    return rows


def settled(cluster: Cluster) -> None:
    cluster.wait_level()


def test_full_text_search(cluster: Cluster) -> None:
    execute(
        cluster,
        "CREATE VIRTUAL TABLE docs USING fts5(title, body)",
        ["INSERT INTO docs VALUES (?, ?), (?, ?)", ["one", "the quick fox", "two", "the lazy dog"]],
        "UPDATE docs SET body = 'the quick dog' WHERE title = 'two'",
        "INSERT INTO docs(docs) VALUES ('optimize')",
    )
    settled(cluster)
    for node in cluster.nodes:
        assert query(cluster, "SELECT title FROM docs WHERE docs MATCH 'quick' ORDER BY 1", (), node) == [
            ["one"],
            ["two"],
        ]
    cluster.assert_equal()


def test_r_tree(cluster: Cluster) -> None:
    execute(
        cluster,
        "CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1, y0, y1)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) "
        "INSERT INTO boxes SELECT i, i, i + 1, i, i + 1 FROM n",
        "DELETE FROM boxes WHERE id % 2",
    )
    settled(cluster)
    assert query(cluster, "SELECT count(*) FROM boxes WHERE x0 >= 100 AND x1 <= 201") == [[51]]
    cluster.assert_equal()


def test_generated_columns_triggers_and_views(cluster: Cluster) -> None:
    execute(
        cluster,
        "CREATE TABLE item (id INTEGER PRIMARY KEY, price REAL, n INT, total REAL AS (price * n) STORED)",
        "CREATE TABLE audit (at TEXT DEFAULT CURRENT_TIMESTAMP, what TEXT, r INT DEFAULT (random()))",
        "CREATE TRIGGER item_added AFTER INSERT ON item BEGIN "
        "INSERT INTO audit (what) VALUES ('added; ' || new.id); END",
        "CREATE VIEW dear AS SELECT id, total FROM item WHERE total > 10",
        ["INSERT INTO item (price, n) VALUES (?, ?)", [2.5, 2]],
        ["INSERT INTO item (price, n) VALUES (:price, :n)", {"price": 4.0, "n": 3}],
    )
    settled(cluster)
    assert query(cluster, "SELECT * FROM dear") == [[2, 12.0]]
    assert query(cluster, "SELECT what FROM audit ORDER BY 1") == [["added; 1"], ["added; 2"]]
    chance = [query(cluster, "SELECT r FROM audit ORDER BY what", (), node) for node in cluster.nodes]
    assert chance[0] == chance[1] == chance[2]
    cluster.assert_equal()


def test_alter_upsert_returning_json_and_without_rowid(cluster: Cluster) -> None:
    execute(
        cluster,
        "CREATE TABLE kv (k TEXT PRIMARY KEY, v JSON) WITHOUT ROWID",
        "ALTER TABLE kv ADD COLUMN seen INT NOT NULL DEFAULT 0",
        "ALTER TABLE kv RENAME COLUMN v TO value",
    )
    upsert = (
        "INSERT INTO kv (k, value) VALUES (?, json(?)) "
        "ON CONFLICT (k) DO UPDATE SET seen = seen + 1 RETURNING k, seen, value ->> 'a'"
    )
    first = execute(cluster, [upsert, ["x", '{"a": 1}']])
    second = execute(cluster, [upsert, ["x", '{"a": 2}']])
    assert first[0]["rows"] == [["x", 0, 1]] and second[0]["rows"] == [["x", 1, 1]]
    execute(cluster, "ALTER TABLE kv DROP COLUMN seen")
    settled(cluster)
    assert query(cluster, "SELECT * FROM kv") == [["x", '{"a":1}']]
    cluster.assert_equal()


def test_all_storage_classes_survive_the_trip(cluster: Cluster) -> None:
    execute(cluster, "CREATE TABLE val (id INTEGER PRIMARY KEY, x)")
    values: list[Any] = [
        None,
        2**63 - 1,
        -(2**63),
        2**53 + 1,
        0.1,
        "",
        "naïve \u0000 text 😀",
        {"base64": base64.b64encode(bytes(range(256))).decode()},
        {"base64": ""},
    ]
    for value in values:
        execute(cluster, ["INSERT INTO val (x) VALUES (?)", [value]])
    execute(cluster, "INSERT INTO val (x) VALUES (9e999), (-9e999)")
    settled(cluster)
    rows = query(cluster, "SELECT x, typeof(x) FROM val ORDER BY id")
    found = [row[0] for row in rows]
    assert [row[1] for row in rows] == [
        *("null", "integer", "integer", "integer", "real", "text", "text", "blob", "blob", "real", "real")
    ]
    native = cluster["n3"].query("SELECT x FROM val ORDER BY id")
    assert [x for (x,) in native] == [
        *(None, 2**63 - 1, -(2**63), 2**53 + 1, 0.1, "", "naïve \u0000 text 😀"),
        *(bytes(range(256)), b"", float("inf"), float("-inf")),
    ]
    assert found[4:6] == [0.1, ""]
    cluster.assert_equal()


def test_vacuum_growth_and_shrinkage_under_load(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.start()
    make_tables(cluster)
    sizes = []
    with Readers(*cluster.followers), Load(cluster, writers=2) as load, cluster.leader.client() as client:
        client.execute("CREATE TABLE big (id INTEGER PRIMARY KEY, body BLOB)")
        for _ in range(2):
            load.more(5)
            client.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) "
                "INSERT INTO big (body) SELECT randomblob(10000) FROM n"
            )
            sizes.append(client.query("PRAGMA page_count", read="leader").rows[0][0])
            client.execute("DELETE FROM big")
            client.execute("VACUUM")
            sizes.append(client.query("PRAGMA page_count", read="leader").rows[0][0])
            load.more(5)
    load.assert_kept()
    assert sizes[1] < sizes[0] / 10 and sizes[3] < sizes[2] / 10


def test_status_and_liveness_over_http(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        assert get(node, "/healthz").status == 200
        assert get(node, "/readyz").status == 200
        status = get(node, "/api/v1/status")
        assert status.json["node"] == node.name and status.json["leader"] == "n1"
