"""Nothing that a failover takes back disappears silently: custody has it, and whoever holds a receipt can ask."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from cluster import Cluster, Node
from conftest import MakeCluster
from load import Load
from test_rewind import STRAY, die_ahead_of_the_others, elected, stray_writes

from paceline.client.results import ExecuteResult


def lost(cluster: Cluster, *words: str) -> dict[str, Any]:
    via = next(node for node in cluster.nodes.values() if node.running)
    command = [sys.executable, "-m", "paceline", "lost", *words, "--json", "--connect", via.listen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def kept(cluster: Cluster, node: Node) -> dict[str, dict[str, Any]]:
    """Request id -> the request, of everything that is in the custody of ``node``."""
    found: dict[str, dict[str, Any]] = {}
    for item in lost(cluster, "list")["lost"]:
        assert item["node"] == node.name and not item["problem"]
        for request in lost(cluster, "show", item["id"])["requests"]:
            assert request["request_id"] not in found, "kept twice"
            found[request["request_id"]] = request
    return found


def assert_told(cluster: Cluster, acknowledged: dict[int, ExecuteResult]) -> None:
    """Every node says 'lost' to whoever holds a receipt."""
    for node in cluster.nodes.values():
        with node.client() as client:
            assert {client.outcome(receipt) for receipt in acknowledged.values()} == {"lost"}, node.name


def test_async_writes_of_a_cut_off_leader_are_in_custody_and_their_clients_hear_it(
    make_cluster: MakeCluster,
) -> None:
    cluster, old, rest = elected(make_cluster, proxied=True)
    term = old.status()["term"]
    with old.client() as client:
        safe = client.execute([("INSERT INTO ledger VALUES (?, ?, ?)", [STRAY + 1, 1, b"safe"])])
        client.execute("UPDATE counter SET value = value + 1")
    with Load(cluster, through=(rest[0].name, rest[1].name)) as load:
        load.more()
        cluster.proxy.isolate(old.name, cluster.nodes)
        acknowledged = stray_writes(old)
        cluster.wait_for_leader(among=rest, after=term)
        load.more()
        cluster.proxy.heal()
        load.more()
    cluster.wait_ready()
    load.assert_kept()
    assert len(acknowledged) >= 10
    found = kept(cluster, old)
    for number in acknowledged:
        request = found[f"stray-{number}"]
        assert request["acknowledged"] is True and request["durability"] == "async"
        assert request["sql"][0]["sql"] == "INSERT INTO ledger VALUES (?, ?, ?)"
        assert request["sql"][0]["args"][:2] == [STRAY, number]
    assert not [
        id for id, request in found.items() if request["acknowledged"] and not id.startswith("stray-")
    ]
    assert_told(cluster, acknowledged)
    with cluster.client() as client:
        assert client.outcome(safe) == "committed"


def test_async_writes_of_a_killed_leader_are_in_custody_too(make_cluster: MakeCluster) -> None:
    """The process that knew whom it had answered is gone; the requests are not."""
    cluster, old, rest = elected(make_cluster)
    acknowledged = die_ahead_of_the_others(old, rest, count=100)
    for node in rest:
        node.start()
    cluster.wait_for_leader(among=rest)
    with Load(cluster, through=(rest[0].name, rest[1].name)) as load:
        load.more()
        old.start()
        cluster.wait_ready()
    load.assert_kept()
    nameless = 0
    found: set[str] = set()
    for item in lost(cluster, "list")["lost"]:
        assert item["node"] == old.name and not item["problem"]
        for request in lost(cluster, "show", item["id"])["requests"]:
            # What was executed but never logged is there as pages: its SQL died with the process.
            nameless += request["request_id"] is None
            found.add(request["request_id"])
            assert request["sql"] or item["reason"].startswith("executed but never logged")
            assert request["acknowledged"] is None
    missing = {f"stray-{number}" for number in acknowledged} - found
    assert len(missing) <= nameless
    assert_told(cluster, acknowledged)


def test_lost_write_that_is_repeated_under_its_id_is_applied_once(make_cluster: MakeCluster) -> None:
    """To repeat it is the client's decision; nobody else does."""
    cluster, old, rest = elected(make_cluster)
    die_ahead_of_the_others(old, rest, count=50)
    for node in rest:
        node.start()
    cluster.wait_for_leader(among=rest)
    with cluster.client(rest[0].name, rest[1].name) as client:
        for _ in range(2):
            client.execute(
                [("INSERT INTO ledger VALUES (?, ?, ?)", [STRAY, 1, b"again"])],
                request_id=b"stray-1",
            )
    old.start()
    cluster.wait_ready()
    for node in cluster.nodes.values():
        assert node.query("SELECT n, body FROM ledger WHERE writer = ?", [STRAY]) == [[1, b"again"]]
    cluster.assert_equal()
