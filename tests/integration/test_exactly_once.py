"""Request ids of real clusters: once is once, after a failover, on a node that joined, after a rewind, and after expiry."""

from __future__ import annotations

import asyncio

import pytest
from cluster import Cluster, Node, eventually
from conftest import MakeCluster
from test_rewind import STRAY, elected, stray_writes, strays
from test_switch import switch

from paceline.client.aio import AsyncClient
from paceline.errors import RequestExpired
from paceline.ids import counted_id
from paceline.limits import DEDUP_COUNT

COUNT = 40
INSERT = "INSERT INTO ledger VALUES (?, ?, ?)"


def id_of(number: int) -> bytes:
    return counted_id(b"once-ids", number) if number % 2 else b"once-%d" % number


def write_all(node: Node, expect_repeats: bool) -> None:
    with node.client() as client:
        for number in range(COUNT):
            done = client.execute([(INSERT, [1, number, b"x"])], request_id=id_of(number))
            assert (done.repeated_at is not None) == expect_repeats, number


def assert_once(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        rows = node.query("SELECT n, count(*) FROM ledger WHERE writer = 1 GROUP BY n")
        assert sorted(rows) == [[number, 1] for number in range(COUNT)], node.name


@pytest.mark.slow
def test_ids_survive_failover_snapshot_and_rewind(make_cluster: MakeCluster) -> None:
    cluster, old, rest = elected(make_cluster, proxied=True)
    write_all(old, expect_repeats=False)
    term = old.status()["term"]
    cluster.proxy.isolate(old.name, cluster.nodes)
    lost = stray_writes(old, count=20)
    new = cluster.wait_for_leader(among=rest, after=term)
    write_all(new, expect_repeats=True)  # a failover
    with new.client() as client:  # lost there, so it is applied here, once
        for repeated in (False, True):
            done = client.execute([(INSERT, [STRAY, 1, b"again"])], request_id=b"stray-1")
            assert (done.repeated_at is not None) == repeated
    cluster.proxy.heal()
    cluster.wait_ready()
    eventually("it took them back", lambda: strays(old) == [1])
    assert len(lost) == 20
    switch(cluster, old)
    write_all(old, expect_repeats=True)  # a rewound node leads
    with old.client() as client:
        assert client.execute([(INSERT, [STRAY, 1, b"x"])], request_id=b"stray-1").repeated_at is not None
        done = client.execute([(INSERT, [STRAY, 2, b"again"])], request_id=b"stray-2")
        assert done.repeated_at is None
    assert_once(cluster)
    cluster.assert_equal()


@pytest.mark.slow
def test_ids_come_with_a_snapshot(make_cluster: MakeCluster) -> None:
    cluster, leader, _ = elected(make_cluster)
    write_all(leader, expect_repeats=False)
    joined = cluster.add("n4")
    switch(cluster, joined)
    write_all(joined, expect_repeats=True)
    assert_once(cluster)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_expired_id_is_refused_and_never_runs_again(make_cluster: MakeCluster) -> None:
    cluster, leader, rest = elected(make_cluster)
    with leader.client() as client:
        client.execute([(INSERT, [1, 1, b"first"])], request_id=counted_id(b"old-one!", 1))

    async def flood() -> None:
        async with AsyncClient([leader.listen], timeout_ms=60_000) as many:
            for _ in range(0, DEDUP_COUNT + 5_000, 5_000):
                await asyncio.gather(
                    *(
                        many.submit(["UPDATE counter SET value = value + 1"], "local", None, 60_000)
                        for _ in range(5_000)
                    )
                )

    asyncio.run(flood())
    for node in (leader, rest[0]):
        if node is not leader:
            cluster.wait_level()
            switch(cluster, node)
        with node.client() as client, pytest.raises(RequestExpired):
            client.execute([(INSERT, [1, 1, b"second"])], request_id=counted_id(b"old-one!", 1))
        assert node.query("SELECT body FROM ledger", read="leader") == [[b"first"]]
