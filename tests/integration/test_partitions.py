"""Links are cut, cut in one direction, slowed and shaken between real processes.

Always: nothing acknowledged is lost, never two leaders that acknowledge, and whoever comes back is equal again.
"""

from __future__ import annotations

import time

import pytest
from cluster import Cluster, Node, eventually
from conftest import MakeCluster
from load import Fresh, Load, make_tables

from paceline.errors import PacelineError
from paceline.limits import ELECTION_TIMEOUT_MS

PATIENCE_SECONDS = 2 * ELECTION_TIMEOUT_MS / 1000
"""The longest that a node waits before it campaigns: the timeout and as much again, drawn by lot."""
SLACK_SECONDS = 1.0
"""For a machine that others use too."""


def parted(make_cluster: MakeCluster, count: int = 3) -> tuple[Cluster, Node, list[Node]]:
    """A cluster behind a proxy, its leader, the others."""
    cluster = make_cluster(count, authority="auto", proxied=True)
    cluster.start()
    make_tables(cluster)
    leader = cluster.leader
    return cluster, leader, [node for node in cluster.nodes.values() if node is not leader]


def names(nodes: list[Node]) -> tuple[str, ...]:
    return tuple(node.name for node in nodes)


def assert_settled(cluster: Cluster, load: Load, seconds: float = 3 * PATIENCE_SECONDS) -> None:
    """Time passes in which anybody could have campaigned, and nobody came to lead; writes go on."""
    before = cluster.reigns()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        load.more(5)
    assert cluster.reigns() == before


def assert_whole(cluster: Cluster, *loads: Load) -> None:
    cluster.wait_ready()
    for load in loads:
        load.assert_kept()
        assert not load.refused


def test_isolated_leader_stops_acknowledging_steps_down_and_comes_back(make_cluster: MakeCluster) -> None:
    cluster, old, rest = parted(make_cluster)
    term = old.status()["term"]
    theirs = Load(cluster, through=names(rest))
    its_own = Load(cluster, through=(old.name,), first=100, timeout_ms=60_000)
    with theirs, its_own, Fresh(theirs, *cluster.nodes.values()) as fresh, old.client() as client:
        theirs.more()
        its_own.more()
        fresh.more(*cluster.nodes.values())
        cluster.proxy.isolate(old.name, cluster.nodes)
        began = time.monotonic()
        time.sleep(0.2)  # what was committed before the cut is still answered
        acknowledged = len(its_own.acknowledged)
        eventually("the old leader steps down", lambda: old.status()["role"] != "leader")
        assert time.monotonic() - began < PATIENCE_SECONDS + SLACK_SECONDS
        new = cluster.wait_for_leader(among=rest, after=term)
        theirs.more()
        fresh.more(*rest)
        for level in ("leader", "linearizable"):
            with pytest.raises(PacelineError):
                client.query("SELECT count(*) FROM ledger", read=level, timeout_ms=700)
        assert client.query("SELECT count(*) FROM ledger").rows[0][0] >= 40  # type: ignore[operator]
        assert len(its_own.acknowledged) == acknowledged
        cluster.proxy.heal()
        theirs.more()
        its_own.more()
        eventually("the old leader follows", lambda: old.status()["leader"] == new.name)
        assert cluster.wait_for_leader() is new, "who comes back disturbs nobody"
        fresh.more(*cluster.nodes.values())
    assert not theirs.unknown
    assert_whole(cluster, theirs, its_own)


@pytest.mark.parametrize("deaf", [True, False], ids=["hears nobody", "is heard by nobody"])
def test_leader_with_one_way_links_costs_one_change_at_most(make_cluster: MakeCluster, deaf: bool) -> None:
    cluster, old, rest = parted(make_cluster)
    reigns = len(cluster.reigns())
    with Load(cluster, through=names(rest)) as load:
        load.more()
        for node in rest:
            cluster.proxy.cut_one_way(*((node.name, old.name) if deaf else (old.name, node.name)))
        cluster.wait_for_leader(among=rest)
        load.more()
        assert_settled(cluster, load)
        assert len(cluster.reigns()) <= reigns + 1
        cluster.proxy.heal()
        assert_settled(cluster, load, PATIENCE_SECONDS)
    assert_whole(cluster, load)


@pytest.mark.parametrize("deaf", [True, False], ids=["hears nobody", "is heard by nobody"])
def test_follower_with_one_way_links_disturbs_nobody(make_cluster: MakeCluster, deaf: bool) -> None:
    cluster, leader, rest = parted(make_cluster)
    reigns = cluster.reigns()
    lame = rest[0]
    with Load(cluster, through=(leader.name, rest[1].name)) as load:
        load.more()
        for node in (leader, rest[1]):
            cluster.proxy.cut_one_way(*((node.name, lame.name) if deaf else (lame.name, node.name)))
        assert_settled(cluster, load)
        cluster.proxy.heal()
        assert_settled(cluster, load, PATIENCE_SECONDS)
        assert cluster.reigns() == reigns
    assert not load.unknown
    assert_whole(cluster, load)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["side", "bridge"])
def test_one_node_bridges_two_halves(make_cluster: MakeCluster, place: str) -> None:
    """Two and two that do not hear each other, and one that hears all: whoever leads, it stays."""
    cluster, leader, rest = parted(make_cluster, 5)
    left = [leader, rest[0]] if place == "side" else rest[:2]
    right = rest[2:4]
    with Load(cluster) as load:
        load.more()
        for one in left:
            for other in right:
                cluster.proxy.cut(one.name, other.name)
        time.sleep(PATIENCE_SECONDS)  # whoever wants to campaign does so now
        assert_settled(cluster, load)
        assert cluster.wait_for_leader() is leader
        cluster.proxy.heal()
        assert_settled(cluster, load, PATIENCE_SECONDS)
    assert_whole(cluster, load)


@pytest.mark.slow
def test_leader_that_only_the_bridge_hears_is_replaced_once(make_cluster: MakeCluster) -> None:
    cluster, old, rest = parted(make_cluster, 5)
    reigns = len(cluster.reigns())
    with Load(cluster, through=names(rest)) as load:
        load.more()
        for node in rest[1:]:
            cluster.proxy.cut(old.name, node.name)
        new = eventually(
            "another one leads", lambda: (n := cluster.wait_for_leader(among=rest)) is not old and n
        )
        load.more()
        assert_settled(cluster, load)
        assert cluster.wait_for_leader() is new and len(cluster.reigns()) <= reigns + 1
        cluster.proxy.heal()
        assert_settled(cluster, load, PATIENCE_SECONDS)
    assert_whole(cluster, load)


def test_slow_links_change_no_leader(make_cluster: MakeCluster) -> None:
    cluster, leader, rest = parted(make_cluster)
    with Load(cluster, writers=8) as load:
        load.more()
        for node in rest:
            cluster.proxy.delay(leader.name, node.name, 0.15)
            cluster.proxy.delay(node.name, leader.name, 0.15)
        assert_settled(cluster, load)
        cluster.proxy.heal()
        load.more()
    assert cluster.wait_for_leader() is leader
    assert not load.unknown
    assert_whole(cluster, load)


@pytest.mark.slow
def test_link_that_flaps_changes_no_leader_and_loses_nothing(make_cluster: MakeCluster) -> None:
    """Between the leader and one follower, in time shorter and longer than anybody's patience."""
    cluster, leader, rest = parted(make_cluster)
    lame = rest[0]
    with Load(cluster, through=(leader.name, rest[1].name)) as load:
        load.more()
        for turn, seconds in enumerate([0.1, 0.4, 0.2, 0.8, 0.1, 1.6, 0.3, 2.0]):
            cluster.proxy.cut(leader.name, lame.name)
            time.sleep(seconds)
            cluster.proxy.heal()
            if turn % 2:
                cluster.proxy.reset()  # a connection that broke is made anew; late bytes never come
            time.sleep(seconds / 2)
        load.more()
    assert cluster.wait_for_leader() is leader
    assert_whole(cluster, load)


@pytest.mark.slow
def test_leader_that_flaps_is_replaced_and_nothing_is_lost(make_cluster: MakeCluster) -> None:
    cluster, _, _ = parted(make_cluster)
    with Load(cluster, writers=6) as load, Fresh(load, *cluster.nodes.values()):
        for seconds in (0.3, 2.5, 0.6, 3.0, 1.0, 2.0):
            load.more()
            cluster.proxy.isolate(cluster.leader.name, cluster.nodes)
            time.sleep(seconds)
            cluster.proxy.heal()
        load.more()
    assert_whole(cluster, load)


@pytest.mark.slow
def test_connections_that_break_all_the_time_change_no_leader(make_cluster: MakeCluster) -> None:
    cluster, leader, _ = parted(make_cluster)
    with Load(cluster) as load:
        for _ in range(20):
            load.more(3)
            cluster.proxy.reset()
    assert cluster.wait_for_leader() is leader
    assert_whole(cluster, load)
