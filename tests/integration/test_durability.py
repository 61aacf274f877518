"""What acknowledgements and reads promise, between real processes: +applied, levels out of reach, bounded reads."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from cluster import Cluster, Node, eventually
from conftest import MakeCluster
from web import get, post

from paceline.client.blocking import Client
from paceline.errors import NoQuorum, PacelineError, Unavailable, UsageError

INSERT = "INSERT INTO t VALUES (?)"
COUNT = "SELECT count(*) FROM t"


def make_table(cluster: Cluster) -> None:
    with cluster.leader.client() as client:
        client.execute("CREATE TABLE t (a)", durability="all+applied")


def write(node: Node, durability: str | None = None, **options: Any) -> Any:
    with node.client() as client:
        return client.execute([(INSERT, [1])], durability, **options).receipt


def silent(cluster: Cluster, node: Node) -> None:
    """The leader no longer counts ``node`` among those that answer."""

    def unheard() -> bool:
        levels = cluster.leader.client().admin("settings")["levels"]
        return any(node.name in (level["why"] or "") for level in levels)

    eventually(f"{node.name} is silent", unheard)


class Heard:
    """Events of one node, from now on."""

    def __init__(self, node: Node) -> None:
        self.events: list[dict[str, Any]] = []
        began = threading.Event()

        def listen() -> None:
            with Client([node.listen]) as client:
                for event in client.events():
                    began.set()
                    self.events.append(event)

        threading.Thread(target=listen, daemon=True).start()
        assert began.wait(10)

    def of(self, *kinds: str) -> list[tuple[str, str]]:
        return [(e["event"], e["durability"]) for e in self.events if e["event"] in kinds]


def test_after_all_a_local_read_may_be_stale_and_after_all_applied_never(make_cluster: MakeCluster) -> None:
    """What the leader says takes 150 ms.  With two voters the follower cannot know that a write is committed before
    the leader has heard of it and told it: another 150 ms after ``all`` is acknowledged."""
    cluster = make_cluster(2, proxied=True)
    cluster.start()
    make_table(cluster)
    follower = cluster["n2"]
    cluster.proxy.delay("n1", "n2", 0.15)
    stale = 0
    with cluster["n1"].client() as leader, follower.client() as reader:
        for number in range(1, 7):
            receipt = leader.execute([(INSERT, [number])], durability="all").receipt
            assert receipt is not None and set(receipt.durable_on) == {"n1", "n2"}
            stale += reader.query(COUNT).rows[0][0] < number  # type: ignore[operator]
        assert stale > 0, "this test shows nothing"
        for number in range(7, 13):
            receipt = leader.execute([(INSERT, [number])], durability="all+applied").receipt
            assert receipt is not None and set(receipt.applied_on) == {"n1", "n2"}
            assert reader.query(COUNT).rows == [[number]]


def test_first_passes_on_to_the_next_node_when_one_is_silent(make_cluster: MakeCluster) -> None:
    """One write, and nothing else that moves: only time tells that n2 does not answer."""
    cluster = make_cluster()
    cluster.start()
    make_table(cluster)
    with cluster["n2"].paused():
        began = time.monotonic()
        receipt = write(cluster["n1"], "first 1 (n2, n3)", timeout_ms=10_000)
        assert time.monotonic() - began < 5
        assert set(receipt.durable_on) == {"n1", "n3"} and receipt.durability == "first 1 (n2, n3)"


def test_fail_refuses_before_anything_happens(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(unreached="fail")
    cluster.start()
    make_table(cluster)
    cluster["n3"].stop()
    silent(cluster, cluster["n3"])
    before = cluster.leader.status()["log"]["last"]
    began = time.monotonic()
    with pytest.raises(NoQuorum, match=r"silent: n3\); nothing was done"):
        write(cluster.leader, "all")
    refused = post(cluster["n2"], "/api/v1/execute", {"statements": [[INSERT, [1]]], "durability": "any 2"})
    assert refused.status == 503 and refused.error["kind"] == "NoQuorum"
    assert time.monotonic() - began < 5, "nobody waits for what cannot be"
    assert cluster.leader.status()["log"]["last"] == before
    assert cluster.leader.query(COUNT) == [[0]]
    assert write(cluster.leader).durability == "quorum", "what can be reached is not refused"
    cluster["n3"].start()
    eventually("all is reached again", lambda: write(cluster.leader, "all"))


@pytest.mark.parametrize("level", ["all", "all+applied"])
def test_degrade_falls_back_after_its_time_and_returns_by_itself(
    make_cluster: MakeCluster, level: str
) -> None:
    cluster = make_cluster(authority="auto", durability=level, unreached="degrade", degrade_after_ms=400)
    cluster.start()
    make_table(cluster)
    leader = cluster.leader
    paused, other = (node for node in cluster.nodes.values() if node is not leader)
    heard = Heard(leader)
    assert write(leader).asked is None
    with paused.paused():
        began = time.monotonic()
        receipt = write(leader)
        assert time.monotonic() - began >= 0.4
        assert (receipt.durability, receipt.asked) == ("local", level)
        assert paused.name not in receipt.durable_on
        assert leader.status()["degraded"] == [level]
        assert ("degraded", level) in heard.of("degraded")
        began = time.monotonic()
        over_http = post(other, "/api/v1/execute", {"statements": [[INSERT, [1]]]})
        assert time.monotonic() - began < 0.4, "only the first one waits"
        forwarded = over_http.json["receipt"]
        assert (forwarded["durability"], forwarded["asked"]) == ("local", level)
        assert write(leader, "quorum").asked is None, "a level that is reached does not fall back"
    eventually("the level is reached again", lambda: leader.status()["degraded"] == [])
    eventually("an event says so", lambda: ("restored", level) in heard.of("restored"))
    receipt = write(leader)
    assert (receipt.durability, receipt.asked) == (level, None)
    assert heard.of("degraded", "restored") == [("degraded", level), ("restored", level)]
    cluster.assert_equal()


def test_wait_ends_with_an_open_outcome_and_settings_change_while_running(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(authority="auto")
    cluster.start()
    make_table(cluster)
    leader = cluster.leader
    paused = next(node for node in cluster.nodes.values() if node is not leader)
    other = next(node for node in cluster.nodes.values() if node not in (leader, paused))
    with paused.paused(), other.client() as client:
        silent(cluster, paused)
        with pytest.raises(UsageError, match=f"silent: {paused.name}"):
            client.admin("settings", durability="all")
        answer = client.admin("settings", durability="all", unreached="degrade", degrade_after_ms=100)
        assert answer["settings"]["durability"] == "all"
        level = next(level for level in answer["levels"] if level["default"])
        assert level["durability"] == "all" and not level["reachable"] and "any 2 disks" in level["survives"]
        receipt = write(leader)
        assert (receipt.durability, receipt.asked) == ("local", "all")
        assert client.admin("settings", unreached="fail")["degraded"] == []
        with pytest.raises(NoQuorum):
            write(leader)
    eventually("all is reached", lambda: write(leader).durability == "all")
    cluster.wait_level()
    for node in cluster.nodes.values():
        status = node.status()
        assert (status["durability"], status["unreached"]) == ("all", "fail"), node.name


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"durability": "any 5"}, "needs 5 followers, the cluster has 2"),
        ({"durability": "sure"}, "unknown durability"),
        ({"degrade_after_ms": 1}, "from 10 to"),
        ({"unreached": "hope"}, "wait, fail, degrade"),
        ({"op": "settings", "self": 1}, "no setting 'op'"),
    ],
)
def test_impossible_settings_are_refused_and_change_nothing(
    shared: Cluster, wanted: dict[str, Any], says: str
) -> None:
    with shared["n2"].client() as client:
        before = client.admin("settings")
        with pytest.raises(UsageError, match=says) as caught:
            client.admin("settings", **wanted)
        assert caught.value.hint
        assert client.admin("settings")["settings"] == before["settings"]
    assert post(shared["n3"], "/api/v1/admin/settings", wanted).status == 400


def test_bounded_read_on_a_cut_off_follower_is_refused_and_local_still_answers(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(proxied=True, authority="auto")
    cluster.start()
    make_table(cluster)
    leader = cluster.leader
    cut = next(node for node in cluster.nodes.values() if node is not leader)
    write(leader, "all+applied")
    with cut.client() as client:
        assert client.query(COUNT, read="bounded 500").rows == [[1]]
        cluster.proxy.isolate(cut.name, cluster.nodes)
        write(leader)
        time.sleep(0.5)  # what it knew may be used for so long
        with pytest.raises(Unavailable):
            client.query(COUNT, read="bounded 500", timeout_ms=1_500)
        assert client.query(COUNT).rows == [[1]]
        assert client.query(COUNT, read="bounded 3600000").rows == [[1]], "an old state, as was allowed"
        answer = get(cut, "/api/v1/query?sql=SELECT%201&max_lag_ms=200&timeout_ms=1000")
        assert answer.status in (503, 504)
        cluster.proxy.heal()

        def fresh() -> bool:
            return client.query(COUNT, read="bounded 500", timeout_ms=1_000).rows == [[2]]

        eventually("it is fresh again", fresh)


def test_bounded_read_never_shows_more_than_its_bound_of_age(make_cluster: MakeCluster) -> None:
    """Reads on a slow follower while somebody writes: each shows at least what was acknowledged its bound ago."""
    bound_s = 0.4
    cluster = make_cluster(proxied=True)
    cluster.start()
    make_table(cluster)
    cluster.proxy.delay("n1", "n3", 0.1)
    acknowledged: list[float] = []
    over = threading.Event()

    def load() -> None:
        with cluster["n1"].client() as client:
            while not over.is_set():
                client.execute([(INSERT, [1])])
                acknowledged.append(time.monotonic())

    writer = threading.Thread(target=load)
    writer.start()
    try:
        with cluster["n3"].client() as client:
            eventually("writes are under way", lambda: len(acknowledged) > 20)
            until = time.monotonic() + 3
            while time.monotonic() < until:
                began = time.monotonic()
                found = client.query(COUNT, read=f"bounded {int(bound_s * 1000)}").rows[0][0]
                assert found >= sum(moment <= began - bound_s for moment in acknowledged)  # type: ignore[operator]
    finally:
        over.set()
        writer.join()


def test_clients_default_counts_unless_a_write_says_otherwise(shared: Cluster) -> None:
    with Client([shared["n1"].listen], durability="all+applied") as client:
        client.execute("CREATE TABLE IF NOT EXISTS d (a)")
        receipt = client.execute("INSERT INTO d VALUES (1)").receipt
        assert receipt is not None and receipt.durability == "all+applied"
        receipt = client.execute("INSERT INTO d VALUES (1)", durability="local").receipt
        assert receipt is not None and receipt.durability == "local"
    with pytest.raises(PacelineError, match="unknown durability"):
        Client([shared["n1"].listen], durability="most").execute("INSERT INTO d VALUES (1)")


@pytest.mark.parametrize("read", ["stale", "bounded", "bounded x"])
def test_wrong_read_levels_cost_the_request_not_the_connection(shared: Cluster, read: str) -> None:
    with shared["n2"].client() as client:
        with pytest.raises(UsageError) as caught:
            client.query("SELECT 1", read=read)
        assert "bounded" in str(caught.value.hint)
    answer = post(shared["n2"], "/api/v1/query", {"sql": "SELECT 1", "read": read})
    assert answer.status == 400 and "$.read" in answer.error["message"]
