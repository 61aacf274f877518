"""What a client has seen: its session token, and what a change of leader put in doubt.

Positions print in a fixed width and sort as text, so 'newest' is the greater text.  Within one term
the newest one includes all the others.  A position of a *later* term need not: the new leader may lack
what was only acknowledged at a low level, or only read from the old leader's database.  So the last position of the
older term stays *doubtful* until a node says that it is committed; ``read="session"`` asks first and
raises ``TokenLost`` rather than show an older state.  Pure.
"""

from __future__ import annotations

from typing import Any, Final

from paceline.client.results import ExecuteResult, QueryResult, Receipt
from paceline.errors import TokenLost, UsageError
from paceline.ids import Position

__all__ = ["Tokens", "position_of"]

_DOUBTFUL_MAX: Final = 8
_COMMITTED: Final = frozenset({"quorum", "all"})
"""Levels that no legal failover takes back."""


class Tokens:
    """``newest`` is the session token."""

    def __init__(self) -> None:
        self._newest: str | None = None
        self._committed = ""
        self.doubtful: list[str] = []
        """Oldest first: positions of earlier terms that nobody has called committed yet."""

    @property
    def newest(self) -> str | None:
        return self._newest

    @newest.setter
    def newest(self, token: str | None) -> None:
        """The application says what it has seen: all doubts are over."""
        self._newest, self._committed = token, ""
        self.doubtful.clear()

    def see(self, result: Any) -> None:
        """A result came back."""
        kind = type(result)
        if kind is ExecuteResult:
            receipt = result.receipt
            if receipt is None:
                return
            position = receipt.position
            if receipt.durability in _COMMITTED and position > self._committed:
                self._committed = position
        elif kind is QueryResult:
            position = result.position
        else:
            return
        newest = self._newest
        if position is None or (newest is not None and position <= newest):
            return
        if newest is not None and _term(newest) != _term(position) and newest > self._committed_in(newest):
            self.doubtful = [*self.doubtful[-(_DOUBTFUL_MAX - 1) :], newest]
        self._newest = position

    def _committed_in(self, token: str) -> str:
        return self._committed if _term(self._committed) == _term(token) else ""

    def judged(self, token: str, outcome: str) -> None:
        """What a node says about a doubtful position.  Raises ``TokenLost``; the doubt stays then."""
        if outcome == "lost":
            raise TokenLost(
                f"position {token} that this client has seen was lost in a failover",
                hint="set client.token = None to accept the cluster's present state; paceline lost list shows what "
                "was lost",
            )
        if outcome != "pending" and token in self.doubtful:
            self.doubtful.remove(token)


def _term(token: str) -> str:
    return token.partition("-")[0]


def position_of(place: ExecuteResult | Receipt | str) -> str:
    """The position that a receipt, a result or a text names.  Raises ``UsageError``."""
    if isinstance(place, ExecuteResult):
        if place.receipt is None:
            raise UsageError("this result has no receipt")
        place = place.receipt
    text = place.position if isinstance(place, Receipt) else place
    try:
        return str(Position.parse(text))
    except (ValueError, TypeError) as error:
        raise UsageError(str(error), hint="pass a receipt or its position") from None
