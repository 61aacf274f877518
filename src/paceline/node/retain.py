"""When the log may drop its oldest segments: asked every few seconds, decided in ``log/retention.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paceline.core.entry import EntryKind
from paceline.ids import Index
from paceline.log.retention import RetentionFacts, decide_retention

if TYPE_CHECKING:
    from paceline.node.node import Node

__all__ = ["Retainer"]

_EVERY_MS = 2000


class Retainer:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._next_ms = 0
        self._holds: dict[int, Index] = {}
        self._tokens = 0
        self.database_durable = Index(0)
        """First index of the last transaction known to be durable in the database itself."""

    def hold(self, index: Index) -> int:
        """Keep the log after ``index`` (a snapshot starts there); returns a token for ``release``."""
        self._tokens += 1
        self._holds[self._tokens] = index
        return self._tokens

    def release(self, token: int) -> None:
        self._holds.pop(token, None)

    def tick(self, now_ms: int) -> None:
        if now_ms < self._next_ms:
            return
        self._next_ms = now_ms + _EVERY_MS
        node = self._node
        if node.log.segments < 2:
            return
        decision = decide_retention(
            RetentionFacts(
                segments=node.log.segment_infos,
                # The start of the database's last transaction must stay: it tells where the database stands,
                # also after a rewind, which may go back to the commit.  And the base of a log counts as
                # committed at the next start, so nothing else may become it.
                database_durable=Index(
                    max(0, min(self.database_durable, self._last_begun(node.replica.commit)) - 2)
                ),
                followers={str(name): p.durable for name, p in node.replica.followers.items()},
                pins=list(self._holds.values()),
                now_us=node.ports.wall_us(),
                bytes_max=node.settings.retention_bytes,
                seconds_max=node.settings.retention_seconds,
            )
        )
        for name in decision.reseed:
            node.ports.event("reseed", node=name)
        if decision.drop_before > node.log.base.index:
            node.replica.history.forget_before(decision.drop_before)
            node.log.drop_before(decision.drop_before)
            node.drain()

    def _last_begun(self, end: Index) -> Index:
        """First index of the last transaction that ends at or before ``end``; the log's base when it has none."""
        log, index = self._node.log, end
        while index > log.base.index and log.kind_at(index) is not EntryKind.TXN:
            index = Index(index - 1)
        while index > log.base.index + 1 and log.kind_at(Index(index - 1)) is EntryKind.TXN_PART:
            index = Index(index - 1)
        return index
