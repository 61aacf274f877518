"""Who may campaign and who gets a vote: pure rules, no state.

Raft's election restriction: a vote goes only to a log at least as up to date as
the voter's own.  Two authorities use it:

``auto``        any voter may campaign; the restriction is strict.
``designated``  only the configured leader campaigns.  A committed entry is always
                durable on *it* (see ``leading.py``), so when the tail of the voter's log came from that
                same leader, its log may be shorter: what it lacks was shipped before its own sync and never
                committed.  A newly designated node must satisfy the strict rule.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.core.hardstate import HardState
from paceline.core.membership import Settings
from paceline.core.messages import VoteRequest
from paceline.ids import NodeId, Position

__all__ = ["Ballot", "may_campaign", "refusal"]


def may_campaign(name: NodeId, settings: Settings, *, voter: bool) -> bool:
    if not voter:
        return False
    return settings.authority == "auto" or settings.leader == name


def refusal(
    candidate: NodeId, request: VoteRequest, *, state: HardState, last: Position, settings: Settings | None
) -> str | None:
    """Why this vote is not given, or None when it is.  Terms are equal here (or ``pre``)."""
    if not request.pre and state.voted_for not in (None, candidate):
        return f"voted for {state.voted_for} in term {state.term}"
    designated = settings is not None and settings.authority == "designated"
    if settings is not None and designated and settings.leader != candidate:
        return f"{settings.leader} is the designated leader"
    if (request.last_term, request.last_index) >= (last.term, last.index):
        return None
    if designated and state.leader == candidate:
        return None
    return f"log is behind: {request.last_term}/{request.last_index} < {last.short}"


@dataclass(slots=True)
class Ballot:
    """Votes of one campaign."""

    pre: bool
    granted: set[NodeId]
    refused: dict[NodeId, str]

    def won(self, voters: frozenset[NodeId]) -> bool:
        return len(self.granted & voters) >= len(voters) // 2 + 1

    def lost(self, voters: frozenset[NodeId]) -> bool:
        return len(self.refused.keys() & voters) >= len(voters) - len(voters) // 2
