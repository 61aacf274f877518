"""Somebody else's program writes into a node's file: refused while the node runs, noticed when it did not."""

from __future__ import annotations

import sqlite3

import pytest
from cluster import Cluster, Node, eventually
from conftest import MakeCluster


def started(make_cluster: MakeCluster) -> Cluster:
    cluster = make_cluster()
    cluster.start()
    with cluster.leader.client() as client:
        client.execute(["CREATE TABLE t (x)", "INSERT INTO t VALUES (1), (2), (3)"], durability="all")
    cluster.wait_level()
    return cluster


def write_behind_its_back(node: Node, sql: str = "UPDATE t SET x = x + 100") -> None:
    connection = sqlite3.connect(node.database, timeout=0.2, isolation_level=None)
    try:
        connection.execute(sql)
    finally:
        connection.close()


def test_writer_on_a_running_followers_file_is_refused(make_cluster: MakeCluster) -> None:
    cluster = started(make_cluster)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        write_behind_its_back(cluster["n2"])
    with cluster.client() as client:
        client.execute("INSERT INTO t VALUES (4)", durability="all")
    cluster.assert_equal()


@pytest.mark.slow
def test_writer_on_the_running_leaders_file_is_refused(make_cluster: MakeCluster) -> None:
    cluster = started(make_cluster)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        write_behind_its_back(cluster.leader)
    with cluster.client() as client:
        client.execute("INSERT INTO t VALUES (4)", durability="all")
    cluster.assert_equal()


@pytest.mark.parametrize("more_writes", [False, True])
def test_write_into_a_stopped_followers_file_is_detected_and_healed(
    make_cluster: MakeCluster, more_writes: bool
) -> None:
    cluster = started(make_cluster)
    follower = cluster["n2"]
    follower.stop()
    write_behind_its_back(follower)
    if more_writes:
        with cluster.client() as client:
            client.execute("INSERT INTO t VALUES (4)")
    follower.start()
    cluster.wait_ready()
    assert sum(x for (x,) in follower.query("SELECT x FROM t")) == (10 if more_writes else 6)
    cluster.assert_equal()


@pytest.mark.slow
def test_write_into_a_killed_followers_file_is_detected_and_healed(make_cluster: MakeCluster) -> None:
    cluster = started(make_cluster)
    follower = cluster["n2"]
    follower.kill()
    write_behind_its_back(follower)
    follower.start()
    cluster.wait_ready()
    assert follower.query("SELECT sum(x) FROM t") == [[6]]
    cluster.assert_equal()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_write_into_the_leaders_file_while_all_are_down_is_adopted(
    make_cluster: MakeCluster, how: str
) -> None:
    cluster = started(make_cluster)
    getattr(cluster, how)()
    write_behind_its_back(cluster.leader)
    cluster.start()
    eventually("n1 says so", lambda: "rebased" in cluster.leader.output)
    for node in cluster.nodes.values():
        assert node.query("SELECT sum(x) FROM t") == [[306]]
    with cluster.client() as client:
        client.execute("INSERT INTO t VALUES (4)", durability="all")
    cluster.assert_equal()
