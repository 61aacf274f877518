"""A flush says what it made durable, also of what was staged before the log's lane came to it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from paceline.core.hardstate import HardState
from paceline.ids import GENESIS, NodeId, Term
from paceline.node.syncing import Syncing

OLD = HardState(term=Term(1), voted_for=None, leader=None)
NEW = HardState(term=Term(2), voted_for=NodeId("n1"), leader=None)


class Lane:
    """The log's lane, one step at a time."""

    def __init__(self) -> None:
        self.flushes: list[Any] = []
        self.saved: list[HardState] = []
        self.node: Any = SimpleNamespace(
            log=SimpleNamespace(
                pending=True, only_appends=False, staged_bytes=0, durable=GENESIS, flush=lambda: GENESIS
            ),
            replica=SimpleNamespace(
                hard_state=OLD,
                saved=lambda state, _: self.saved.append(state),
                durable_to=lambda *_: None,
                history=SimpleNamespace(index=0),
            ),
            ports=SimpleNamespace(
                run=lambda _lane, _work, done, _failed: self.flushes.append(done),
                now_ms=lambda: 0,
                made_room=lambda: None,
                send=lambda *_: None,
            ),
            engine_leads=False,
            installing=False,
            state_busy=False,
            drain=lambda: None,
            pump=lambda: None,
        )
        anchor: Any = SimpleNamespace(memberships=((1, None),))
        self.syncing = Syncing(self.node, "anchor", anchor)

    def stage_as_a_new_leader(self) -> None:
        """The capture mark of a new reign, and the vote before it."""
        self.node.engine_leads = True
        self.node.replica.hard_state = NEW
        self.node.log.pending = True
        self.syncing.flush()

    def end_flush(self, *, took_everything: bool) -> None:
        self.node.log.pending = not took_everything
        self.flushes.pop(0)(GENESIS)


def test_mark_that_went_with_a_flush_begun_before_it_opens_the_way_for_groups() -> None:
    lane = Lane()
    lane.syncing.flush()
    lane.stage_as_a_new_leader()  # before the lane has looked at what is planned
    assert len(lane.flushes) == 1
    lane.end_flush(took_everything=True)
    assert lane.syncing.marked, "no other flush will ever come to say so"
    assert lane.saved == [NEW]


def test_mark_that_came_too_late_for_a_flush_waits_for_the_next() -> None:
    lane = Lane()
    lane.syncing.flush()
    lane.stage_as_a_new_leader()  # when the lane was at work already
    lane.end_flush(took_everything=False)
    assert not lane.syncing.marked and lane.saved == [OLD]
    lane.syncing.flush()
    lane.end_flush(took_everything=True)
    assert lane.syncing.marked and lane.saved == [OLD, NEW]
