"""Replies that wait until their transaction has the durability that was asked for.

Nothing leaves earlier, not even an error: that a key already exists may be known
only from a transaction that a failover could still take back.  Items of one level
wait in index order, so settling looks only at the head of each queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from paceline.core.durability import parse_durability
from paceline.core.replica import Replica
from paceline.engines.base import Outcome, WriteRequest
from paceline.errors import OutcomeUnknown, PacelineError
from paceline.ids import Index, Position, Term
from paceline.node.replies import Receipt, WriteReply

__all__ = ["Acks", "Done", "Pending"]

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


class Acks:
    def __init__(self) -> None:
        self._levels: dict[str, deque[_Item]] = {}
        self.waiting = 0
        """Requests that have run and wait for their reply."""
        self._told: dict[Term, dict[str, Index]] = {}
        """By reign of this process: up to where the requests of each level were acknowledged."""

    def add(self, level: str, position: Position, replies: list[Pending]) -> None:
        items = self._levels.get(level)
        if items is None:
            items = self._levels[level] = deque()
        items.append(_Item(position, replies))
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
            while items and items[0].position.index <= index:
                item = items.popleft()
                receipt = _receipt(level, item.position, replica)
                self.waiting -= len(item.replies)
                told[level] = max(told.get(level, Index(0)), item.position.index)  # a repeat's is an earlier one
                for reply in item.replies:
                    assert reply.outcome is not None
                    reply.done(WriteReply(reply.outcome, receipt))

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


def _receipt(level: str, position: Position, replica: Replica) -> Receipt:
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
    )


def _unknown(level: str, position: Position) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"executed at {position.short}, but '{level}' was not reached in time",
        hint="it may still become durable; repeat it under the same request id, or ask for a lower durability",
    )
