"""What clients did and saw, and whether one order of it all explains that: linearizability.

Values are unique, which makes the question cheap (Gibbons and Korach, 1997): the reads of a value belong to its one
write.  Such a *cluster* must be ordered as a block.  Its *zone* runs between the earliest end and the latest
beginning of its operations: when the end comes first, the value was the register's throughout the zone (*forward*);
else all of them may happen at one moment of it (*backward*).  One order exists exactly when no read ends before its
write begins, no two forward zones overlap, and no backward zone lies inside a forward one.  A write whose outcome
nobody knows may end at any time later, or never.

``Ledger`` keeps what clients were told of each request: what was refused never happens, what was acknowledged
happened once, where the answer said.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["History", "Ledger", "Op", "unexplained"]


@dataclass(frozen=True, slots=True)
class Op:
    """``value`` None: the register was empty.  ``ended`` is infinite when no answer came."""

    write: bool
    value: str | None
    began: float
    ended: float


@dataclass(slots=True)
class _Cluster:
    write: Op
    first_end: float
    last_begin: float

    def add(self, op: Op) -> None:
        self.first_end = min(self.first_end, op.ended)
        self.last_begin = max(self.last_begin, op.began)


def unexplained(ops: Iterable[Op]) -> str | None:
    """Why no order explains these operations on one register (empty at first); None when one does."""
    start = Op(True, None, -math.inf, -math.inf)
    ops = list(ops)
    clusters = {op.value: _Cluster(op, op.ended, op.began) for op in (start, *ops) if op.write}
    read: set[str | None] = {None}
    for op in ops:
        if op.write:
            continue
        cluster = clusters.get(op.value)
        if cluster is None:
            return f"{op.value} was read, nobody wrote it"
        if op.ended < cluster.write.began:
            return f"{op.value} was read before it was written"
        cluster.add(op)
        read.add(op.value)
    # A write that nobody saw and whose outcome nobody knows has never happened.
    known = [c for value, c in clusters.items() if value in read or c.write.ended < math.inf]
    forward = sorted(
        (c.first_end, c.last_begin, str(c.write.value)) for c in known if c.first_end < c.last_begin
    )
    for one, other in itertools.pairwise(forward):
        if other[0] < one[1]:
            return f"{one[2]} and {other[2]} were both the latest value, in turns"
    for cluster in known:
        if cluster.first_end < cluster.last_begin:
            continue
        number = bisect_right(forward, (cluster.last_begin, math.inf, "")) - 1
        if number >= 0 and forward[number][0] < cluster.last_begin and cluster.first_end < forward[number][1]:
            return f"{cluster.write.value} was the latest value while {forward[number][2]} was"
    return None


@dataclass(slots=True)
class _Pending:
    key: str | None
    began: float


class History:
    """Writes and linearizable reads of the whole run: of ``item``, a list that only grows, and of each register."""

    def __init__(self) -> None:
        self.reads = 0
        self._registers: dict[str, list[Op]] = {}
        self._pending: dict[str, _Pending] = {}
        self._acked: list[tuple[float, str]] = []
        self._seen: list[tuple[float, int]] = [(-math.inf, 0)]
        """By time: the longest list that a read has shown by then."""

    def write(self, value: str, key: str | None, began: float) -> None:
        """A client asks for ``value``; ``key``: also into this register."""
        self._pending[value] = _Pending(key, began)

    def acknowledged(self, value: str, ended: float) -> None:
        """... and was told that it will stay."""
        pending = self._pending.pop(value, None)
        if pending is None:
            return
        self._acked.append((ended, value))
        if pending.key is not None:
            self._registers.setdefault(pending.key, []).append(Op(True, value, pending.began, ended))

    def failed(self, value: str) -> None:
        """... and was told that nothing of it happened."""
        self._pending.pop(value, None)

    def read_items(self, items: Sequence[str], began: float, ended: float) -> str | None:
        """Why this answer is no linearizable one; None when it may be."""
        self.reads += 1
        count = bisect_right(self._acked, (began, ""))
        missing = {value for _, value in self._acked[:count]} - set(items)
        if missing:
            return f"{sorted(missing)} had been acknowledged before the read began"
        longest = self._seen[bisect_right(self._seen, (began, -1)) - 1][1]
        if len(items) < longest:
            return f"{longest} items had been shown before the read began, it shows {len(items)}"
        if len(items) > self._seen[-1][1]:
            self._seen.append((ended, len(items)))
        return None

    def read_registers(self, found: dict[str, str], keys: Iterable[str], began: float, ended: float) -> None:
        """Judged at the end: only the future shows what the writes without an answer did."""
        self.reads += 1
        for key in keys:
            self._registers.setdefault(key, []).append(Op(False, found.get(key), began, ended))

    def judge(self, final: dict[str, str]) -> str | None:
        """At the end: whether each register's history can be explained, ``final`` being what is there now."""
        for value, pending in self._pending.items():
            if pending.key is not None:
                self._registers.setdefault(pending.key, []).append(Op(True, value, pending.began, math.inf))
        for key, ops in sorted(self._registers.items()):
            latest = max(max(op.began, op.ended if op.ended < math.inf else 0.0) for op in ops) + 1
            why = unexplained([*ops, Op(False, final.get(key), latest, latest + 1)])
            if why is not None:
                return f"register {key}: {why}"
        return None


@dataclass(slots=True)
class Ledger:
    """By value, which is the request's id."""

    told: dict[str, list[int]] = field(default_factory=dict)
    """Answers 'done': the index that each named."""
    refused: set[str] = field(default_factory=set)
    """Every attempt was refused before anything happened, and the client let go of it."""
    failed: set[str] = field(default_factory=set)
    """SQL errors: rolled back."""

    def judge(self, ran: dict[str, int]) -> str | None:
        """``ran``: what the committed history has done, and where."""
        for value in sorted(self.refused & ran.keys()):
            return f"{value} was refused, and happened at {ran[value]}"
        for value in sorted(self.failed & ran.keys()):
            return f"{value} failed, and happened at {ran[value]}"
        for value, indexes in self.told.items():
            if value not in ran:
                return f"{value} was done at {indexes}, and is nowhere"
            wrong = [index for index in indexes if index != ran[value]]
            if wrong:
                return f"{value} happened at {ran[value]}, a client was told {wrong}"
        return None
