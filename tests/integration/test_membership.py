"""Nodes come and go while the cluster works."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster, Node, eventually
from conftest import MakeCluster
from load import Load, Readers, make_tables

from paceline.client.aio import AsyncClient
from paceline.errors import UsageError, WritesStopped


def loaded(make_cluster: MakeCluster) -> Cluster:
    cluster = make_cluster()
    cluster.start()
    make_tables(cluster)
    return cluster


def member_names(node: Node) -> list[str]:
    return sorted(member["name"] for member in node.status()["members"])


def remove(cluster: Cluster, name: str) -> None:
    with cluster.leader.client() as client:
        client.admin("node_remove", name=name)


def backup(node: Node, file: Path) -> None:
    command = [sys.executable, "-m", "paceline", "backup", "--connect", node.listen, str(file)]
    subprocess.run(command, check=True, timeout=30, stdout=subprocess.DEVNULL)


def test_node_joins_under_load_and_is_equal(make_cluster: MakeCluster) -> None:
    cluster = loaded(make_cluster)
    with Load(cluster) as load:
        load.more()
        added = cluster.add("n4", join=[cluster["n3"]])
        with Readers(added):
            load.more()
    load.assert_kept()
    assert all(member_names(node) == ["n1", "n2", "n3", "n4"] for node in cluster.nodes.values())


def test_node_that_starts_from_a_backup_continues_without_a_transfer(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    cluster = loaded(make_cluster)
    with Load(cluster) as load:
        load.more()
        backup(cluster["n2"], tmp_path / "seed.db")
        load.more()
        node = cluster.new_node("n4")
        node.database.parent.mkdir(parents=True)
        shutil.copy(tmp_path / "seed.db", node.database)
        cluster.nodes["n4"] = node
        node.start()
        cluster.wait_for_voter(node)
        load.more()
    load.assert_kept()
    assert "installed {" not in node.output


def test_removed_node_leaves_and_does_not_come_back(make_cluster: MakeCluster) -> None:
    cluster = loaded(make_cluster)
    gone = cluster["n3"]
    with Load(cluster, through=("n1", "n2")) as load:
        load.more()
        remove(cluster, "n3")
        eventually("n2 knows", lambda: member_names(cluster["n2"]) == ["n1", "n2"])
        load.more()
        eventually("n3 says that it is out", lambda: "not a member" in gone.output)
        if gone.running:
            gone.stop()
        said = gone.output
        gone.start()
        eventually("n3 says so again", lambda: "not a member" in gone.output[len(said) :])
        load.more()
        assert member_names(cluster.leader) == ["n1", "n2"]
        gone.kill()
        del cluster.nodes["n3"]
    load.assert_kept()


def test_only_followers_can_be_removed(make_cluster: MakeCluster) -> None:
    cluster = loaded(make_cluster)
    with pytest.raises(UsageError, match="n1 leads the cluster"):
        remove(cluster, "n1")
    with pytest.raises(UsageError, match="no member is called 'n9'"):
        remove(cluster, "n9")


def test_wiped_follower_comes_back_as_a_new_incarnation(make_cluster: MakeCluster) -> None:
    cluster = loaded(make_cluster)
    wiped = cluster["n2"]
    before = wiped.status()["incarnation"]
    with Load(cluster) as load:
        load.more()
        wiped.kill()
        shutil.rmtree(wiped.data)
        wiped.start()
        cluster.wait_for_voter(wiped)
        load.more()
    cluster.wait_ready()
    load.assert_kept()
    assert wiped.status()["incarnation"] != before
    members = {m["name"]: m["incarnation"] for m in cluster.leader.status()["members"]}
    assert members["n2"] == wiped.status()["incarnation"]


@pytest.mark.slow
def test_stopped_writes_are_refused_and_start_again(make_cluster: MakeCluster) -> None:
    cluster = loaded(make_cluster)
    with cluster["n2"].client() as client:
        client.admin("writes_stop")
        with pytest.raises(WritesStopped) as caught:
            client.execute("UPDATE counter SET value = 7")
        assert "paceline writes start" in str(caught.value)
        assert client.query("SELECT value FROM counter").rows == [[0]]
        cluster.leader.kill()
        cluster.leader.start()
        cluster.wait_ready()
    with cluster["n3"].client() as client:
        with pytest.raises(WritesStopped):
            client.execute("UPDATE counter SET value = 7")
        client.admin("writes_start")
        client.execute("UPDATE counter SET value = 1", durability="all")
    cluster.assert_equal()


@pytest.mark.slow
def test_events_tell_of_a_new_member(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(1)
    cluster.start()

    async def listen() -> list[str]:
        async with AsyncClient([cluster.leader.listen]) as client:
            async for event in client.events():
                if event["event"] == "membership" and "n2" in event["members"]:
                    return list(event["members"])
        raise AssertionError("the events ended")

    async def both() -> list[str]:
        listening = asyncio.create_task(listen())
        await asyncio.sleep(0)
        await asyncio.to_thread(cluster.add, "n2")
        async with asyncio.timeout(10):
            return await listening

    assert asyncio.run(both()) == ["n1", "n2"]
