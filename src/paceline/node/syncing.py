"""What makes the log durable, and what waits for that.

One flush at a time on the log lane takes everything staged by then.  Messages that
need a hard state on disk first (``Batch.after_hard_state``) are held until the flush
that contains it is done.  While syncs are quick, a flush runs on the loop itself (decision 0006):
two changes of thread cost more than it does.  A full disk is waited out; any other error ends the process.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import msgspec

from paceline.core.effects import Batch
from paceline.core.messages import Message
from paceline.errors import DiskFull
from paceline.ids import NodeId, Position
from paceline.node.anchors import Anchor, save_anchor
from paceline.node.ports import Lane

if TYPE_CHECKING:
    from paceline.node.node import Node

__all__ = ["Syncing"]

_DISK_FULL_RETRY_MS = 500
_SMALL_BYTES = 256 * 1024
"""So much is written on the loop, before a sync that goes without a thread."""

_Messages = list[tuple[NodeId, Message]]


class Syncing:
    def __init__(self, node: Node, anchor_path: str, anchor: Anchor) -> None:
        self._node = node
        self._anchor_path = anchor_path
        self.anchor = anchor
        self.disk_full: DiskFull | None = None
        self.marked = False
        """Whether this reign's capture mark is durable: no group starts before."""
        self._flushing = False
        self._held: list[_Messages] = []
        self._in_flush: list[_Messages] = []
        self._hard_unsynced = 0

    def hold(self, batch: Batch) -> None:
        """Send what waits for a hard state, at once when none is on its way to the disk."""
        if batch.hard_state is None and not self._hard_unsynced:
            for to, message in batch.after_hard_state:
                self._node.ports.send(to, message)
        else:
            self._held.append(batch.after_hard_state)
            self._hard_unsynced += 1

    def flush(self) -> None:
        """Start a flush, unless one is under way or nothing is staged."""
        node = self._node
        if self._flushing or not node.log.pending:
            return
        self._flushing = True
        held, self._in_flush = self._in_flush + self._held, []
        self._held = []
        hard_state, marked = node.replica.hard_state, node.engine_leads

        def done(_: Position) -> None:
            self._flushing = False
            if self.disk_full is not None:
                self.disk_full = None
                node.writes.reconsider()
            saved, has_mark = hard_state, marked
            # What was staged before the lane took its plan went with this very flush.
            if not node.log.pending:
                held.extend(self._held)
                self._held = []
                saved, has_mark = node.replica.hard_state, node.engine_leads
            self._hard_unsynced -= len(held)
            for messages in held:
                for to, message in messages:
                    node.ports.send(to, message)
            now_ms = node.ports.now_ms()
            self.marked = self.marked or has_mark
            node.replica.saved(saved, now_ms)
            node.replica.durable_to(node.log.durable, now_ms)  # a truncation may have overtaken the flush
            node.ports.made_room()
            self.keep_membership()
            node.drain()
            if not node.state_busy:
                node.pump()

        def failed(error: BaseException) -> None:
            self._failed(error, held)

        # What fetches a snapshot flushes on the lane.
        if node.log.only_appends and node.log.staged_bytes <= _SMALL_BYTES and not node.installing:
            node.ports.run_steps(node.log.flushing(), done, failed)
        else:
            node.ports.run(Lane.LOG, node.log.flush, done, failed)

    def _failed(self, error: BaseException, held: list[_Messages]) -> None:
        """A full disk is waited out (the log keeps what it could not write); anything else is final."""
        node = self._node
        if not isinstance(error, DiskFull):
            node.ports.fatal(error)
            return
        self._flushing = False
        self._in_flush = held
        if self.disk_full is None:
            node.ports.event("disk-full", message=error.message)
        self.disk_full = error
        node.writes.reconsider()
        node.ports.later(_DISK_FULL_RETRY_MS, self.flush)

    # -- the anchor ---------------------------------------------------------------

    def keep_membership(self) -> None:
        """Remember a committed membership outside the log, which may drop its entry later.

        Only one that the log holds durably: after a crash the log must not end before it.
        """
        node = self._node
        if self.anchor.memberships and node.replica.history.index <= self.anchor.memberships[-1][0]:
            return
        found = node.replica.history.at(min(node.replica.commit, node.log.durable.index))
        held = self.anchor.memberships[-1][0] if self.anchor.memberships else 0
        if found is not None and found[0] > held and not node.installing:
            self._save_anchor(msgspec.structs.replace(self.anchor, memberships=(found,)))

    def _save_anchor(self, anchor: Anchor) -> None:
        node = self._node
        before, self.anchor = self.anchor, anchor

        def failed(error: BaseException) -> None:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                self.anchor = before  # the file is the old one, whole; the next commit or sync tries again
            else:
                node.ports.fatal(error)

        node.ports.run(
            Lane.LOG, lambda: save_anchor(node.files, self._anchor_path, anchor), lambda _: None, failed
        )
