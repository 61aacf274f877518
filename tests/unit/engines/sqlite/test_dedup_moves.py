"""The memory of request ids is data: it goes with the database wherever that goes, and back with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_support import Cluster, Node
from exec_support import one

from paceline.engines.base import Outcome
from paceline.engines.sqlite import dedup as memory
from paceline.engines.sqlite import plainfile
from paceline.errors import RequestExpired
from paceline.ids import Index, counted_id


def add(value: int, id: bytes) -> Any:
    return one("INSERT INTO t VALUES (?)", [value], request_id=id)


def ran(outcomes: list[Outcome]) -> list[bool]:
    return [outcome.repeated_at is None for outcome in outcomes]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, make_cluster: Callable[..., Cluster]) -> Cluster:
    """A cluster that remembers three ids."""
    real = memory.Dedup.__init__

    def init(self: memory.Dedup, *args: Any, **options: Any) -> None:
        real(self, *args, **options | {"count_max": 3})

    monkeypatch.setattr(memory.Dedup, "__init__", init)
    cluster = make_cluster()
    cluster.ok(one("CREATE TABLE t(a)"))
    for value in range(6):
        cluster.ok(add(value, counted_id(b"session1", value)))
    return cluster


def assert_remembers(cluster: Cluster) -> None:
    known, forgotten = cluster.run(add(100, counted_id(b"session1", 5)), add(101, counted_id(b"session1", 0)))
    assert known.repeated_at is not None
    assert isinstance(forgotten.error, RequestExpired)
    (fresh,) = cluster.ok(add(6, counted_id(b"session1", 6)))
    assert fresh.repeated_at is None
    assert cluster.leader.rows("SELECT group_concat(a) FROM t") == [["0,1,2,3,4,5,6"]]


def test_follower_that_takes_over_knows_what_was_applied_and_what_was_forgotten(small: Cluster) -> None:
    small.switch(small.nodes[1])
    assert_remembers(small)


def test_node_that_got_a_snapshot_knows_it_too(small: Cluster, tmp_path: Path) -> None:
    fresh = Node(tmp_path / "fresh" / "main.db")
    fresh.engine.open()
    pin = small.leader.engine.pin()
    try:
        units = list(enumerate(pin.read(1, pin.unit_count), 1))
        fresh.engine.install(pin.unit_bytes, pin.unit_count, units)
    finally:
        pin.close()
    fresh.applied = len(small.log)
    small.nodes.append(fresh)
    small.switch(fresh)
    assert_remembers(small)


def test_what_a_rewind_takes_back_was_never_applied_and_what_it_leaves_was(small: Cluster) -> None:
    before = len(small.log)
    small.settle()
    small.ok(add(6, counted_id(b"session1", 6)))
    small.ok(add(7, counted_id(b"session1", 7)))
    small.leader.engine.follow()
    small.leader.engine.undo(reversed(small.log[before:]))
    del small.log[before:]
    small.slot = small.log[-1].next_slot
    small.leader.engine.lead(Index(0))
    assert_remembers(small)  # 6 runs again, once: its first run is gone
    assert ran(small.ok(add(9, counted_id(b"session1", 6)))) == [False]
    small.settle()


def test_killed_leaders_memory_is_what_is_in_its_file(small: Cluster) -> None:
    """Leading again without a clean end: nothing lives outside the transaction."""
    small.leader.engine.close()
    plainfile.forget(str(small.leader.path))
    small.leader.engine.open()
    small.leader.engine.lead(Index(len(small.log)))
    assert_remembers(small)
