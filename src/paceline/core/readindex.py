"""Linearizable reads on the leader's side: a heartbeat round proves that nobody else led meanwhile.

Raft's read index (Ongaro 2014, section 6.4).  A read that arrives remembers the commit index; once a majority of
voters has answered a heartbeat sent *after* that, no later leader can have committed anything that the read
must see.  Reads that arrive while a round is under way share the next one.  No lease, no clock.
"""

from __future__ import annotations

from collections.abc import Callable

from paceline.ids import Index, NodeId

__all__ = ["ReadRounds"]

Asker = tuple[NodeId | None, int]
"""Who asked (None: this node itself) and its number for the read."""


class ReadRounds:
    """One reign's reads."""

    def __init__(self) -> None:
        self._queued: list[Asker] = []
        self._running: list[Asker] = []
        self._round = 0
        self._index = Index(0)

    def ask(self, asker: Asker) -> None:
        self._queued.append(asker)

    def advance(
        self, commit: Index, first_own: Index, confirmed: Callable[[int], bool], beat: Callable[[], int]
    ) -> list[tuple[Asker, Index]]:
        """Reads that are safe now, each with the index to apply first.

        ``confirmed``: whether a majority answered that round; ``beat`` sends one and returns its number.  Before
        this reign has committed something its commit index may be too old, and everybody waits.
        """
        ready: list[tuple[Asker, Index]] = []
        while True:
            if self._running:
                if not confirmed(self._round):
                    return ready
                ready += [(asker, self._index) for asker in self._running]
                self._running = []
            if not self._queued or commit < first_own:
                return ready
            self._running, self._queued = self._queued, []
            self._index = commit
            self._round = beat()
