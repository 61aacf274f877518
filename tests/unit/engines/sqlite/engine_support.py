"""Shared by the tests of the whole engine: nodes without a network, the log a list."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paceline.core.entry import Entry, EntryKind, encode_entry
from paceline.engines.base import Group, Outcome, WriteRequest
from paceline.engines.sqlite import plainfile
from paceline.engines.sqlite.connect import EngineOptions
from paceline.engines.sqlite.engine import SqliteEngine
from paceline.ids import ZERO_CHAIN, Index, Slot, Term

__all__ = ["Cluster", "Node"]


class Node:
    """One engine and how far it has applied the cluster's log."""

    def __init__(self, path: Path, *, cluster: str = "c1", **options: Any) -> None:
        os.makedirs(path.parent, exist_ok=True)
        self.path = path
        self.engine = SqliteEngine(str(path), cluster=cluster, options=EngineOptions(**options))
        self.applied = 0

    def digest(self) -> bytes:
        pin = self.engine.pin()
        try:
            return pin.digest()
        finally:
            pin.close()

    def rows(self, sql: str) -> list[list[Any]]:
        return self.engine.query(sql, [], deadline=None, rows_max=100_000, bytes_max=1 << 26).rows


class Cluster:
    """A leader, followers, and a log that everybody has."""

    def __init__(self, folder: Path, nodes: int = 2, **options: Any) -> None:
        self.log: list[Entry] = []
        self.records: list[bytes] = []
        self.slot = Slot(Term(1), Index(1), ZERO_CHAIN)
        self.nodes = [Node(folder / f"n{number}" / "main.db", **options) for number in range(nodes)]
        for node in self.nodes:
            node.engine.open()
        self.leader = self.nodes[0]
        self.leader.engine.lead(Index(0))

    def append(self, entry: Entry) -> None:
        assert entry.index == self.slot.index
        self.log.append(entry)
        self.slot = entry.next_slot

    def run(self, *requests: WriteRequest) -> list[Outcome]:
        group = Group(self.slot, list(requests), int(time.time() * 1e6), self.append)
        result = self.leader.engine.run_group(group)
        if result.entry is not None:
            self.append(result.entry)
            assert result.local is not None
            self.records.append(result.local)
        self.leader.applied = len(self.log)
        return result.outcomes

    def ok(self, *requests: WriteRequest) -> list[Outcome]:
        outcomes = self.run(*requests)
        assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
        return outcomes

    def noop(self) -> None:
        self.append(encode_entry(self.slot, EntryKind.NOOP, b"", time_us=0))

    def catch_up(self, node: Node) -> None:
        node.engine.apply(self.log[node.applied :])
        node.applied = len(self.log)

    def settle(self) -> None:
        """Everybody applies everything, and everybody is equal."""
        digest = self.leader.digest()
        for node in self.nodes:
            if node is not self.leader:
                self.catch_up(node)
                assert node.digest() == digest, node.path
                assert node.engine.position() == self.leader.engine.position()

    def switch(self, node: Node) -> None:
        """``node`` leads in the next term."""
        self.settle()
        self.leader.engine.follow()
        self.leader.applied = len(self.log)
        self.slot = Slot(Term(self.slot.term + 1), self.slot.index, self.slot.prev_chain)
        self.noop()
        self.leader = node
        self.catch_up(node)
        node.engine.lead(Index(0))

    def close(self) -> None:
        for node in self.nodes:
            node.engine.close()
            plainfile.forget(str(node.path))


MakeCluster = Callable[..., Cluster]
