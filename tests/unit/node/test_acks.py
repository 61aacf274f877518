"""Replies wait for their level, fall back where the cluster says so, and come back by themselves."""

from __future__ import annotations

from typing import Any

from paceline.core.durability import Durability, Level
from paceline.engines.base import Outcome, WriteRequest
from paceline.errors import OutcomeUnknown, PacelineError
from paceline.ids import GENESIS, Index, NodeId, Position, Term
from paceline.node.acks import Acks, Pending
from paceline.node.replies import WriteReply


class Leader:
    """As much of a replica as acknowledgements look at."""

    name = NodeId("n1")
    term = Term(3)
    followers: dict[NodeId, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.local = self.all = Index(0)

    @property
    def durable(self) -> Index:
        return self.local

    def reached(self, durability: Durability, now_ms: int) -> Index:
        return self.local if durability.level is Level.LOCAL else self.all


def at(index: int) -> Position:
    return Position(Term(3), Index(index), GENESIS.chain)


class Story:
    def __init__(self) -> None:
        self.acks = Acks()
        self.leader = Leader()
        self.replies: list[WriteReply | PacelineError] = []
        self.changes: list[tuple[str, bool]] = []

    def write(self, index: int, *, level: str = "all", now_ms: int = 0, deadline_ms: int = 60_000) -> None:
        request = WriteRequest([("x", [])], level)
        pending = Pending(request, self.replies.append, deadline_ms, Outcome(results=[]))
        self.acks.add(level, at(index), [pending], now_ms)

    def tick(self, now_ms: int) -> None:
        leader: Any = self.leader
        self.acks.degrade(leader, 1_000, now_ms, lambda level, on: self.changes.append((level, on)))
        self.acks.settle(leader, now_ms)

    def receipts(self) -> list[tuple[str, str | None]]:
        got: list[tuple[str, str | None]] = []
        for reply in self.replies:
            assert isinstance(reply, WriteReply) and reply.receipt is not None
            got.append((reply.receipt.durability, reply.receipt.asked))
        return got


def test_level_that_is_not_reached_in_time_falls_back_and_says_so() -> None:
    story = Story()
    story.write(5)
    story.leader.local = Index(5)
    story.tick(900)
    assert not story.replies and not story.changes
    story.tick(1_001)
    assert story.changes == [("all", True)]
    assert story.receipts() == [("local", "all")]
    assert story.acks.degraded == ["all"]


def test_while_it_is_degraded_nobody_waits_longer_than_for_the_leaders_disk() -> None:
    story = Story()
    story.write(5)
    story.leader.local = Index(5)
    story.tick(1_001)
    story.write(6, now_ms=1_010)
    story.tick(1_020)
    assert len(story.replies) == 1, "not even the leader has it on disk"
    story.leader.local = Index(6)
    story.tick(1_030)
    assert story.receipts() == [("local", "all"), ("local", "all")]


def test_level_comes_back_when_what_was_answered_has_reached_it() -> None:
    story = Story()
    story.write(5)
    story.leader.local = Index(5)
    story.tick(1_001)
    story.leader.all = Index(4)
    story.tick(1_100)
    assert story.acks.degraded == ["all"]
    story.leader.all = Index(5)
    story.tick(1_200)
    assert story.changes == [("all", True), ("all", False)] and not story.acks.degraded
    story.write(7, now_ms=1_210)
    story.leader.local = Index(7)
    story.tick(1_220)
    assert len(story.replies) == 1, "it waits for its level again"


def test_the_leaders_own_disk_is_never_waived() -> None:
    story = Story()
    story.write(5, level="local")
    story.tick(5_000)
    assert not story.replies and not story.changes


def test_time_limit_ends_the_wait_with_an_open_outcome() -> None:
    story = Story()
    story.write(5, deadline_ms=500)
    story.acks.expire(501)
    assert isinstance(story.replies[0], OutcomeUnknown)


def test_who_was_acknowledged_is_known_for_reigns_of_this_process() -> None:
    story = Story()
    story.write(5)
    story.write(6)
    story.leader.all = Index(5)
    story.tick(1)
    assert story.acks.told(Term(3), Index(5)) == {"all"}
    assert story.acks.told(Term(3), Index(6)) == frozenset()
    assert story.acks.told(Term(2), Index(5)) is None


def test_somebody_waits_for_databases_only_with_applied() -> None:
    story = Story()
    story.write(5)
    assert not story.acks.want_applied
    story.write(6, level="all+applied")
    assert story.acks.want_applied
