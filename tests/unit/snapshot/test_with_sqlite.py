"""The whole way with the real engine: pin, transfer, plan, and a database that any tool can read."""

from __future__ import annotations

import random
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from paceline.engines.base import UnitsDigest, WriteRequest
from paceline.engines.sqlite.engine import SqliteEngine
from paceline.files import RealFiles
from paceline.snapshot.install import install
from paceline.snapshot.layout import Layout
from paceline.snapshot.plan import Plan
from paceline.snapshot.receiver import ReceivingSession
from paceline.snapshot.sender import SendingSession
from paceline.snapshot.staging import Staging

sys.path.insert(0, str(Path(__file__).parents[1] / "engines" / "sqlite"))
from engine_support import Cluster, Node
from snapshot_fakes import COMPANIONS, END, FakeNode, FakePin

FILES = RealFiles()


class SqliteActions(FakeNode):
    def __init__(self, engine: SqliteEngine) -> None:
        super().__init__(FakePin([]))
        self._engine = engine

    def install_units(self, unit_bytes: int, unit_count: int, units: Iterable[tuple[int, bytes]]) -> None:
        self._engine.install(unit_bytes, unit_count, units)
        self._engine.checkpoint(force=True)

    def database_digest(self) -> bytes:
        pin = self._engine.pin()
        try:
            return pin.digest()
        finally:
            pin.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "c", 2)
    yield cluster
    cluster.close()


def write(cluster: Cluster, rows: int) -> None:
    rng = random.Random(rows)
    cluster.ok(WriteRequest([("create table if not exists t(a, b)", [])], "local"))
    for _ in range(rows):
        cluster.ok(
            WriteRequest([("insert into t values (?, ?)", [rng.random(), rng.randbytes(500)])], "local")
        )


def transfer(leader: Node, staging: Staging) -> tuple[Plan, ReceivingSession]:
    pin = leader.engine.pin()
    try:
        sender = SendingSession(staging.request(), pin, position=END, config=b"members", snapshot="s")
        receiver = ReceivingSession(sender.offer, staging.target)
        receiver.begin()
        while not receiver.complete:
            receiver.take(sender.answer(receiver.ask()))
        plan = staging.staged(sender.offer, receiver.finish(sender.done()))
    finally:
        pin.close()
        staging.close()
    return plan, receiver


def layout_of(node_path: Path, root: Path) -> Layout:
    return Layout(directory=str(root / "snapshot"), database=str(node_path), companions=COMPANIONS)


def test_pin_computes_the_digest_of_the_contract(cluster: Cluster) -> None:
    write(cluster, 50)
    pin = cluster.leader.engine.pin()
    digest = UnitsDigest(pin.unit_bytes, pin.unit_count)
    digest.update(pin.hashes(1, pin.unit_count))
    assert pin.digest() == digest.value
    pin.close()


def test_new_node_opens_what_was_placed(cluster: Cluster, tmp_path: Path) -> None:
    write(cluster, 200)
    place = layout_of(tmp_path / "new" / "db" / "main.db", tmp_path / "new")
    plan, _ = transfer(cluster.leader, Staging(FILES, place, None))
    install(FILES, place, plan, FakeNode(FakePin([])))
    node = Node(Path(place.database))
    node.engine.open()
    try:
        assert node.digest() == cluster.leader.digest() == plan.digest
        assert node.engine.position() == cluster.leader.engine.position() == plan.database
    finally:
        node.engine.close()


def test_diverged_follower_is_resynced_under_an_open_reader(cluster: Cluster, tmp_path: Path) -> None:
    write(cluster, 300)
    follower = cluster.nodes[1]
    cluster.catch_up(follower)
    write(cluster, 5)
    reader = sqlite3.connect(f"file:{follower.path}?mode=ro", uri=True)
    before = reader.execute("select count(*) from t").fetchone()
    place = layout_of(follower.path, tmp_path / "f")
    local = follower.engine.pin()
    plan, receiver = transfer(cluster.leader, Staging(FILES, place, local))
    local.close()
    assert 0 < receiver.units_received < receiver.units_done / 2
    install(FILES, place, plan, SqliteActions(follower.engine))
    assert before == (300,) and reader.execute("select count(*) from t").fetchone() == (305,)
    assert reader.execute("pragma integrity_check").fetchone() == ("ok",)
    reader.close()
    assert follower.digest() == cluster.leader.digest()
