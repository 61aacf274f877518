"""Comparing all nodes at one position while writes go on.

The leader puts a ``BARRIER`` entry into the log.  It touches no database, but every node pins its
state exactly there: the leader before its next group, a follower between two
batches.  Each then digests its pin at leisure; equal digests mean bit-identical
databases at that position.

Who is right when they differ?  What a majority of the voters has, whoever leads: a disk rots under a leader as well.
A follower that differs from it is told to re-sync; a leader that differs hands over and re-syncs; without a
majority nothing is touched, because the only good copy may be any of them.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paceline.core.entry import Entry, EntryKind
from paceline.core.membership import majority
from paceline.engines.base import Pin
from paceline.errors import Corruption, PacelineError
from paceline.ids import NodeId, Position
from paceline.node.ports import Lane

if TYPE_CHECKING:
    from paceline.node.node import Node

__all__ = ["Verifier"]

_KEPT = 32
_STEP_BACK_MS = 5_000


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

    def judge(self, key: str, digests: Mapping[NodeId, str]) -> str | None:
        """Leader: what the others found at the barrier ``key``.  Whoever differs from the majority is healed, once.

        Returns the majority's digest, None while there is none.
        """
        node, replica = self._node, self._node.replica
        own = self._results.get(key, {}).get("digest")
        if own is None:
            return None
        found: dict[NodeId, str] = {**digests, replica.name: own}
        counts = Counter(digest for name, digest in found.items() if name in replica.voters)
        [(right, votes)] = counts.most_common(1) or [("", 0)]
        if votes < majority(len(replica.voters)):
            return None
        for name, digest in found.items():
            if digest == right or (key, name) in self._healed:
                continue
            self._healed.add((key, name))
            if name == replica.name:
                self._step_back(next(n for n in sorted(replica.voters) if found.get(n) == right))
            elif own == right:
                node.heal(name)
        return right

    def _step_back(self, to: NodeId) -> None:
        """The leader's own database is the odd one: somebody else must lead before it can be healed."""
        node = self._node
        node.ports.event("differs", follower=node.replica.name)

        def done(answer: dict[str, Any] | PacelineError) -> None:
            if isinstance(answer, PacelineError):
                node.ports.event("differs", follower=node.replica.name, stays=answer.message)
            else:
                node.quarantine(Corruption("the database differs from what a majority of the voters has"))

        node.switch(to, _STEP_BACK_MS, done)

    def results(self) -> dict[str, dict[str, Any]]:
        return dict(self._results)
