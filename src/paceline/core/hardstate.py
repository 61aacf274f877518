"""What a node must remember to be safe: its term and its vote.

A hard state is durable before any message that depends on it leaves the node
(invariant I2).  ``commit`` is a hint: a lower bound of what was committed, so
that a log that came back shorter is noticed.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.ids import Index, NodeId, Term

__all__ = ["HardState"]


@dataclass(frozen=True, slots=True)
class HardState:
    """``voted_for`` belongs to ``term``: it changes only from None, or when the term rises."""

    term: Term
    voted_for: NodeId | None
    commit: Index = Index(0)  # noqa: RUF009 - NewType, a plain int
    leader: NodeId | None = None
    """Whose entries stand at the end of the log; survives a rise of the term (see ``election.py``)."""

    def may_become(self, new: HardState) -> bool:
        """Whether ``new`` keeps the promise of this state: no older term, no second vote in a term."""
        if new.term != self.term:
            return new.term > self.term
        return self.voted_for is None or new.voted_for == self.voted_for
