"""A follower whose next entry the leader no longer has re-seeds itself by page hashes."""

from __future__ import annotations

import sqlite3

import pytest
from cluster import Cluster, Node, eventually
from conftest import MakeCluster
from load import Load, Readers, make_tables

SMALL_LOG = {"segment_bytes": 64 * 1024, "retention_bytes": 1024 * 1024}


def first_index(node: Node) -> int:
    return int(node.status()["log"]["first"])


def fill_beyond_retention(cluster: Cluster, beyond: int) -> None:
    """Random (incompressible) rows until the leader has dropped the entry at ``beyond``."""
    with cluster.leader.client() as client:

        def dropped() -> bool:
            for _ in range(20):
                client.execute("INSERT INTO filler (body) SELECT randomblob(30000)")
            return first_index(cluster.leader) > beyond

        eventually("the leader has dropped old entries", dropped, 30)


def test_follower_behind_retention_reseeds_while_readers_stay_attached(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(**SMALL_LOG)
    cluster.start()
    make_tables(cluster)
    lagging = cluster["n2"]
    with cluster.leader.client() as client:
        client.execute("CREATE TABLE filler (id INTEGER PRIMARY KEY, body BLOB)", durability="all")
    with Readers(lagging, cluster["n3"]), Load(cluster, writers=2) as load:
        load.more()
        with lagging.paused():
            fill_beyond_retention(cluster, beyond=lagging_end(lagging, cluster))
        load.more()
        eventually("n2 has re-seeded", lambda: "installed {" in lagging.output)
        load.more()
    load.assert_kept()
    assert first_index(cluster.leader) > 1


@pytest.mark.slow
def test_follower_killed_behind_retention_reseeds_at_its_return(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(**SMALL_LOG)
    cluster.start()
    make_tables(cluster)
    lagging = cluster["n2"]
    with cluster.leader.client() as client:
        client.execute("CREATE TABLE filler (id INTEGER PRIMARY KEY, body BLOB)", durability="all")
    with Load(cluster, writers=2) as load:
        load.more()
        end = lagging.status()["log"]["last"]
        lagging.kill()
        fill_beyond_retention(cluster, beyond=end)
        held = sqlite3.connect(f"file:{lagging.database}?mode=ro", uri=True)
        before = held.execute("SELECT value FROM counter").fetchone()[0]
        with Readers(lagging):
            lagging.start()
            eventually("n2 has re-seeded", lambda: "installed {" in lagging.output)
            load.more()
    load.assert_kept()
    assert held.execute("SELECT value FROM counter").fetchone()[0] > before
    held.close()


def lagging_end(node: Node, cluster: Cluster) -> int:
    """The last index that the leader knows the node to have."""
    members = cluster.leader.status()["members"]
    return int(next(m["durable"] for m in members if m["name"] == node.name))


@pytest.mark.slow
def test_one_follower_gone_the_other_behind_retention_and_the_leader_restarted(
    make_cluster: MakeCluster,
) -> None:
    """The follower's acknowledgement is needed for the commit, and the commit must not be needed for its re-seeding."""
    cluster = make_cluster(**SMALL_LOG)
    cluster.start()
    make_tables(cluster)
    lagging, gone = cluster["n2"], cluster["n3"]
    with cluster.leader.client() as client:
        client.execute("CREATE TABLE filler (id INTEGER PRIMARY KEY, body BLOB)", durability="all")
    with Load(cluster, writers=2) as load:
        load.more()
        end = lagging.status()["log"]["last"]
        lagging.kill()
        fill_beyond_retention(cluster, beyond=end)
        gone.kill()
        cluster.leader.kill()
        cluster.leader.start()
        lagging.start()
        eventually("n2 has re-seeded", lambda: "installed {" in lagging.output)
        load.more()
        gone.start()
    cluster.wait_ready()
    load.assert_kept()
