"""A stopped process is not a dead one: it comes back with old connections and an old view."""

from __future__ import annotations

import time

from conftest import MakeCluster
from load import Load, Readers, make_tables

FOLLOWER_PAUSE_SECONDS = 3.0
LEADER_PAUSE_SECONDS = 2.0


def test_paused_follower_does_not_stop_writes_and_catches_up(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.start()
    make_tables(cluster)
    with Readers(cluster["n3"]), Load(cluster) as load:
        load.more()
        with cluster["n2"].paused():
            until = time.monotonic() + FOLLOWER_PAUSE_SECONDS
            while time.monotonic() < until:
                load.more(10, seconds=2)
        load.more()
    load.assert_kept()
    assert not load.unknown and not load.refused


def test_paused_leader_resumes_and_nothing_is_lost(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.start()
    make_tables(cluster)
    with Readers(*cluster.followers), Load(cluster) as load:
        load.more()
        with cluster.leader.paused():
            time.sleep(LEADER_PAUSE_SECONDS)  # the length of the pause is what is tested
        load.more()
    load.assert_kept()
    assert not load.unknown and not load.refused
