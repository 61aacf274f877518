"""The term as a fencing token: a system outside cannot be confused by who was deposed."""

from __future__ import annotations

import sqlite3

import pytest
from cluster import Node
from conftest import MakeCluster
from test_rewind import elected

TAKE = "INSERT INTO jobs (name) VALUES (?) RETURNING term, paceline_term()"


class Outside:
    """A printer, a mail server: it refuses whoever comes with a smaller token than it has seen."""

    def __init__(self) -> None:
        self.highest = 0
        self.done: list[tuple[int, str]] = []

    def does(self, token: int, name: str) -> bool:
        if token < self.highest:
            return False
        self.highest = token
        self.done.append((token, name))
        return True


def take(node: Node, name: str, durability: str) -> int:
    with node.client(timeout_ms=5_000) as client:
        done = client.execute([(TAKE, [name])], durability=durability)
    assert done.results and done.results[0].rows and done.receipt
    ((stamped, token),) = done.results[0].rows
    assert stamped == token == done.receipt.term
    return int(token)


@pytest.mark.slow
def test_deposed_leader_cannot_act_outside_with_its_old_term(make_cluster: MakeCluster) -> None:
    cluster, old, rest = elected(make_cluster, proxied=True)
    outside = Outside()
    with old.client() as client:
        client.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, name, term DEFAULT (paceline_term()))")
    first = take(old, "first", "quorum")
    assert outside.does(first, "first")
    cluster.proxy.isolate(old.name, cluster.nodes)
    late = take(old, "late", "async")  # it does not know yet that it is alone
    new = cluster.wait_for_leader(among=rest, after=first)
    token = take(new, "second", "quorum")
    assert token > late == first
    assert outside.does(token, "second")
    assert not outside.does(late, "late"), "the old reign's process is refused"
    cluster.proxy.heal()
    cluster.wait_ready()
    cluster.wait_level()
    for node in cluster.nodes.values():
        rows = node.query("SELECT name, term, paceline_term() FROM jobs ORDER BY id")
        assert rows == [["first", first, token], ["second", token, token]], node.name
        # The stamp is data: any SQLite reads the file, although it does not know the function.
        with sqlite3.connect(f"file:{node.database}?mode=ro", uri=True) as plain:
            assert plain.execute("SELECT max(term) FROM jobs").fetchall() == [(token,)]
            assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
