"""What a leader knows about one follower, and how much it may send.

``PROBE``: the place where the logs meet is not known; one message at a time.
``REPLICATE``: it is known; messages are pipelined up to the in-flight limits.
``SNAPSHOT``: what the follower needs is gone from the log; it fetches a snapshot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum

from paceline.core.entry import Entry
from paceline.ids import Index, NodeId
from paceline.limits import INFLIGHT_BYTES_MAX, INFLIGHT_MESSAGES_MAX

__all__ = ["Progress", "Sending"]


class Sending(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """Invariants: durable <= received < next; applied <= durable.  Indexes never fall within one reign."""

    def __init__(self, name: NodeId, next_index: Index, now_ms: int) -> None:
        self.name = name
        self.state = Sending.PROBE
        self.next = next_index
        self.received = Index(0)
        self.durable = Index(0)
        self.applied = Index(0)
        self.round = 0
        self.told = Index(0)
        """The commit index that it was last told."""
        self.health = "unknown"
        self.heard_ms: int | None = None
        self.probe_sent_ms: int | None = None
        self.moved_ms = now_ms
        self._inflight: deque[tuple[Index, int]] = deque()
        self._inflight_bytes = 0

    def may_send(self) -> bool:
        match self.state:
            case Sending.PROBE:
                return self.probe_sent_ms is None
            case Sending.REPLICATE:
                return (
                    self._inflight_bytes < INFLIGHT_BYTES_MAX and len(self._inflight) < INFLIGHT_MESSAGES_MAX
                )
            case Sending.SNAPSHOT:
                return False

    def sent(self, entries: Sequence[Entry], now_ms: int) -> None:
        """Note an append that left."""
        if self.state is Sending.PROBE:
            self.probe_sent_ms = now_ms
            return
        if entries:
            size = sum(len(entry.record) for entry in entries)
            last = entries[-1].index
            self._inflight.append((last, size))
            self._inflight_bytes += size
            self.next = Index(last + 1)

    def accept(self, received: Index, durable: Index, applied: Index, now_ms: int) -> bool:
        """Take a follower's report; True when something moved."""
        moved = received > self.received or durable > self.durable or applied > self.applied
        self.received = max(self.received, received, durable)
        self.durable = max(self.durable, durable)
        self.applied = max(self.applied, applied)
        if moved:
            self.moved_ms = now_ms
        while self._inflight and self._inflight[0][0] <= self.received:
            self._inflight_bytes -= self._inflight.popleft()[1]
        self.next = max(self.next, Index(self.received + 1))
        return moved

    def refused(self, hint: Index) -> None:
        """The follower has nothing above ``hint`` of what was sent: forget what was assumed.

        Below ``durable`` only when it lost synced data (a restored disk); then honesty beats monotony.
        """
        self.received = min(self.received, max(hint, self.durable))
        if hint < self.durable:
            self.received = self.durable = hint
            self.applied = min(self.applied, hint)

    def reconnected(self) -> None:
        """What was received but not synced may be gone with the old connection's process."""
        self.received = self.durable

    def replicate(self) -> None:
        """The logs are known to meet at ``received``."""
        self.state = Sending.REPLICATE
        self.next = Index(self.received + 1)
        self._clear()

    def probe(self, next_index: Index) -> None:
        """Look for the meeting place again: behind what is known, else from ``next_index``."""
        self.state = Sending.PROBE
        self.next = Index(self.received + 1) if self.received else max(next_index, Index(1))
        self._clear()

    def snapshot(self) -> None:
        self.state = Sending.SNAPSHOT
        self._clear()

    def _clear(self) -> None:
        self.probe_sent_ms = None
        self._inflight.clear()
        self._inflight_bytes = 0

    @property
    def stuck(self) -> bool:
        """Whether something sent has not been answered."""
        return bool(self._inflight) or self.probe_sent_ms is not None

    def statistics(self) -> dict[str, object]:
        return {
            "state": self.state.value,
            "next": self.next,
            "received": self.received,
            "durable": self.durable,
            "applied": self.applied,
            "inflight_bytes": self._inflight_bytes,
            "health": self.health,
        }
