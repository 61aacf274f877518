"""The leader dies: another one is elected, and nothing that was acknowledged is lost."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cluster import Cluster, Node, eventually
from conftest import MakeCluster
from load import Fresh, Load, Readers, make_tables

from paceline.errors import PacelineError

KILLS = 50


def elected(make_cluster: MakeCluster, count: int = 3, **options: object) -> Cluster:
    cluster = make_cluster(count, authority="auto", **options)
    cluster.start()
    make_tables(cluster)
    return cluster


def assert_sound(cluster: Cluster) -> None:
    """Each file by plain ``sqlite3``, while its node runs."""
    for node in cluster.running:
        connection = sqlite3.connect(f"file:{node.database}?mode=ro", uri=True, timeout=10)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], node.name
        connection.close()


def kill_the_leader(cluster: Cluster) -> tuple[Node, Node]:
    """(who led, who leads now)"""
    old = cluster.leader
    term = old.status()["term"]
    old.kill()
    new = cluster.wait_for_leader(after=term)
    assert new is not old
    return old, new


def test_leader_killed_another_leads_and_the_old_one_follows(make_cluster: MakeCluster) -> None:
    cluster = elected(make_cluster)
    with Readers(*cluster.nodes.values(), may_fall=True), Load(cluster) as load:
        load.more()
        old, _ = kill_the_leader(cluster)
        load.more()
        old.start()
        cluster.wait_ready()
        load.more()
    load.assert_kept()
    assert not load.unknown and not load.refused


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_leader_is_killed_again_and_again(make_cluster: MakeCluster) -> None:
    """Every write carries a request id; the clients repeat what they do not know. Restarts are early and late."""
    cluster = elected(make_cluster)
    chance = random.Random(50)
    with Readers(*cluster.nodes.values(), may_fall=True), Load(cluster, writers=6) as load:
        for _ in range(KILLS):
            load.more(chance.randrange(1, 40))
            old, _ = kill_the_leader(cluster)
            if chance.random() < 0.5:
                load.more(5)
            old.start()
            eventually(f"{old.name} follows", lambda: old.status()["role"] == "follower")  # noqa: B023
        load.more()
    cluster.wait_ready()
    load.assert_kept()
    assert not load.unknown and not load.refused
    assert_sound(cluster)
    assert len(cluster.reigns()) >= KILLS + 1


@pytest.mark.slow
def test_two_of_three_killed_then_all_in_every_order(make_cluster: MakeCluster) -> None:
    """Without a majority nobody leads; whoever comes back first, the newest log wins."""
    cluster = elected(make_cluster)
    with Load(cluster) as load:
        for order in itertools.islice(itertools.permutations(cluster.nodes), 4):
            load.more()
            cluster[order[0]].kill()
            cluster[order[1]].kill()
            eventually("nobody leads", lambda: cluster[order[2]].status()["leader"] is None)  # noqa: B023
            cluster.kill()
            for name in order:
                cluster[name].start()
            load.more(5)
    cluster.wait_ready()
    load.assert_kept()
    assert not load.unknown and not load.refused


@pytest.mark.slow
def test_paused_leader_is_replaced_and_answers_nothing_wrong_afterwards(make_cluster: MakeCluster) -> None:
    """For ten seconds the others have a leader of their own; then the old one wakes, with its old view."""
    cluster = elected(make_cluster)
    old = cluster.leader
    term = old.status()["term"]
    rest = [node for node in cluster.nodes.values() if node is not old]
    its_own = Load(cluster, through=(old.name,), first=100, timeout_ms=60_000)
    load = Load(cluster, through=tuple(n.name for n in rest))
    with its_own, load, Fresh(load, *cluster.nodes.values()) as fresh, old.client() as reader:
        load.more()
        fresh.more(*cluster.nodes.values())
        its_own.more()
        reader.query("SELECT 1", read="leader")
        with old.paused():
            until = time.monotonic() + 10.0
            cluster.wait_for_leader(among=rest, after=term)
            while time.monotonic() < until:
                load.more(5)
            confirmed = len(load.acknowledged)
        # Its first answers after it woke: what the others acknowledged meanwhile is in them, or there is none.
        for level in ("leader", "linearizable"):
            try:
                found = reader.query(
                    "SELECT count(*) FROM ledger WHERE writer < 100", read=level, timeout_ms=5_000
                )
            except PacelineError:
                continue
            assert found.rows[0][0] >= confirmed, f"a stale answer at level {level}"  # type: ignore[operator]
        its_own.more()
        load.more()
        fresh.more(*cluster.nodes.values())
    cluster.wait_ready()
    for one in (its_own, load):
        one.assert_kept()
        assert not one.unknown and not one.refused


@contextmanager
def saturated() -> Iterator[None]:
    """Busy loops, two for each core, as important as everybody else."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * cores())]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def cores() -> int:
    return len(os.sched_getaffinity(0))


@pytest.mark.slow
def test_saturated_cpu_changes_no_leader(make_cluster: MakeCluster) -> None:
    cluster = elected(make_cluster)
    leader = cluster.leader
    with Load(cluster) as load, saturated():
        until = time.monotonic() + 10.0
        while time.monotonic() < until:
            load.more(5)
    assert cluster.leader is leader
    load.assert_kept()
    assert not load.unknown and not load.refused


@pytest.mark.slow
def test_two_election_storms_on_a_saturated_cpu_end_each_with_one_leader(make_cluster: MakeCluster) -> None:
    """All nodes stop and wake at once, each with an expired patience; then all are killed and start at once."""
    cluster = elected(make_cluster, 5)
    with Load(cluster) as load, saturated():
        load.more(5)
        reigns = len(cluster.reigns())
        for node in cluster.running:
            node.signal(signal.SIGSTOP)
        time.sleep(3.0)  # longer than anybody's patience
        for node in cluster.running:
            node.signal(signal.SIGCONT)
        load.more(20)
        assert len(cluster.reigns()) <= reigns + 1
        cluster.kill()
        for node in cluster.nodes.values():
            node.start()
        load.more(20)
        settled = cluster.reigns()
        load.more(40)
        assert cluster.reigns() == settled and len(settled) <= reigns + 3
    cluster.wait_ready()
    load.assert_kept()
    assert not load.refused
