"""When the engine moves its work into the database file: only what the node's log holds durably."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paceline.errors import Corruption, DiskFull
from paceline.ids import Index

if TYPE_CHECKING:
    from paceline.node.node import Node

__all__ = ["Checkpoints"]


class Checkpoints:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._not_before_ms = 0

    def _may_try(self) -> bool:
        node = self._node
        return node.ports.now_ms() >= self._not_before_ms and node.engine.checkpoint_due()

    def waits(self) -> bool:
        """A checkpoint is due and only waits for the log's sync: no new group until then."""
        return self._may_try() and self._node.replica.durable < self._node.applied

    def start(self) -> bool:
        """Start a due checkpoint on the state lane; only when the log is durable as far as the database goes."""
        node = self._node
        if not self._may_try() or node.replica.durable < node.applied:
            return False

        def done(database_durable: Index | None) -> None:
            if database_durable is None:
                self._again_later()
            else:
                node.retainer.database_durable = database_durable

        def failed(error: BaseException) -> None:
            if isinstance(error, DiskFull):
                self._again_later()
            elif isinstance(error, Corruption) and not node.leads_or_will:
                node.quarantine(error)
            else:
                node.state_failed(error)

        node.run_state(node.engine.checkpoint, done, failed)
        return True

    def _again_later(self) -> None:
        self._not_before_ms = self._node.ports.now_ms() + self._node.settings.checkpoint_retry_ms
