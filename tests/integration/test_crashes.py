"""kill -9 under load: nothing acknowledged is lost, nothing happens twice, and the log suffices."""

from __future__ import annotations

from itertools import permutations

import pytest
from cluster import Cluster
from conftest import MakeCluster
from load import Load, Readers, make_tables


def loaded(make_cluster: MakeCluster) -> Cluster:
    cluster = make_cluster()
    cluster.start()
    make_tables(cluster)
    return cluster


def snapshots(cluster: Cluster) -> int:
    return sum(node.output.count("installed {") for node in cluster.nodes.values())


@pytest.mark.parametrize("victim", ["n2", "n3"])
def test_killed_follower_catches_up_from_the_log(make_cluster: MakeCluster, victim: str) -> None:
    cluster = loaded(make_cluster)
    before = snapshots(cluster)
    other = next(node for node in cluster.followers if node.name != victim)
    with Readers(other), Load(cluster) as load:
        load.more()
        cluster[victim].kill()
        load.more()
        cluster[victim].start()
        load.more()
    load.assert_kept()
    assert not load.unknown and not load.refused
    assert snapshots(cluster) == before


@pytest.mark.slow
def test_killed_leader_comes_back_with_everything_acknowledged(make_cluster: MakeCluster) -> None:
    cluster = loaded(make_cluster)
    before = snapshots(cluster)
    with Readers(*cluster.followers), Load(cluster) as load:
        for _ in range(3):
            load.more()
            cluster.leader.kill()
            cluster.leader.start()
        load.more()
    load.assert_kept()
    assert not load.unknown and not load.refused
    assert snapshots(cluster) == before


@pytest.mark.slow
def test_all_killed_at_once_and_restarted_in_every_order(make_cluster: MakeCluster) -> None:
    cluster = loaded(make_cluster)
    before = snapshots(cluster)
    with Readers(*cluster.followers), Load(cluster) as load:
        for order in permutations(cluster.nodes):
            load.more()
            cluster.kill()
            for name in order:
                cluster[name].start()
            load.more(5)
    load.assert_kept()
    assert not load.unknown and not load.refused
    assert snapshots(cluster) == before


@pytest.mark.slow
def test_all_killed_at_once_and_restarted_followers_first(make_cluster: MakeCluster) -> None:
    cluster = loaded(make_cluster)
    before = snapshots(cluster)
    with Readers(*cluster.followers), Load(cluster) as load:
        load.more(100)
        cluster.kill()
        for name in ("n3", "n2", "n1"):
            cluster[name].start()
        load.more()
    load.assert_kept()
    assert snapshots(cluster) == before
