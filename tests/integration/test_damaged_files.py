"""Damaged and missing files: noticed, named with what to do, and healed from the others."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster, Node, eventually, free_ports
from conftest import MakeCluster

SEGMENT_HEADER_BYTES = 96


@pytest.fixture(scope="module")
def cluster(shared: Cluster) -> Cluster:
    """With some log and rows; every test leaves it whole again."""
    cluster = shared
    with cluster.leader.client() as client:
        client.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
        for number in range(40):
            client.execute([("INSERT INTO t (body) VALUES (?)", [f"row {number} " + "x" * 500])])
        client.execute("SELECT 1", durability="all")
    cluster.wait_level()
    return cluster


def segment(node: Node) -> Path:
    return min((node.data / "log").glob("*.seg"))


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0xFF]))


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_damaged_log_is_refused_with_file_place_and_remedy(cluster: Cluster, name: str) -> None:
    node = cluster[name]
    node.stop()
    path = segment(node)
    offset = SEGMENT_HEADER_BYTES + (path.stat().st_size - SEGMENT_HEADER_BYTES) // 2
    flip(path, offset)
    said = node.fails_to_start()
    assert path.name in said and "offset" in said and "hint: " in said, said
    if node is cluster.leader:
        flip(path, offset)
    else:
        assert "move" in said and "join" in said, said
        node.data.rename(node.data.with_name("damaged"))
    node.start()
    cluster.wait_ready()
    with cluster.client() as client:
        client.execute("INSERT INTO t (body) VALUES ('afterwards')", durability="all")
    cluster.assert_equal()


def test_torn_end_of_a_followers_log_is_cut_and_fetched_again(cluster: Cluster) -> None:
    node = cluster["n2"]
    said = len(node.output)
    node.kill()
    path = segment(node)
    os.truncate(path, path.stat().st_size - 7)
    with cluster.leader.client() as client:
        client.execute("INSERT INTO t (body) VALUES ('meanwhile')")
    node.start()
    cluster.wait_ready()
    assert "log-repaired" in node.output[said:]
    cluster.assert_equal()


@pytest.mark.parametrize("name", ["n1", "n2"])
@pytest.mark.parametrize("damage", ["missing", pytest.param("zeros", marks=pytest.mark.slow)])
def test_lost_vote_file_is_refused_with_a_remedy(cluster: Cluster, name: str, damage: str) -> None:
    node = cluster[name]
    node.stop()
    vote = node.data / "vote"
    kept = vote.read_bytes()
    if damage == "missing":
        vote.unlink()
    else:
        vote.write_bytes(bytes(len(kept)))
    said = node.fails_to_start()
    assert str(vote) in said and "hint: " in said and "join" in said, said
    vote.write_bytes(kept)
    node.start()
    cluster.wait_ready()
    cluster.assert_equal()


@pytest.mark.parametrize("name", ["node.json", "anchor"])
def test_unreadable_small_files_are_refused_with_a_remedy(cluster: Cluster, name: str) -> None:
    node = cluster["n2"]
    node.stop()
    path = node.data / name
    kept = path.read_bytes()
    path.write_bytes(b"\x00garbage\xff")
    said = node.fails_to_start()
    assert str(path) in said and "hint: " in said, said
    path.write_bytes(kept)
    node.start()
    cluster.wait_ready()
    cluster.assert_equal()


def damage_page_of(node: Node, text: bytes, *, silently: bool = False) -> None:
    """Flip a byte of a row, in the database file of a node that is down; ``silently``, as a disk would."""
    before = node.database.stat()
    flip(node.database, node.database.read_bytes().index(text))
    if silently:
        os.utime(node.database, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_damaged_page_of_a_follower_is_seen_and_healed_by_verify(cluster: Cluster) -> None:
    node = cluster["n2"]
    said = len(node.output)
    node.stop()
    damage_page_of(node, b"row 7 xxx", silently=True)
    node.start()
    cluster.wait_ready()
    report = {found["name"]: found["digest"] for found in cluster.verify()["nodes"]}
    assert report["n1"] == report["n3"] != report["n2"]
    eventually("n2 has fetched what differs", lambda: "installed" in node.output[said:])
    cluster.wait_ready()
    cluster.assert_equal()


def rotten(make_cluster: MakeCluster, authority: str) -> tuple[Cluster, Node]:
    """A cluster whose leader's file has a flipped bit that no time stamp shows; and that leader."""
    cluster = make_cluster(3, authority=authority)
    cluster.start()
    cluster.wait_ready()
    node = cluster.leader
    with node.client() as client:
        client.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
        for number in range(40):
            client.execute([("INSERT INTO t (body) VALUES (?)", [f"row {number} " + "x" * 500])])
    cluster.wait_level()
    cluster.stop()
    damage_page_of(node, b"row 7 xxx", silently=True)
    cluster.start()
    cluster.wait_ready()
    if cluster.leader is not node:
        with cluster.leader.client() as client:
            client.admin("switch", node=node.name)
        eventually("the damaged one leads", lambda: cluster.leader is node)
    return cluster, node


def test_damaged_page_of_the_leader_is_outvoted_and_healed_by_verify(make_cluster: MakeCluster) -> None:
    """Its damage must not travel to the good copies: the majority is right, whoever leads."""
    cluster, node = rotten(make_cluster, "auto")
    said = len(node.output)
    report = cluster.verify()
    found = {one["name"]: one["digest"] for one in report["nodes"]}
    [good] = {digest for name, digest in found.items() if name != node.name}
    assert found[node.name] != good == report["digest"]
    eventually("it has handed over and fetched what differs", lambda: "installed" in node.output[said:])
    cluster.wait_ready()
    cluster.assert_equal()
    assert cluster.leader is not node
    for one in cluster.nodes.values():
        assert one.query("SELECT count(*) FROM t WHERE body LIKE 'row 7 %'") == [[1]]


def test_outvoted_leader_that_cannot_hand_over_gives_nobody_its_damage(make_cluster: MakeCluster) -> None:
    cluster, node = rotten(make_cluster, "designated")
    report = cluster.verify()
    assert {one["digest"] for one in report["nodes"] if one["name"] != node.name} == {report["digest"]}
    eventually("it says so", lambda: "differs" in node.output)
    for follower in cluster.followers:
        assert "re-sync" not in follower.output
        assert follower.query("SELECT count(*) FROM t WHERE body LIKE 'row 7 %'") == [[1]]


def test_damaged_page_of_a_follower_is_noticed_and_healed_by_the_next_change_to_it(cluster: Cluster) -> None:
    node = cluster["n2"]
    said = len(node.output)
    node.stop()
    damage_page_of(node, b"row 7 xxx", silently=True)
    node.start()
    cluster.wait_ready()
    with cluster.leader.client() as client:
        client.execute("UPDATE t SET body = body || '!' WHERE body LIKE 'row 7 %'")
    eventually("n2 has noticed", lambda: "quarantined" in node.output[said:])
    cluster.wait_ready()
    assert node.query("SELECT count(*) FROM t WHERE body LIKE 'row 7 %!'") == [[1]]
    cluster.assert_equal()


def test_destroyed_database_of_a_follower_is_fetched_again(cluster: Cluster) -> None:
    node = cluster["n2"]
    node.stop()
    node.database.write_bytes(os.urandom(20_000))
    node.start()
    cluster.wait_ready()
    cluster.assert_equal()


def test_missing_database_of_a_follower_is_fetched_again(cluster: Cluster) -> None:
    node = cluster["n2"]
    node.stop()
    shutil.rmtree(node.database.parent)
    node.start()
    cluster.wait_ready()
    cluster.assert_equal()


def test_changed_file_of_a_stopped_follower_is_noticed_at_its_start(cluster: Cluster) -> None:
    node = cluster["n2"]
    said = len(node.output)
    node.stop()
    damage_page_of(node, b"row 7 xxx")
    node.start()
    cluster.wait_ready()
    assert "installed {" in node.output[said:]
    cluster.assert_equal()


@pytest.mark.slow
def test_node_killed_while_it_fetches_the_database_goes_on(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(2, snapshot_rate_bytes_per_second=6_000_000)
    cluster.leader.database.parent.mkdir(parents=True)
    with sqlite3.connect(cluster.leader.database) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE big (body BLOB)")
        connection.executemany("INSERT INTO big VALUES (randomblob(?))", [(100_000,)] * 120)
    connection.close()
    cluster.leader.start()
    node = cluster["n2"]
    for share in (20, 60):
        node.start()
        eventually(f"{share} % has arrived", lambda: progress(node) > share)  # noqa: B023
        node.kill()
    node.start()
    cluster.wait_ready()
    assert node.query("SELECT count(*), sum(length(body)) FROM big") == [[120, 12_000_000]]
    with cluster.client() as client:
        client.execute("DELETE FROM big WHERE rowid % 2", durability="all")
    cluster.assert_equal()


def progress(node: Node) -> float:
    found = node.status()["progress"]
    if not found or not found["units_total"]:
        return 0
    return float(100 * found["units_done"] / found["units_total"])


def up(tmp_path: Path, file: Path) -> str:
    """``paceline up FILE``, which must refuse; returns what it says."""
    command = [sys.executable, "-m", "paceline", "up", str(file), "--detach"]
    command += ["--dir", str(tmp_path / "made"), "--port", str(free_ports(1)[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode in (1, 2), done
    assert "Traceback" not in done.stderr and done.stderr.startswith("paceline: "), done.stderr
    assert not (tmp_path / "made" / "cluster.json").exists()
    return done.stderr


def test_up_refuses_files_that_are_no_sound_database(tmp_path: Path) -> None:
    encrypted = tmp_path / "encrypted.db"
    encrypted.write_bytes(os.urandom(1 << 16))
    assert str(encrypted) in up(tmp_path, encrypted)

    corrupt = tmp_path / "corrupt.db"
    with sqlite3.connect(corrupt) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
        connection.executemany("INSERT INTO t (body) VALUES (?)", [("x" * 900,)] * 500)
    connection.close()
    with open(corrupt, "r+b") as file:
        file.seek(4096 * 10)
        file.write(os.urandom(4096 * 5))
    before = corrupt.read_bytes()
    said = up(tmp_path, corrupt)
    assert str(corrupt) in said and "hint: " in said
    assert corrupt.read_bytes() == before

    assert "is a directory" in up(tmp_path, tmp_path)
    assert "no such file" in up(tmp_path, tmp_path / "missing.db")


def test_up_goes_on_without_a_node_that_does_not_start(tmp_path: Path) -> None:
    where = ["--dir", str(tmp_path / "made")]

    def paceline(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "paceline", *words, *where]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert paceline("up", "--detach", "--port", str(free_ports(1)[0])).returncode == 0
    try:
        paceline("sql", "CREATE TABLE t (x)")
        paceline("down")
        flip(min((tmp_path / "made" / "n2" / "log").glob("*.seg")), SEGMENT_HEADER_BYTES + 150)
        up = paceline("up", "--detach")
        assert up.returncode == 0, up
        assert "n2 did not start" in up.stderr and "hint" not in up.stdout
        assert paceline("sql", "INSERT INTO t VALUES (1)").returncode == 0
    finally:
        paceline("down")
