"""Membership and identity where nodes elect: nobody votes twice, nobody is two, and nobody is locked out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from cluster import Cluster, Node, eventually
from conftest import MakeCluster
from load import Load, make_tables

from paceline.errors import PacelineError, UsageError

SLOT_BYTES = 4096
"""The vote file holds its state twice, this far apart."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A healthy cluster for all tests of this file; they leave it healthy."""
    made = Cluster(tmp_path_factory.mktemp("elected") / "cluster", authority="auto")
    try:
        made.start()
        make_tables(made)
        yield made
    finally:
        made.clean_up()
        made.print_output()
    made.assert_clean_output()


def follower(cluster: Cluster) -> Node:
    return next(node for node in cluster.nodes.values() if node is not cluster.leader)


def assert_works(cluster: Cluster) -> None:
    cluster.wait_ready()
    with cluster.client() as client:
        client.execute("INSERT INTO counter SELECT 0 WHERE false", durability="all")
    cluster.assert_equal()


@pytest.mark.parametrize("damage", ["missing", "zeros", "cut", "one byte"])
@pytest.mark.parametrize("who", ["leader", "follower"])
def test_node_without_its_vote_does_not_vote_and_says_the_way_back(
    cluster: Cluster, who: str, damage: str
) -> None:
    node = cluster.leader if who == "leader" else follower(cluster)
    node.kill()
    vote = node.data / "vote"
    kept = vote.read_bytes()
    if damage == "missing":
        vote.unlink()
    elif damage == "zeros":
        vote.write_bytes(bytes(len(kept)))
    elif damage == "cut":
        vote.write_bytes(kept[:50])
    else:  # in both slots
        half = SLOT_BYTES
        vote.write_bytes(b"".join(bytes([part[0] ^ 0xFF]) + part[1:] for part in (kept[:half], kept[half:])))
    said = node.fails_to_start()
    assert str(vote) in said and "hint: " in said and "join" in said, said
    cluster.wait_for_leader()  # the others go on without it
    node.data.rename(node.data.with_name(f"damaged-{who}-{damage}"))  # what the hint says
    node.start()
    cluster.wait_for_voter(node)
    assert_works(cluster)


@pytest.mark.parametrize("slot", [0, 1])
def test_one_damaged_slot_of_the_vote_file_is_healed_from_the_other(cluster: Cluster, slot: int) -> None:
    node = follower(cluster)
    node.kill()
    vote = node.data / "vote"
    kept = vote.read_bytes()
    vote.write_bytes(kept[: slot * SLOT_BYTES] + bytes(50) + kept[slot * SLOT_BYTES + 50 :])
    node.start()
    assert_works(cluster)
    assert vote.read_bytes()[:50].startswith(b"PLINEVOT")


def test_vote_file_that_is_older_than_the_log_is_refused(cluster: Cluster) -> None:
    node = follower(cluster)
    node.stop()
    old_vote = (node.data / "vote").read_bytes()
    node.start()
    cluster.wait_ready()
    leader = cluster.leader
    term = leader.status()["term"]
    leader.kill()  # a new term begins
    cluster.wait_for_leader(after=term)
    leader.start()
    assert_works(cluster)
    node.kill()
    newer = (node.data / "vote").read_bytes()
    (node.data / "vote").write_bytes(old_vote)
    said = node.fails_to_start()
    assert str(node.data / "vote") in said and "hint: " in said, said
    (node.data / "vote").write_bytes(newer)
    node.start()
    assert_works(cluster)


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_wiped_node_comes_back_under_its_name_as_somebody_new(cluster: Cluster, who: str) -> None:
    node = cluster.leader if who == "leader" else follower(cluster)
    before = node.status()["incarnation"]
    with Load(cluster) as load:
        load.more()
        node.kill()
        shutil.rmtree(node.data)
        node.start()
        load.more()
        cluster.wait_for_voter(node)
        load.more()
    assert_works(cluster)
    assert node.status()["incarnation"] != before
    for other in cluster.nodes.values():
        members = {member["name"]: member["incarnation"] for member in other.status()["members"]}
        assert members[node.name] == node.status()["incarnation"] and len(members) == 3
    with cluster.client() as client:
        client.execute(["DELETE FROM ledger", "UPDATE counter SET value = 0"], durability="all")
    assert not load.unknown and not load.refused


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_second_node_of_one_name_is_refused(cluster: Cluster, who: str) -> None:
    real = cluster.leader if who == "leader" else follower(cluster)
    before = real.status()["incarnation"]
    (cluster.root / f"impostor-{who}").mkdir()
    impostor = Node(cluster.root / f"impostor-{who}", real.name)
    cluster.configure(impostor, join=[node.peer for node in cluster.nodes.values() if node is not real])
    impostor.start()
    try:
        eventually("it says why", lambda: f"another process is node {real.name} already" in impostor.output)
        assert_works(cluster)
        members = {member["name"]: member["incarnation"] for member in real.status()["members"]}
        assert members[real.name] == before
    finally:
        impostor.clean_up()


def test_removed_node_that_does_not_know_it_disturbs_nobody(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(4, authority="auto")
    cluster.start()
    make_tables(cluster)
    gone = follower(cluster)
    gone.kill()
    with cluster.leader.client() as client:
        client.admin("node_remove", name=gone.name)
    reigns = cluster.reigns()
    rest = tuple(name for name in cluster.nodes if name != gone.name)
    with Load(cluster, through=rest) as load:
        load.more()
        gone.start()
        eventually("it hears that it is out", lambda: "not a member" in gone.output)
        for _ in range(20):
            load.more(10)
    assert cluster.reigns() == reigns
    gone.clean_up()
    gone.process = None
    del cluster.nodes[gone.name]
    cluster.wait_ready()
    load.assert_kept()


def test_last_voter_cannot_be_removed(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(2, authority="auto")
    cluster.start()
    make_tables(cluster)
    leader, other = cluster.leader, follower(cluster)
    with leader.client() as client:
        with pytest.raises(UsageError, match="leads the cluster"):
            client.admin("node_remove", name=leader.name)
        client.admin("node_remove", name=other.name)
        with pytest.raises(UsageError, match="is the last voter"):
            client.admin("node_remove", name=leader.name)
        with pytest.raises(PacelineError):
            client.admin("switch", node=other.name)
        eventually("it is out", lambda: "not a member" in other.output or not other.running)
        client.execute("UPDATE counter SET value = 5", durability="all")
        assert client.query("SELECT value FROM counter", read="linearizable").rows == [[5]]
    other.clean_up()
    other.process = None
    leader.stop()
    leader.start()
    assert eventually("it leads alone", lambda: leader.query("SELECT value FROM counter", read="leader")) == [
        [5]
    ]
