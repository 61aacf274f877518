"""Making the directory of a local cluster."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from pathlib import Path

import pytest

from paceline.cli.cluster import Cluster, LocalNode, node_addresses
from paceline.cli.commands.node import _make_node
from paceline.cli.founding import check_ports, joining_config, seed_file, write_node
from paceline.cli.running import make
from paceline.config import Settings
from paceline.errors import PacelineError, UsageError


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A first port; whether it is free on this machine must not matter here."""
    monkeypatch.setattr("paceline.cli.founding.check_ports", lambda nodes, hint: None)
    return 40_001


def database(path: Path) -> Path:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t(x)")
        connection.execute("INSERT INTO t VALUES (42)")
    connection.close()
    return path


def make_empty(path: Path, port: int) -> Cluster:
    return make(path, file=None, count=3, port=port, settings=Settings(durability="all"))


def test_three_configurations_form_one_cluster(tmp_path: Path, port: int) -> None:
    cluster = make_empty(tmp_path / "c", port)
    configs = [cluster.config(node.name) for node in cluster.nodes]
    assert [config.name for config in configs] == ["n1", "n2", "n3"]
    assert {config.leader for config in configs} == {"n1"}
    assert len({config.members for config in configs}) == 1 and len(configs[0].members) == 3
    assert configs[1].data == str(tmp_path / "c" / "n2")
    assert configs[2].peer == f"127.0.0.1:{port + 22}" and configs[2].settings.durability == "all"
    assert not (tmp_path / "c" / "incomplete").exists()


def test_directory_may_be_moved(tmp_path: Path, port: int) -> None:
    make_empty(tmp_path / "c", port)
    (tmp_path / "c").rename(tmp_path / "moved")
    assert Cluster.load(tmp_path / "moved").config("n1").data == str(tmp_path / "moved" / "n1")


def test_file_is_copied_to_the_first_node_and_stays_as_it_was(tmp_path: Path, port: int) -> None:
    file = database(tmp_path / "app.db")
    before = file.read_bytes()
    cluster = make(tmp_path / "c", file=file, count=2, port=port, settings=Settings())
    assert file.read_bytes() == before
    with sqlite3.connect(cluster.database_path("n1")) as connection:
        assert connection.execute("SELECT x FROM t").fetchall() == [(42,)]
    connection.close()
    assert not cluster.database_path("n2").exists()
    assert cluster.source is not None and cluster.source.path == str(file)


@pytest.mark.parametrize("content", [b"this is no database" * 100, b""])
def test_bad_file_leaves_no_directory_behind(tmp_path: Path, port: int, content: bytes) -> None:
    file = tmp_path / "app.db"
    file.write_bytes(content or b"\x01" * 4096)
    with pytest.raises(PacelineError):
        make(tmp_path / "c", file=file, count=3, port=port, settings=Settings())
    assert not (tmp_path / "c").exists()


def test_missing_file_is_named(tmp_path: Path, port: int) -> None:
    with pytest.raises(UsageError, match=r"no\.db: no such file"):
        make(tmp_path / "c", file=tmp_path / "no.db", count=3, port=port, settings=Settings())


def test_directory_with_somebodys_files_is_refused_untouched(tmp_path: Path, port: int) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match=r"not empty and not a Paceline cluster \(it has 'thesis.txt'\)"):
        make_empty(tmp_path, port)
    assert (tmp_path / "thesis.txt").exists()


def test_interrupted_founding_starts_anew(tmp_path: Path, port: int) -> None:
    (tmp_path / "incomplete").touch()
    (tmp_path / "n1" / "db").mkdir(parents=True)
    (tmp_path / "n1" / "db" / "main.db").write_text("half of it")
    cluster = make_empty(tmp_path, port)
    assert not cluster.database_path("n1").exists() and Cluster.exists(tmp_path)


def test_port_in_use_is_named_with_a_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PacelineError) as caught:
            check_ports([LocalNode(name="n1", **node_addresses("127.0.0.1", port))], hint="--port")
    assert caught.value.message == f"port {port} on 127.0.0.1 (node n1) is in use"


def test_too_high_a_port_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="need ports up to 65592"):
        make(tmp_path / "c", file=None, count=100, port=64_600, settings=Settings())


def test_joining_node_knows_all_others_and_takes_over_settings(tmp_path: Path, port: int) -> None:
    cluster = make_empty(tmp_path / "c", port)
    assert cluster.next_port() == port + 30
    node = LocalNode(name="n4", **node_addresses("127.0.0.1", cluster.next_port()))
    write_node(cluster, joining_config(cluster, node))
    config = cluster.config("n4")
    assert config.join == tuple(other.peer for other in cluster.nodes) and config.leader is None
    assert config.settings.durability == "all"


def test_backup_of_a_cluster_seeds_a_node_byte_for_byte(tmp_path: Path) -> None:
    backup = database(tmp_path / "b.db")
    with sqlite3.connect(backup) as connection:
        connection.execute("CREATE TABLE _paceline_position(id INTEGER PRIMARY KEY)")
    connection.close()
    seen: list[tuple[int, int]] = []
    seed_file(backup, tmp_path / "n4" / "db" / "main.db", lambda done, total: seen.append((done, total)))
    assert (tmp_path / "n4" / "db" / "main.db").read_bytes() == backup.read_bytes()
    assert seen == [(1, 1)]


def test_plain_database_seeds_a_node_by_import(tmp_path: Path) -> None:
    target = tmp_path / "n4" / "db" / "main.db"
    seed_file(database(tmp_path / "b.db"), target, lambda done, total: None)
    assert target.read_bytes()[18:20] == b"\x02\x02", "the import turns it to WAL mode"


def test_wiped_node_comes_back_at_its_addresses_and_others_are_refused(tmp_path: Path, port: int) -> None:
    cluster = make(tmp_path / "c", file=None, count=3, port=port, settings=Settings())
    with pytest.raises(UsageError, match="there is a node n1 already"):
        _make_node(cluster, "n1", None)
    old = cluster.node("n1")
    shutil.rmtree(cluster.node_dir("n1"))
    _make_node(cluster, "n1", None)
    config = cluster.config("n1")
    assert Cluster.load(cluster.path).nodes == cluster.nodes and cluster.node("n1") == old
    assert config.listen == old.listen and config.members == ()
    assert config.join == tuple(node.peer for node in cluster.nodes if node.name != "n1")


def test_node_cannot_come_back_when_nobody_is_left_to_join(tmp_path: Path, port: int) -> None:
    cluster = make(tmp_path / "c", file=None, count=1, port=port, settings=Settings())
    shutil.rmtree(cluster.node_dir("n1"))
    with pytest.raises(UsageError, match="nobody whom it could join"):
        joining_config(cluster, cluster.nodes[0])
