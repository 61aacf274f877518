"""Three ``serve`` processes from their TOML files form exactly one cluster, whatever starts first."""

from __future__ import annotations

from itertools import permutations

import pytest
from cluster import eventually
from conftest import MakeCluster

ORDERS = [
    pytest.param(order, id="".join(order), marks=() if n == 5 else pytest.mark.slow)
    for n, order in enumerate(permutations(["n1", "n2", "n3"]))
]


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_start_forms_one_cluster(make_cluster: MakeCluster, order: tuple[str, ...]) -> None:
    cluster = make_cluster()
    first, second, third = (cluster[name] for name in order)
    first.start()
    if first is not cluster.leader:
        eventually("the first one says whom it waits for", lambda: "waiting to join" in first.output)
    second.start()
    third.start()
    cluster.wait_ready()
    statuses = [node.status() for node in cluster.nodes.values()]
    assert len({status["cluster_id"] for status in statuses}) == 1
    assert {status["leader"] for status in statuses} == {"n1"}
    for status in statuses:
        assert sorted(m["name"] for m in status["members"]) == ["n1", "n2", "n3"]
        assert all(m["voting"] == "voter" for m in status["members"])
    with cluster.client() as client:
        client.execute("CREATE TABLE t (x)", durability="all")
    cluster.assert_equal()


def test_stopped_cluster_resumes_with_its_data_and_identity(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.start()
    with cluster.client() as client:
        client.execute(["CREATE TABLE t (x)", "INSERT INTO t VALUES (1)"])
    before = cluster.leader.status()["cluster_id"]
    cluster.stop()
    cluster.start(["n2", "n1", "n3"])
    assert cluster.leader.status()["cluster_id"] == before
    assert cluster["n3"].query("SELECT x FROM t") == [[1]]
    cluster.assert_equal()
