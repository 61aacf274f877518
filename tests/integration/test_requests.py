"""What a request asks for is what it gets: durability, freshness, and one effect per request id."""

from __future__ import annotations

import json
import urllib.request

import pytest
from cluster import Cluster, eventually
from conftest import MakeCluster

from paceline.client.blocking import Client
from paceline.client.results import ExecuteResult
from paceline.errors import OutcomeUnknown, PacelineError, SqlError, UsageError


@pytest.fixture(scope="module")
def cluster(shared: Cluster) -> Cluster:
    with shared.leader.client() as client:
        client.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)", durability="all")
    return shared


def insert(
    client: Client, x: object, durability: str | None = None, request_id: bytes | None = None
) -> ExecuteResult:
    return client.execute([("INSERT INTO t (x) VALUES (?)", [x])], durability, request_id)


@pytest.mark.parametrize(
    ("durability", "shown", "least"),
    [
        ("async", "async", set()),
        ("local", "local", {"n1"}),
        ("any 1", "any 1", {"n1"}),
        ("any 2", "any 2", {"n1", "n2", "n3"}),
        ("first 1 (n3, n2)", "first 1 (n3, n2)", {"n1", "n3"}),
        ("quorum", "quorum", {"n1"}),
        ("all", "all", {"n1", "n2", "n3"}),
    ],
)
@pytest.mark.parametrize("through", ["n1", "n2"])
def test_receipt_names_the_level_and_the_nodes(
    cluster: Cluster, through: str, durability: str, shown: str, least: set[str]
) -> None:
    with cluster[through].client() as client:
        receipt = insert(client, durability, durability).receipt
    assert receipt is not None
    assert receipt.durability == shown
    assert receipt.leader == "n1" and "n1" in receipt.applied_on
    assert set(receipt.durable_on) >= least
    if durability in ("any 1", "quorum"):
        assert len(receipt.durable_on) >= 2


@pytest.mark.parametrize("durability", ["any 3", "first 1 (n9)", "most", "any -1", ""])
def test_level_that_can_never_be_reached_is_refused_before_anything_runs(
    cluster: Cluster, durability: str
) -> None:
    with cluster.leader.client() as client:
        if durability == "":
            assert insert(client, "default", durability).receipt is not None
            return
        before = client.query("SELECT count(*) FROM t", read="leader").rows
        with pytest.raises(UsageError):
            insert(client, "never", durability)
        assert client.query("SELECT count(*) FROM t", read="leader").rows == before


def test_level_that_is_not_reached_in_time_is_an_open_outcome(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.start()
    with cluster.leader.client(timeout_ms=1500) as client:
        client.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)", durability="all")
        with cluster["n3"].paused():
            assert insert(client, 1).receipt is not None
            with pytest.raises(OutcomeUnknown) as caught:
                insert(client, 2, "all", b"the same")
            assert "'all' was not reached in time" in str(caught.value)
            assert insert(client, 3).receipt is not None
        cluster.wait_level()
        again = insert(client, 2, "all", b"the same")
        assert again.repeated_at is not None and again.receipt is not None
        assert set(again.receipt.durable_on) == {"n1", "n2", "n3"}
        assert client.query("SELECT x FROM t ORDER BY id").rows == [[1], [2], [3]]


def test_majority_gone_then_quorum_waits_and_local_does_not(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.start()
    with cluster.leader.client(timeout_ms=1500) as client:
        client.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)", durability="all")
        cluster["n2"].kill()
        cluster["n3"].kill()
        assert insert(client, "local", "local").receipt is not None
        with pytest.raises(OutcomeUnknown):
            insert(client, "quorum")
        with pytest.raises(PacelineError):
            client.query("SELECT 1 FROM t", read="leader")
        cluster["n2"].start()
        cluster["n3"].start()
    cluster.wait_ready()
    assert cluster["n3"].query("SELECT x FROM t ORDER BY id") == [["local"], ["quorum"]]
    cluster.assert_equal()


def test_session_token_shows_a_follower_ones_own_write(cluster: Cluster) -> None:
    with cluster.leader.client() as writer, cluster["n3"].client() as reader:
        for number in range(30):
            receipt = insert(writer, f"own {number}").receipt
            assert receipt is not None
            found = reader.query(
                "SELECT count(*) FROM t WHERE x = ?",
                [f"own {number}"],
                read="session",
                token=receipt.position,
            )
            assert found.rows == [[1]] and found.node == "n3"


def test_session_token_from_another_history_is_refused(cluster: Cluster) -> None:
    receipt = None
    with cluster.leader.client() as client:
        receipt = insert(client, "token").receipt
    assert receipt is not None
    forged = receipt.position[:-4] + ("0000" if receipt.position[-4:] != "0000" else "1111")
    for name in cluster.nodes:
        with pytest.raises(PacelineError) as caught:
            cluster[name].query("SELECT 1", read="session", token=forged)
        assert caught.value.message


def test_leader_read_on_a_follower_is_forwarded(cluster: Cluster) -> None:
    with cluster["n2"].client() as client:
        for number in range(10):
            insert(client, f"fresh {number}")
            found = client.query("SELECT count(*) FROM t WHERE x = ?", [f"fresh {number}"], read="leader")
            assert found.rows == [[1]] and found.node == "n1" and found.leader == "n1"


def test_repeated_request_id_has_one_effect_and_the_same_answer(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.start()
    returning = [("INSERT INTO t (x) VALUES (?) RETURNING id, x", ["once"])]
    with cluster.leader.client() as client:
        client.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)", durability="all")
        first = client.execute(returning, request_id=b"id-1")
        again = client.execute(returning, request_id=b"id-1")
        assert again.results == first.results
        assert again.repeated_at is not None
    with cluster["n2"].client() as client:
        assert client.execute(returning, request_id=b"id-1").results == first.results
    cluster.leader.kill()
    cluster.leader.start()
    cluster.wait_ready()
    for name in cluster.nodes:
        with cluster[name].client() as client:
            repeated = client.execute(returning, request_id=b"id-1", durability="all")
            assert repeated.results == first.results
            assert repeated.repeated_at == again.repeated_at
    for node in cluster.nodes.values():
        assert node.query("SELECT count(*) FROM t") == [[1]]
    cluster.assert_equal()


def test_failed_request_leaves_no_trace_and_may_be_corrected_under_a_new_id(cluster: Cluster) -> None:
    with cluster["n2"].client() as client:
        insert(client, "kept")
        with pytest.raises(SqlError) as caught:
            client.execute(
                ["INSERT INTO t (id, x) VALUES (1000000, 1)", "INSERT INTO t (id) VALUES (1000000)"]
            )
        assert caught.value.name == "SQLITE_CONSTRAINT_PRIMARYKEY" and caught.value.statement == 2
        assert client.query("SELECT count(*) FROM t WHERE id = 1000000", read="leader").rows == [[0]]


def test_write_through_a_follower_without_a_leader_says_so(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.start()
    cluster.leader.kill()
    with cluster["n2"].client(timeout_ms=1500) as client:
        eventually("n2 has noticed", lambda: cluster["n2"].status()["leader"] is None)
        with pytest.raises(PacelineError) as caught:
            client.execute("CREATE TABLE t (x)")
        assert "leader" in str(caught.value)
        assert client.query("SELECT 1").rows == [[1]]


@pytest.mark.parametrize("through", ["n1", "n2"])
def test_events_tell_the_position_as_it_moves(cluster: Cluster, through: str) -> None:
    with urllib.request.urlopen(f"http://{cluster[through].http}/api/v1/events", timeout=20) as stream:
        lines = (line for line in stream if line.startswith(b"data: "))
        events = (json.loads(line[6:]) for line in lines)
        positions = (event for event in events if event["event"] == "position")
        first = next(positions)
        with cluster.leader.client() as client:
            receipt = insert(client, "told", "all").receipt
        assert receipt is not None and receipt.index > first["applied"]
        reached = next(event for event in positions if event["applied"] >= receipt.index)
    assert reached["position"] == receipt.position and reached["node"] == through
