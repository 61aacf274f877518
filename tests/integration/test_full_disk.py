"""A full disk: writes are refused clearly, nothing acknowledged is lost, and space is all it takes to go on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cluster import Cluster, Node, eventually
from conftest import MakeCluster
from load import Load, Readers, make_tables

from paceline.errors import DiskFull, PacelineError

DISK_BYTES = 24 << 20

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    path.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "paceline-test", str(path)], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def disks() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def started(disks: ExitStack, make_cluster: MakeCluster, small: str, **settings: int) -> Cluster:
    cluster = make_cluster(**settings)
    disks.enter_context(small_disk(cluster[small].data))
    disks.callback(cluster.clean_up)
    cluster.start()
    make_tables(cluster)
    return cluster


def fill(node: Node) -> Path:
    """Take all the space that is left."""
    ballast = node.data / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                pass
            size //= 2
    return ballast


def test_leader_on_a_full_disk_refuses_and_recovers(disks: ExitStack, make_cluster: MakeCluster) -> None:
    cluster = started(disks, make_cluster, "n1")
    with Readers(*cluster.followers), Load(cluster, body_bytes=2000, timeout_ms=5000) as load:
        load.more()
        ballast = fill(cluster.leader)
        eventually(
            "writes are refused for the disk",
            lambda: any(isinstance(error, DiskFull) for error in list(load.refused.values())),
        )
        error = next(error for error in list(load.refused.values()) if isinstance(error, DiskFull))
        assert error.hint and "space" in str(error)
        assert cluster.leader.running
        assert cluster.leader.query("SELECT count(*) FROM counter") == [[1]]
        with cluster["n2"].client(timeout_ms=3000) as client, pytest.raises(PacelineError):
            client.execute("CREATE TABLE more (x)")
        ballast.unlink()
        load.more(seconds=40)
    load.assert_kept()


@pytest.mark.slow
def test_leader_killed_on_a_full_disk_comes_back(disks: ExitStack, make_cluster: MakeCluster) -> None:
    cluster = started(disks, make_cluster, "n1")
    with Load(cluster, body_bytes=2000, timeout_ms=5000) as load:
        load.more()
        ballast = fill(cluster.leader)
        eventually("writes fail", lambda: load.refused or load.unknown)
        cluster.leader.kill()
        ballast.unlink()
        cluster.leader.start()
        load.more(seconds=40)
    load.assert_kept()


def test_leader_started_on_a_full_disk_says_so(disks: ExitStack, make_cluster: MakeCluster) -> None:
    cluster = started(disks, make_cluster, "n1")
    cluster.leader.stop()
    ballast = fill(cluster.leader)
    cluster.leader.start()
    try:
        eventually(
            "it ends with, or reports, the full disk",
            lambda: "space" in cluster.leader.output or cluster.leader.status()["health"] == "disk full",
        )
    finally:
        if cluster.leader.running:
            cluster.leader.kill()
        cluster.leader.process = None
    ballast.unlink()
    cluster.leader.start()
    cluster.wait_ready()
    with cluster.client() as client:
        client.execute("INSERT INTO ledger VALUES (0, 0, x'00')", durability="all")
    cluster.assert_equal()


def test_follower_on_a_full_disk_does_not_stop_the_others_and_recovers(
    disks: ExitStack, make_cluster: MakeCluster
) -> None:
    cluster = started(disks, make_cluster, "n2")
    with Readers(*cluster.followers), Load(cluster, body_bytes=2000) as load:
        load.more()
        ballast = fill(cluster["n2"])
        eventually("n2 says so", lambda: "disk-full" in cluster["n2"].output)
        load.more(100)
        ballast.unlink()
        load.more()
        if not cluster["n2"].running:
            cluster["n2"].process = None
            cluster["n2"].start()
    cluster.wait_ready()
    load.assert_kept()
    assert not load.refused and not load.unknown
