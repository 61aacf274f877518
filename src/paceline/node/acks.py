"""Replies that wait until their transaction has the durability that was asked for.

Nothing leaves earlier, not even an error: that a key already exists may be known
only from a transaction that a failover could still take back.  Items of one level
wait in index order, so settling looks only at the head of each queue.

Semi-synchronous replication as databases know it is the policy ``degrade``: a level that was not reached in time
falls back to the leader's own disk, for everybody who asks for it, until what was answered so far
has reached the level after all.  The receipt says what was really reached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from paceline.core.durability import Durability, Level, parse_durability
from paceline.core.replica import Replica
from paceline.engines.base import Outcome, WriteRequest
from paceline.errors import OutcomeUnknown, PacelineError
from paceline.ids import Index, Position, Term
from paceline.node.replies import Receipt, WriteReply

__all__ = ["Acks", "Done", "Pending"]

_FALLBACK = Durability(Level.LOCAL)
_BELOW = (Level.ASYNC, Level.LOCAL)
_REIGNS = 16
"""So many of its own last reigns a node remembers whom it acknowledged in."""

Done = Callable[[WriteReply | PacelineError], None]


class Pending(msgspec.Struct, gc=False):
    """One request from its arrival to its reply.  ``deadline_ms`` is when the client stops waiting."""

    request: WriteRequest
    done: Done
    deadline_ms: int
    outcome: Outcome | None = None
    """Set once it has run."""


class _Item(msgspec.Struct, gc=False):
    position: Position
    replies: list[Pending]
    since_ms: int


Changed = Callable[[str, bool], None]
"""Hears of a level that is degraded now, or no longer."""


class Acks:
    def __init__(self) -> None:
        self._levels: dict[str, deque[_Item]] = {}
        self._degraded: dict[str, Index] = {}
        """Levels that fell back, and up to where they were answered by less."""
        self.waiting = 0
        """Requests that have run and wait for their reply."""
        self._told: dict[Term, dict[str, Index]] = {}
        """By reign of this process: up to where the requests of each level were acknowledged."""

    @property
    def want_applied(self) -> bool:
        """Whether somebody waits until followers have applied something."""
        return any(items and parse_durability(level).applied for level, items in self._levels.items())

    @property
    def degraded(self) -> list[str]:
        """Levels that are answered by the leader's own disk for now."""
        return sorted(self._degraded)

    def add(self, level: str, position: Position, replies: list[Pending], now_ms: int) -> None:
        items = self._levels.get(level)
        if items is None:
            items = self._levels[level] = deque()
        items.append(_Item(position, replies, now_ms))
        self.waiting += len(replies)

    def told(self, term: Term, index: Index) -> frozenset[str] | None:
        """The levels at which an entry of that reign was acknowledged; None when this process did not lead it."""
        levels = self._told.get(term)
        if levels is None:
            return None
        return frozenset(level for level, end in levels.items() if end >= index)

    def settle(self, replica: Replica, now_ms: int) -> None:
        """Answer everything whose level is reached."""
        told = self._told.get(replica.term)
        if told is None:
            told = self._told[replica.term] = {}
            while len(self._told) > _REIGNS:
                del self._told[next(iter(self._told))]
        for level, items in self._levels.items():
            if not items:
                continue
            index = replica.reached(parse_durability(level), now_ms)
            fallen = level in self._degraded
            enough = max(index, replica.reached(_FALLBACK, now_ms)) if fallen else index
            while items and items[0].position.index <= enough:
                item = items.popleft()
                if item.position.index <= index:
                    receipt = _receipt(level, item.position, replica)
                else:
                    receipt = _receipt(str(_FALLBACK), item.position, replica, asked=level)
                    self._degraded[level] = item.position.index
                self.waiting -= len(item.replies)
                told[level] = max(
                    told.get(level, Index(0)), item.position.index
                )  # a repeat's is an earlier one
                for reply in item.replies:
                    assert reply.outcome is not None
                    reply.done(WriteReply(reply.outcome, receipt))

    def degrade(self, replica: Replica, after_ms: int, now_ms: int, changed: Changed) -> None:
        """Let levels fall back that have kept somebody waiting for too long, and come back once they are reached."""
        for level, answered in list(self._degraded.items()):
            if replica.reached(parse_durability(level), now_ms) >= answered:
                del self._degraded[level]
                changed(level, False)
        for level, items in self._levels.items():
            late = items and now_ms - items[0].since_ms >= after_ms
            if late and level not in self._degraded and parse_durability(level).level not in _BELOW:
                self._degraded[level] = items[0].position.index
                changed(level, True)
        if self._degraded:
            self.settle(replica, now_ms)

    def trust(self, changed: Changed | None = None) -> None:
        """No level falls back any longer: the policy or the leader is another one."""
        levels = self.degraded
        self._degraded.clear()
        if changed is not None:
            for level in levels:
                changed(level, False)

    def expire(self, now_ms: int) -> None:
        """Tell clients whose time is up that the outcome is open."""
        for level, items in self._levels.items():
            for item in items:
                late = [reply for reply in item.replies if reply.deadline_ms <= now_ms]
                if not late:
                    continue
                item.replies = [reply for reply in item.replies if reply.deadline_ms > now_ms]
                self.waiting -= len(late)
                for reply in late:
                    reply.done(_unknown(level, item.position))
            while items and not items[0].replies:
                items.popleft()

    def abandon(self, reason: str) -> None:
        """This node no longer leads: what was waiting may or may not survive."""
        self.trust()
        for items in self._levels.values():
            while items:
                item = items.popleft()
                self.waiting -= len(item.replies)
                for reply in item.replies:
                    reply.done(
                        OutcomeUnknown(
                            f"{reason}; the write at {item.position.short} may or may not survive",
                            hint="repeat it under the same request id: it is applied at most once",
                        )
                    )


def _receipt(level: str, position: Position, replica: Replica, asked: str | None = None) -> Receipt:
    index = position.index
    durable = [replica.name] if replica.durable >= index else []
    applied = [str(replica.name)]
    for name, progress in replica.followers.items():
        if progress.durable >= index:
            durable.append(name)
        if progress.applied >= index:
            applied.append(name)
    return Receipt(
        str(position),
        position.term,
        index,
        level,
        [str(name) for name in durable],
        applied,
        str(replica.name),
        asked,
    )


def _unknown(level: str, position: Position) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"executed at {position.short}, but '{level}' was not reached in time",
        hint="it may still become durable; repeat it under the same request id, or ask for a lower durability",
    )
