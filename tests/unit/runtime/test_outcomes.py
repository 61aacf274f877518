"""What became of a write: every row of the table in ``outcomes.py``."""

from __future__ import annotations

import pytest

from paceline.ids import Index, Position, Term
from paceline.runtime.outcomes import outcome_of


def at(term: int, index: int, history: str = "a") -> Position:
    return Position(Term(term), Index(index), (history * 16).encode()[:16])


class Log:
    """Entries 5 to 9; the last two of term 2."""

    entries = {index: at(1 if index < 8 else 2, index) for index in range(5, 10)}  # noqa: RUF012

    def position_at(self, index: Index) -> Position | None:
        return self.entries.get(index)


@pytest.mark.parametrize(
    ("place", "commit", "outcome"),
    [
        (at(1, 6), 9, "committed"),
        (at(1, 6, "b"), 9, "lost"),
        (at(1, 4), 9, "unknown"),  # retention dropped it
        (at(1, 10), 9, "lost"),  # behind a committed entry of a later term
        (at(1, 9, "b"), 8, "lost"),
        (at(2, 9), 8, "pending"),
        (at(2, 9, "b"), 8, "unknown"),
        (at(2, 10), 9, "unknown"),  # this node may be behind
        (at(3, 10), 9, "unknown"),
        (at(1, 7), 6, "pending"),
        (at(1, 7, "b"), 6, "unknown"),  # nothing of the later term is committed yet
    ],
)
def test_outcome_follows_from_chain_and_commit(place: Position, commit: int, outcome: str) -> None:
    assert outcome_of(place, Log(), Index(commit)) == outcome
