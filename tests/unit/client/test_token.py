"""The session token, and what a change of leader puts in doubt."""

from __future__ import annotations

import pytest

from paceline.client.results import ExecuteResult, QueryResult, Receipt
from paceline.client.token import Tokens, position_of
from paceline.errors import TokenLost, UsageError


def at(term: int, index: int) -> str:
    return f"{term:08d}-{index:014d}-{index:032x}"


def write(term: int, index: int, durability: str = "async") -> ExecuteResult:
    return ExecuteResult([], Receipt(at(term, index), term, index, durability, [], [], "n"))


def read(position: str | None) -> QueryResult:
    return QueryResult([], [], [], position, None, 1, "n")


def test_token_only_grows() -> None:
    tokens = Tokens()
    for result in (
        write(1, 2),
        write(1, 1),
        read(at(1, 3)),
        read(None),
        {"any": "thing"},
        ExecuteResult([], None),
    ):
        tokens.see(result)
    assert tokens.newest == at(1, 3)
    assert not tokens.doubtful, "within one reign the newest position includes the others"


def test_what_an_older_reign_acknowledged_below_commit_is_doubtful_in_the_next() -> None:
    tokens = Tokens()
    tokens.see(write(1, 9))
    tokens.see(write(2, 5))
    assert tokens.newest == at(2, 5) and tokens.doubtful == [at(1, 9)]
    tokens.judged(at(1, 9), "pending")
    assert tokens.doubtful, "nobody has called it committed yet"
    with pytest.raises(TokenLost, match="lost in a failover"):
        tokens.judged(at(1, 9), "lost")
    with pytest.raises(TokenLost):
        tokens.judged(at(1, 9), "lost")  # until the application has taken note
    tokens.newest = None
    assert not tokens.doubtful
    tokens.see(write(1, 9))
    tokens.see(read(at(2, 5)))
    tokens.judged(at(1, 9), "committed")
    assert not tokens.doubtful


def test_committed_writes_are_never_doubtful() -> None:
    tokens = Tokens()
    tokens.see(write(1, 8))
    tokens.see(write(1, 9, "quorum"))
    tokens.see(write(2, 12))
    assert not tokens.doubtful
    tokens.see(write(3, 11))
    assert tokens.doubtful == [at(2, 12)]


def test_doubts_are_bounded() -> None:
    tokens = Tokens()
    for term in range(1, 40):
        tokens.see(write(term, term))
    assert len(tokens.doubtful) == 8 and tokens.doubtful[-1] == at(38, 38)


def test_a_position_may_be_given_in_three_ways() -> None:
    result = write(1, 2)
    assert result.receipt is not None
    assert position_of(result) == position_of(result.receipt) == position_of(at(1, 2)) == at(1, 2)
    with pytest.raises(UsageError, match="no receipt"):
        position_of(ExecuteResult([], None))
    with pytest.raises(UsageError, match="not a position"):
        position_of("1/2")
