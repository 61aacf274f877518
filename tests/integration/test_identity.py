"""A data directory belongs to one node of one cluster, and one process at a time."""

from __future__ import annotations

import shutil

import pytest
from cluster import Cluster, Node, eventually
from conftest import MakeCluster


@pytest.fixture(scope="module")
def cluster(shared: Cluster) -> Cluster:
    cluster = shared
    with cluster.leader.client() as client:
        client.execute(["CREATE TABLE t (x)", "INSERT INTO t VALUES (1)"], durability="all")
    return cluster


def assert_works(cluster: Cluster) -> None:
    with cluster.client() as client:
        client.execute("INSERT INTO t VALUES (2)")
    cluster.assert_equal()


def test_wiped_directory_of_the_leader_is_refused(cluster: Cluster) -> None:
    leader = cluster.leader
    leader.stop()
    kept = leader.data.rename(leader.data.with_name("kept"))
    said = leader.fails_to_start()
    assert "already belongs to cluster" in said and "is empty" in said
    assert "was it wiped?" in said and "Bring its directory back" in said
    shutil.rmtree(leader.data)
    kept.rename(leader.data)
    leader.start()
    cluster.wait_ready()
    assert_works(cluster)


def test_copied_directory_is_refused(cluster: Cluster) -> None:
    follower = cluster["n3"]
    follower.stop()
    original = follower.data.rename(follower.data.with_name("original"))
    shutil.copytree(original, follower.data)
    said = follower.fails_to_start()
    assert "is a copy of another node's data directory" in said and "PACELINE_MOVED=1" in said
    shutil.rmtree(follower.data)
    original.rename(follower.data)
    follower.start()
    cluster.wait_ready()
    assert_works(cluster)


def test_moved_directory_starts_once_it_is_vouched_for(cluster: Cluster) -> None:
    follower = cluster["n3"]
    follower.stop()
    moved = follower.data.with_name("moved")
    shutil.copytree(follower.data, moved)
    shutil.rmtree(follower.data)
    moved.rename(follower.data)
    follower.start(env={"PACELINE_MOVED": "1"})
    cluster.wait_ready()
    follower.stop()
    follower.start()
    cluster.wait_ready()
    assert_works(cluster)


def test_directory_of_another_cluster_is_refused(cluster: Cluster, make_cluster: MakeCluster) -> None:
    other = make_cluster()
    other.start()
    other["n2"].stop()
    cluster["n2"].stop()
    cluster["n2"].data.rename(cluster.root / "own")
    other["n2"].data.rename(cluster["n2"].data)
    cluster["n2"].start()
    eventually(
        "both sides refuse it",
        lambda: "of another one with the same name" in cluster["n2"].output + cluster.leader.output,
    )
    assert cluster["n2"].output.count("start it from an empty one to join") <= 4, "it repeats itself"
    with cluster.leader.client() as client:
        client.execute("INSERT INTO t VALUES (3)")
    eventually(
        "the leader counts n2 as unreachable",
        lambda: not next(m for m in cluster.leader.status()["members"] if m["name"] == "n2")["reachable"],
    )
    cluster["n2"].kill()
    shutil.rmtree(cluster["n2"].data)
    (cluster.root / "own").rename(cluster["n2"].data)
    cluster["n2"].start()
    cluster.wait_ready()
    assert_works(cluster)


def test_directory_of_a_cluster_with_another_name_is_refused(
    cluster: Cluster, make_cluster: MakeCluster
) -> None:
    other = make_cluster(1, name="elsewhere")
    cluster["n2"].stop()
    other.start()
    other.stop()
    cluster["n2"].data.rename(cluster.root / "own")
    shutil.move(other["n1"].data, cluster["n2"].data)
    said = cluster["n2"].fails_to_start()
    assert "belongs to node n1, not n2" in said
    shutil.rmtree(cluster["n2"].data)
    (cluster.root / "own").rename(cluster["n2"].data)
    cluster["n2"].start()
    cluster.wait_ready()
    assert_works(cluster)


def test_second_process_on_one_directory_is_refused(cluster: Cluster) -> None:
    follower = cluster["n2"]
    first = follower.process
    follower.process = None
    said = follower.fails_to_start()
    follower.process = first
    assert "is in use by another process" in said
    assert_works(cluster)


def test_second_process_of_one_name_is_refused(cluster: Cluster) -> None:
    with cluster.leader.client() as client:
        before = client.status()["members"]
    (cluster.root / "impostor").mkdir()
    impostor = Node(
        cluster.root / "impostor", "n2"
    )  # not among the cluster's files: those of the real n2 stay
    cluster.configure(impostor, join=(cluster.leader.peer,))
    impostor.start()
    try:
        eventually("it says why", lambda: "another process is node n2 already" in impostor.output)
        assert "each node needs a name of its own" in impostor.output
        assert cluster.leader.status()["members"][1]["incarnation"] == before[1]["incarnation"]
        assert_works(cluster)
    finally:
        impostor.kill()


def test_port_in_use_is_named(cluster: Cluster) -> None:
    single = cluster.new_node("n4")
    for key, taken in (
        ("listen", cluster.leader.listen),
        ("http", cluster.leader.http),
        ("peer", cluster.leader.peer),
    ):
        own, via = getattr(single, key), tuple(n.peer for n in cluster.followers)
        setattr(single, key, taken)
        cluster.configure(single, join=via)
        said = single.fails_to_start()
        assert taken in said and "cannot listen" in said, said
        setattr(single, key, own)
