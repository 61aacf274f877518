"""What became of the write at a position: the position's chain against the log of the node that is asked.

    the position's index is      the log there has        outcome
    ---------------------------  -----------------------  ---------
    committed                    the same chain           committed
                                 another chain            lost
                                 nothing any more         unknown (retention dropped it)
    beyond the commit index,     -                        lost
    of an older term than the
    last committed entry
    beyond the commit index      the same chain           pending
                                 anything else            unknown

Equal chain means equal history.  *Lost* is final and any node may say it: terms never fall along a log, so behind
a committed entry of a later term nothing of an earlier one can come.  A position of another cluster counts as lost:
it is no part of this history.
"""

from __future__ import annotations

from typing import Protocol

from paceline.ids import Index, Position

__all__ = ["LogView", "outcome_of"]


class LogView(Protocol):
    def position_at(self, index: Index) -> Position | None: ...


def outcome_of(place: Position, log: LogView, commit: Index) -> str:
    """``committed``, ``pending``, ``lost`` or ``unknown``, as far as this log tells."""
    here = log.position_at(place.index)
    if place.index <= commit:
        if here is None:
            return "unknown"
        return "committed" if here == place else "lost"
    committed = log.position_at(commit)
    if committed is not None and committed.term > place.term:
        return "lost"
    return "pending" if here == place else "unknown"
