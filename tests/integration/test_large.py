"""Transactions far larger than any buffer: split, shipped and applied in bounded memory."""

from __future__ import annotations

import pytest
from conftest import MakeCluster
from load import Filling, Load, Readers, make_tables

MIB = 1 << 20
FILL = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
    "INSERT INTO big (body) SELECT randomblob(100000) FROM n"
)


@pytest.mark.parametrize(
    ("megabytes", "memory_bytes"),
    [(30, 200 * MIB), pytest.param(300, 350 * MIB, marks=pytest.mark.slow)],
)
def test_large_transaction_arrives_whole_in_bounded_memory(
    make_cluster: MakeCluster, megabytes: int, memory_bytes: int
) -> None:
    cluster = make_cluster()
    cluster.start()
    make_tables(cluster)
    rows = megabytes * 10
    with Readers(cluster["n3"]), Load(cluster, writers=1, timeout_ms=100_000) as load:
        load.more(5)
        with cluster.leader.client(timeout_ms=100_000) as client:
            client.execute("CREATE TABLE big (id INTEGER PRIMARY KEY, body BLOB)")
            receipt = client.execute([(FILL, [rows])]).receipt
        assert receipt is not None
        load.more(5)
    cluster.wait_level(60)
    for node in cluster.nodes.values():
        assert node.query("SELECT count(*) FROM big") == [[rows]]
        assert node.memory_peak_bytes() < memory_bytes, (
            f"{node.name}: {node.memory_peak_bytes() / MIB:.0f} MiB"
        )
    load.assert_kept()


def test_large_transaction_that_fails_leaves_nothing_anywhere(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.start()
    make_tables(cluster)
    with Readers(*cluster.followers), Load(cluster, writers=2) as load, cluster.leader.client() as client:
        client.execute("CREATE TABLE big (id INTEGER PRIMARY KEY, body BLOB)")
        with pytest.raises(Exception, match="UNIQUE"):
            client.execute([(FILL, [150]), "INSERT INTO big (id) VALUES (1)"])
        load.more(5)
    cluster.wait_level()
    assert all(node.query("SELECT count(*) FROM big") == [[0]] for node in cluster.nodes.values())
    load.assert_kept()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["n1", "n2"])
def test_node_killed_in_a_large_transaction_has_all_of_it_or_nothing(
    make_cluster: MakeCluster, victim: str
) -> None:
    cluster = make_cluster()
    cluster.start()
    make_tables(cluster)
    with cluster.leader.client() as client:
        client.execute("CREATE TABLE big (id INTEGER PRIMARY KEY, body BLOB)", durability="all")
    with Load(cluster, writers=2) as load:
        load.more(5)
        filling = Filling(cluster, rows=300)
        filling.wait_for_parts()
        cluster[victim].kill()
        cluster[victim].start()
        filling.join()
        load.more(5)
    cluster.wait_ready()
    counts = {node.query("SELECT count(*) FROM big")[0][0] for node in cluster.nodes.values()}
    assert counts == {300}, "the client repeats it under its request id until it is there, once"
    load.assert_kept()
