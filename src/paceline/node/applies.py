"""The follower's half: committed and durable entries become database state.

Applying must never delay an acknowledgement, and costs the same CPU that
acknowledgements need.  So: at once when idle; under load everything that arrived within
``apply_interval_ms`` is merged into one step (a page that changed twice is written once).
A batch ends at a transaction's end, and at a barrier.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from paceline.core.entry import Entry, EntryKind
from paceline.errors import Corruption, DiskFull
from paceline.ids import DatabasePosition, Index

if TYPE_CHECKING:
    from paceline.node.node import Node

__all__ = ["Applies"]

BATCH_BYTES = 4 * 1024 * 1024
_DISK_FULL_RETRY_MS = 1_000


class Applies:
    def __init__(self, node: Node, interval_ms: int) -> None:
        self._node = node
        self._interval_ms = interval_ms
        self._started_ms = -interval_ms
        self._timer = False
        self.disk_full: DiskFull | None = None
        """There was no room to apply; nothing happened, and it is tried again."""
        self.batches = 0
        self.entries = 0

    def target(self) -> Index:
        """How far this node may apply now: committed and durable here; as a new leader its whole log."""
        node = self._node
        if node.leads_or_will:
            return node.replica.last.index
        return min(node.replica.commit, node.replica.durable)

    def start(self) -> bool:
        """Start a batch on the state lane if there is one due."""
        node = self._node
        target = self.target()
        if node.applied >= target:
            return False
        if self.disk_full is not None and self._timer:
            return True
        if not (node.leads_or_will or self._due()):
            return False
        end = self._batch_end(target)
        if end is None:
            node.set_applied(min(target, node.idle_end()))
            return False
        self._started_ms = node.ports.now_ms()
        entries = node.log.entries(node.applied, bytes_max=BATCH_BYTES)
        entries = [entry for entry in entries if entry.index <= end]
        whole = self._whole(entries)
        if whole:
            entries, source = entries[:whole], iter(entries[:whole])
            end = entries[-1].index
        else:
            end = self._transaction_end(entries[0].index)
            if node.log.kind_at(end) is not EntryKind.TXN:
                node.set_applied(Index(end - 1))  # void: the leader that wrote these parts did not end them
                return self.start()
            source = chain(entries, self._rest(entries[-1].index, end))
        node.replica.database_end = max(node.replica.database_end, end)
        barrier = entries[-1] if entries[-1].kind is EntryKind.BARRIER else None
        node.run_state(
            lambda: node.engine.apply(source),
            lambda position: self._applied(end, barrier, position),
            self._failed,
        )
        return True

    def _due(self) -> bool:
        """Whether enough time has passed since the last batch; if not, come back when it has."""
        if self._timer:
            return False
        node = self._node
        wait_ms = self._started_ms + self._interval_ms - node.ports.now_ms()
        if wait_ms <= 0:
            return True
        self._timer = True
        node.ports.later(wait_ms, self._wake)
        return False

    def _wake(self) -> None:
        self._timer = False
        self._node.pump()

    def _batch_end(self, target: Index) -> Index | None:
        """The last index to apply with the engine: a transaction's end or a barrier; None when nothing needs it."""
        log, index, end = self._node.log, self._node.applied, None
        while index < target:
            index = Index(index + 1)
            kind = log.kind_at(index)
            if kind is EntryKind.BARRIER:
                return index
            if kind is EntryKind.TXN:
                end = index
        return end

    @staticmethod
    def _whole(entries: list[Entry]) -> int:
        """How many of the entries end at a transaction's end (0: the first one is longer than the batch)."""
        count = len(entries)
        while count and entries[count - 1].kind is EntryKind.TXN_PART:
            count -= 1
        return count

    def _transaction_end(self, first: Index) -> Index:
        log, index = self._node.log, first
        while log.kind_at(index) is EntryKind.TXN_PART:
            index = Index(index + 1)
        return index

    def _rest(self, after: Index, end: Index) -> Iterator[Entry]:
        """State lane: the other parts of a large transaction, read as they are needed."""
        node = self._node
        while after < end:
            start = after
            entries = node.ports.ask(lambda: node.log.entries(start, bytes_max=BATCH_BYTES))  # noqa: B023
            for entry in entries:
                if entry.index <= end:
                    yield entry
            after = entries[-1].index

    def _applied(self, end: Index, barrier: Entry | None, position: DatabasePosition | None) -> None:
        node = self._node
        self.disk_full = None
        self.batches += 1
        self.entries += end - node.applied
        node.set_applied(end)
        if barrier is not None:
            node.verifier.pin(barrier)
        node.drain()

    def _failed(self, error: BaseException) -> None:
        node = self._node
        if isinstance(error, Corruption):
            node.quarantine(error)
        elif isinstance(error, DiskFull):
            if self.disk_full is None:
                node.ports.event("disk-full", message=error.message)
            self.disk_full, self._timer = error, True
            node.ports.later(_DISK_FULL_RETRY_MS, self._wake)
        else:
            node.ports.fatal(error)
