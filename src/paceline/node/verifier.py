"""Comparing all nodes at one position while writes go on.

The leader puts a ``BARRIER`` entry into the log.  It touches no database, but every node pins its
state exactly there: the leader before its next group, a follower between two
batches.  Each then digests its pin at leisure; equal digests mean bit-identical
databases at that position, and a follower whose digest differs is told to re-sync.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from paceline.core.entry import Entry, EntryKind
from paceline.engines.base import Pin
from paceline.ids import NodeId, Position
from paceline.node.ports import Lane

if TYPE_CHECKING:
    from paceline.node.node import Node

__all__ = ["Verifier"]

_KEPT = 32


class Verifier:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._wanted: list[bytes] = []
        self._results: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._healed: set[tuple[str, NodeId]] = set()

    def request(self, barrier: bytes) -> None:
        """Leader: put a barrier into the log as soon as no group runs."""
        self._wanted.append(barrier)
        self._node.pump()

    def start(self) -> bool:
        """Leader, state lane free: append one wanted barrier and pin right behind it."""
        if not self._wanted:
            return False
        node = self._node
        node.replica.propose(EntryKind.BARRIER, self._wanted.pop(0), node.ports.now_ms())
        node.drain()
        node.set_applied(node.idle_end())
        entry = node.log.entry(node.replica.last.index)
        assert entry is not None and entry.kind is EntryKind.BARRIER
        self.pin(entry)
        return True

    def pin(self, barrier: Entry) -> None:
        """The state lane stands exactly at the barrier: pin it there."""
        node = self._node
        key = bytes(barrier.body).hex()
        self._results[key] = {"state": "running", "position": str(barrier.position)}
        while len(self._results) > _KEPT:
            gone, _ = self._results.popitem(last=False)
            self._healed = {found for found in self._healed if found[0] != gone}
        node.run_state(node.engine.pin, lambda pin: self._digest(key, barrier.position, pin))

    def _digest(self, key: str, position: Position, pin: Pin) -> None:
        def work() -> tuple[str, int]:
            try:
                return pin.digest().hex(), pin.unit_count
            finally:
                pin.close()

        def done(result: tuple[str, int]) -> None:
            digest, units = result
            self._results[key] = {
                "state": "done",
                "position": str(position),
                "digest": digest,
                "units": units,
            }

        def failed(error: BaseException) -> None:
            self._results[key] = {"state": "failed", "position": str(position), "error": str(error)}

        self._node.ports.run(Lane.READ, work, done, failed)

    def result(self, key: str) -> dict[str, Any] | None:
        return self._results.get(key)

    def judge(self, key: str, follower: NodeId, digest: str) -> None:
        """Leader: a follower's digest at the barrier ``key``; one that differs from ours is healed, once."""
        own = self._results.get(key, {}).get("digest")
        if own is not None and digest != own and (key, follower) not in self._healed:
            self._healed.add((key, follower))
            self._node.heal(follower)

    def results(self) -> dict[str, dict[str, Any]]:
        return dict(self._results)
