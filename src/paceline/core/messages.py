"""What nodes say to each other.  Every message carries the sender's term.

Names and rules are Raft's (Ongaro 2014).  An :class:`Append` holds entries as
:class:`~paceline.core.entry.Entry`; on the wire their records follow the header
as they are (``wire.py``).  Indexes that a follower reports count only up to what
it has verified to equal the leader's log in the leader's term.
"""

from __future__ import annotations

import msgspec

from paceline.core.entry import Entry
from paceline.ids import Index, Position, Term

__all__ = [
    "Append",
    "AppendResponse",
    "Heartbeat",
    "Message",
    "ReadIndex",
    "ReadIndexResponse",
    "SnapshotNeeded",
    "TimeoutNow",
    "VoteRequest",
    "VoteResponse",
]


class VoteRequest(msgspec.Struct, frozen=True, tag=1, array_like=True):
    """``pre``: would you vote for me in ``term``?  (Nobody's term changes.)  ``force``: the leader asked for this."""

    term: Term
    last_term: Term
    last_index: Index
    pre: bool
    force: bool


class VoteResponse(msgspec.Struct, frozen=True, tag=2, array_like=True):
    term: Term
    granted: bool
    pre: bool
    incarnation: str
    reason: str


class Append(msgspec.Struct, frozen=True, tag=3, array_like=True):
    """Entries that follow ``prev`` (its chain proves the history before it); ``commit`` is the leader's."""

    term: Term
    prev_term: Term
    prev_index: Index
    prev_chain: bytes
    commit: Index
    entries: tuple[Entry, ...] = ()

    @property
    def prev(self) -> Position:
        return Position(self.prev_term, self.prev_index, self.prev_chain)


class AppendResponse(msgspec.Struct, frozen=True, tag=4, array_like=True):
    """``durable``/``received``/``applied``: verified progress.  ``round`` echoes a heartbeat (0: none).

    ``ok`` false: the follower lacks ``prev``; ``hint_*`` is the last place at or
    before it that the follower has.
    """

    term: Term
    ok: bool
    durable: Index
    received: Index
    applied: Index
    hint_term: Term
    hint_index: Index
    round: int
    health: str = "ok"


class Heartbeat(msgspec.Struct, frozen=True, tag=5, array_like=True):
    """I lead ``term``; ``commit`` counts only as far as the follower has verified its log.

    ``round`` 0 only tells the commit index and wants no answer.  ``want_applied``: report when the commit is applied.
    """

    term: Term
    commit: Index
    round: int
    want_applied: bool = False


class SnapshotNeeded(msgspec.Struct, frozen=True, tag=6, array_like=True):
    """What you need next is no longer in my log (or your database differs): fetch a snapshot from me."""

    term: Term
    base: Index


class ReadIndex(msgspec.Struct, frozen=True, tag=8, array_like=True):
    """How far must I have applied for the read ``number`` to be linearizable?"""

    term: Term
    number: int


class ReadIndexResponse(msgspec.Struct, frozen=True, tag=9, array_like=True):
    """I led ``term`` after I got the question, and this was committed then."""

    term: Term
    number: int
    index: Index


class TimeoutNow(msgspec.Struct, frozen=True, tag=7, array_like=True):
    """You are up to date; campaign at once."""

    term: Term


Message = (
    VoteRequest
    | VoteResponse
    | Append
    | AppendResponse
    | Heartbeat
    | SnapshotNeeded
    | TimeoutNow
    | ReadIndex
    | ReadIndexResponse
)
