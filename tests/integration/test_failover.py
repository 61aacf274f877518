"""The leader dies: another one is elected, and nothing that was acknowledged is lost."""

from __future__ import annotations

from cluster import Cluster
from conftest import MakeCluster
from load import Load, Readers, make_tables


def elected(make_cluster: MakeCluster, count: int = 3, **options: object) -> Cluster:
    cluster = make_cluster(count, authority="auto", **options)
    cluster.start()
    make_tables(cluster)
    return cluster


def test_leader_killed_another_leads_and_the_old_one_follows(make_cluster: MakeCluster) -> None:
    cluster = elected(make_cluster)
    with Readers(*cluster.nodes.values(), may_fall=True), Load(cluster) as load:
        load.more()
        old = cluster.leader
        term = old.status()["term"]
        old.kill()
        new = cluster.wait_for_leader(after=term)
        assert new is not old
        load.more()
        old.start()
        cluster.wait_ready()
        load.more()
    load.assert_kept()
    assert not load.unknown and not load.refused
