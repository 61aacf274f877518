"""A system outside keeps a ledger of ids: no id of a lost write is ever given to another row."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from cluster import Node, eventually
from conftest import MakeCluster
from test_rewind import elected
from test_switch import switch

from paceline.errors import PacelineError

TABLES = (
    "CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, body)",
    "CREATE TABLE early (id INTEGER PRIMARY KEY AUTOINCREMENT, body)",
    "CREATE TABLE plain (id INTEGER PRIMARY KEY, body)",
)


class Ledger:
    """Outside: every id that anybody was ever told, and for what."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, int], str] = {}
        self.doubles: list[tuple[str, int]] = []

    def note(self, table: str, id: int, body: str) -> None:
        if self.known.setdefault((table, id), body) != body:
            self.doubles.append((table, id))


def draw(node: Node, ledger: Ledger, table: str, prefix: str, count: int, durability: str) -> int:
    """Insert up to ``count`` rows while the node takes them; how many it acknowledged."""
    with node.client(timeout_ms=2_000) as client:
        for number in range(count):
            body = f"{prefix}-{number}"
            try:
                done = client.execute(
                    [(f"INSERT INTO {table} (body) VALUES (?)", [body])],
                    durability=durability,
                    timeout_ms=500,
                )
            except PacelineError:
                return number
            assert done.results
            ledger.note(table, done.results[0].last_insert_rowid, body)
    return count


def ids_told(node: Node) -> dict[str, Any]:
    command = [sys.executable, "-m", "paceline", "lost", "ids", "--json", "--connect", node.listen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=True)
    return {item["table"]: item["reused"] for item in json.loads(done.stdout)["tables"]}


@pytest.mark.slow
def test_ids_of_lost_writes_are_not_given_again(make_cluster: MakeCluster) -> None:
    cluster, old, rest = elected(make_cluster, proxied=True)
    ledger = Ledger()
    with old.client() as client:
        client.execute(list(TABLES), durability="all")
    assert draw(old, ledger, "orders", "safe", 5, "quorum") == 5
    draw(old, ledger, "plain", "safe", 5, "quorum")
    for reign in range(2):
        old = cluster.leader
        rest = [node for node in cluster.nodes.values() if node is not old]
        term = old.status()["term"]
        cluster.proxy.isolate(old.name, cluster.nodes)
        assert draw(old, ledger, "orders", f"lost{reign}", 10, "async") == 10
        assert draw(old, ledger, "early", f"lost{reign}", 3, "async") == 3
        assert draw(old, ledger, "plain", f"lost{reign}", 3, "async") == 3
        new = cluster.wait_for_leader(among=rest, after=term)
        for table in ("orders", "early", "plain"):
            assert draw(new, ledger, table, f"kept{reign}", 12, "quorum") == 12
        cluster.proxy.heal()
        cluster.wait_ready()
    assert [double for double in ledger.doubles if double[0] != "plain"] == []
    assert ledger.doubles, "a plain INTEGER PRIMARY KEY gives them again, as is told"
    eventually("all are level", lambda: not [n for n in cluster.nodes.values() if n.status()["lost"] is None])
    cluster.wait_level()
    for node in cluster.nodes.values():
        for table in ("orders", "early"):
            for id, body in node.query(f"SELECT id, body FROM {table}"):
                assert ledger.known[table, int(id)] == body, (node.name, table, id)
    told = ids_told(cluster.leader)
    assert told == {"early": False, "orders": False, "plain": True}
    with cluster.client() as client:
        client.admin("settings", id_gap=7)
        last = int(cluster.leader.query("SELECT max(seq) FROM sqlite_sequence WHERE name = 'orders'")[0][0])
        switch(cluster, next(node for node in cluster.nodes.values() if node is not cluster.leader))
        done = client.execute("INSERT INTO orders (body) VALUES ('set')")
        assert done.results and done.results[0].last_insert_rowid == last + 8
    cluster.assert_equal()
