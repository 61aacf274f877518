"""A deposed leader takes back what the cluster's history does not have, and keeps it in custody."""

from __future__ import annotations

import os
import random
import threading
import time

import pytest
from cluster import Cluster, Node, eventually
from conftest import MakeCluster
from load import Load, Readers, make_tables

from paceline.client.results import ExecuteResult
from paceline.errors import PacelineError

STRAY = 500
"""Writers from here on write what gets lost."""


def elected(make_cluster: MakeCluster, *, proxied: bool = False) -> tuple[Cluster, Node, list[Node]]:
    cluster = make_cluster(authority="auto", proxied=proxied)
    cluster.start()
    make_tables(cluster)
    cluster.wait_level()
    leader = cluster.leader
    return cluster, leader, [node for node in cluster.nodes.values() if node is not leader]


def stray_writes(leader: Node, count: int = 0, seconds: float = 10.0) -> dict[int, ExecuteResult]:
    """Async writes to a leader that nobody hears, until it steps down or ``count``: number -> what was acknowledged."""
    done: dict[int, ExecuteResult] = {}
    until = time.monotonic() + seconds
    with leader.client(timeout_ms=2_000) as client:
        number = 0
        while time.monotonic() < until and (not count or number < count):
            number += 1
            try:
                done[number] = client.execute(
                    [
                        ("INSERT INTO ledger VALUES (?, ?, ?)", [STRAY, number, b"stray" * 200]),
                        "UPDATE counter SET value = value + 1",
                    ],
                    durability="async",
                    request_id=b"stray-%d" % number,
                    timeout_ms=500,
                )
            except PacelineError:
                break
    return done


def die_ahead_of_the_others(old: Node, rest: list[Node], count: int) -> dict[int, ExecuteResult]:
    """The leader acknowledges async writes that nobody else reads, and dies; the others come back without it.

    They stand still, and die before they wake: what was sent to them waits in their kernel's buffers.
    """
    for node in rest:
        node.signal_stop()
    lost = stray_writes(old, count)
    for node in (old, *rest):
        node.kill()
    assert len(lost) > 10
    return lost


def strays(node: Node) -> list[int]:
    rows = node.query("SELECT n FROM ledger WHERE writer = ?", [STRAY])
    return [int(n) for (n,) in rows]


def test_writes_of_a_cut_off_leader_are_taken_back_while_readers_look(make_cluster: MakeCluster) -> None:
    cluster, old, rest = elected(make_cluster, proxied=True)
    term = old.status()["term"]
    with Readers(old, may_fall=True), Load(cluster, through=(rest[0].name, rest[1].name)) as load:
        load.more()
        cluster.proxy.isolate(old.name, cluster.nodes)
        lost = stray_writes(old)
        assert len(lost) >= 10
        cluster.wait_for_leader(among=rest, after=term)
        load.more()
        assert set(strays(old)) >= set(lost), "a direct read of its file may show them until it hears more"
        cluster.proxy.heal()
        eventually("it takes them back", lambda: not strays(old))
        load.more()
    cluster.wait_ready()
    assert "rewound" in old.output and "installed {" not in old.output, "no copy was needed"
    load.assert_kept()
    assert not load.unknown and not load.refused


def test_killed_leader_that_was_ahead_of_everybody_comes_back_in_line(make_cluster: MakeCluster) -> None:
    """Its followers stand still while it acknowledges async writes; it dies, they elect, it returns."""
    cluster, old, rest = elected(make_cluster)
    die_ahead_of_the_others(old, rest, count=100)
    for node in rest:
        node.start()
    cluster.wait_for_leader(among=rest)
    with Load(cluster, through=(rest[0].name, rest[1].name)) as load, Readers(old, may_fall=True):
        load.more()
        old.start()
        cluster.wait_ready()
        load.more()
    for node in cluster.nodes.values():
        assert not strays(node)
    load.assert_kept()
    assert not load.unknown and not load.refused


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_database_ahead_of_its_log_is_taken_back(make_cluster: MakeCluster, share: float) -> None:
    """As after a power cut: of what the log had not synced a part is gone, the database has it all the same."""
    cluster, old, rest = elected(make_cluster)
    segment = max((old.data / "log").glob("*.seg"))
    before = segment.stat().st_size
    die_ahead_of_the_others(old, rest, count=100)
    after = segment.stat().st_size
    os.truncate(segment, after - 3 - int((after - before) * share))
    for node in rest:
        node.start()
    cluster.wait_for_leader(among=rest)
    with Load(cluster, through=(rest[0].name, rest[1].name)) as load:
        load.more()
        old.start()
        cluster.wait_ready()
        load.more()
    load.assert_kept()
    assert not load.unknown and not load.refused
    assert "log-repaired" in old.output and "surplus-undone" in old.output
    assert not strays(old)


@pytest.mark.slow
def test_rewind_that_is_killed_again_and_again_ends_right(make_cluster: MakeCluster) -> None:
    cluster, old, rest = elected(make_cluster)
    chance = random.Random(9)
    for _ in range(4):
        old = cluster.leader
        rest = [node for node in cluster.nodes.values() if node is not old]
        die_ahead_of_the_others(old, rest, count=300)
        for node in rest:
            node.start()
        cluster.wait_for_leader(among=rest)
        with Load(cluster, through=(rest[0].name, rest[1].name)) as load, Readers(old, may_fall=True):
            load.more()
            for _ in range(4):
                seen = len(old.output)
                old.start()
                eventually("it runs", lambda: " listens on " in old.output[seen:])  # noqa: B023
                time.sleep(chance.random() * 0.15)  # somewhere in its rewind, or before, or after
                old.kill()
            old.start()
            cluster.wait_ready()
            load.more()
        load.assert_kept()
        with cluster.client() as client:
            client.execute(["DELETE FROM ledger", "UPDATE counter SET value = 0"], durability="all")


@pytest.mark.slow
def test_autoincrement_ids_that_were_acknowledged_are_never_given_twice(make_cluster: MakeCluster) -> None:
    cluster, _, _ = elected(make_cluster)
    with cluster.client() as client:
        client.execute("CREATE TABLE tickets (id INTEGER PRIMARY KEY AUTOINCREMENT, body)", durability="all")
    given: list[int] = []
    stop = threading.Event()

    def draw() -> None:
        with cluster.client(timeout_ms=30_000) as client:
            while not stop.is_set():
                reply = client.execute([("INSERT INTO tickets (body) VALUES (?)", ["x" * 50])])
                assert reply.results is not None
                given.append(reply.results[0].last_insert_rowid)

    drawing = [threading.Thread(target=draw, daemon=True) for _ in range(3)]
    for thread in drawing:
        thread.start()
    for _ in range(5):
        count = len(given)
        eventually("tickets", lambda: len(given) > count + 20)  # noqa: B023
        old = cluster.leader
        term = old.status()["term"]
        old.kill()
        cluster.wait_for_leader(after=term)
        old.start()
    stop.set()
    for thread in drawing:
        thread.join(40)
        assert not thread.is_alive()
    cluster.wait_ready()
    assert len(given) == len(set(given))
    rows = {int(i) for (i,) in cluster.leader.query("SELECT id FROM tickets", read="leader")}
    assert rows >= set(given)
    cluster.assert_equal()
