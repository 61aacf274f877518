"""What a node must never forget: its term, its vote, and whom it last followed.

The file behind it is ``log/vote.py``; the rule is Raft's (Ongaro 2014, section
3.8): durable before any message that depends on it leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.ids import NodeId, Term

__all__ = ["HardState"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HardState:
    """``voted_for``: whom this node voted for (or first accepted as leader) in ``term``.

    ``leader``: the leader whose entries stand at the end of this node's log; it
    survives a rise of the term, and lets a designated leader that lost
    an unsynced tail come back (see ``election.py``).
    """

    term: Term
    voted_for: NodeId | None
    leader: NodeId | None
