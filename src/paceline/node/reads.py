"""Reads by level.  Every answer carries the position of exactly the snapshot that it saw.

    local     this node, now
    session   this node, once it has applied the token's position
    leader    the leader; the answer is held until everything that it contains is committed
    linearizable   any node, once a majority has confirmed the leader and this node has applied what was
                   committed then (``core/readindex.py``); held like ``leader``

    bounded MS  any node whose state is known to be at most so many milliseconds old

How old a state is is measured without anybody else's clock: a read index that was asked for at a moment and is applied
here proves that everything committed before that moment is here.  When the last proof is too old, a new one is
fetched.

Holding the answer, not the read: the snapshot is taken at once.  An answer is held for a position, not for an
index: when a new leader's history takes its place the answer is thrown away.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paceline.engines.base import QueryResult, Value
from paceline.errors import NotLeader, PacelineError, TimedOut, TokenLost, Unavailable, UsageError
from paceline.ids import Index, Position
from paceline.limits import RESULT_BYTES_MAX, RESULT_ROWS_MAX
from paceline.node.locate import end_of
from paceline.node.ports import Lane
from paceline.node.replies import QueryReply

if TYPE_CHECKING:
    from paceline.node.node import Node

__all__ = ["Reads"]

Answer = Callable[[QueryReply | PacelineError], None]
LEVELS = ("local", "session", "leader", "linearizable", "bounded MS")
_CONFIRMED = ("leader", "linearizable", "bounded")
_BOUNDED = re.compile(r"^bounded[ (]+(\d{1,8})\s*(?:ms)?\)?$")
_ASK_AGAIN_MS = 200


@dataclass(slots=True)
class _Held:
    """Something that waits for this node to have applied or committed ``index``."""

    index: Index
    deadline_ms: int
    go: Callable[[], None]
    late: Callable[[], None]


@dataclass(slots=True)
class _Asked:
    """A linearizable read that waits for its read index."""

    deadline_ms: int
    began_ms: int
    asked_ms: int
    go: Callable[[], None]
    fail: Callable[[PacelineError], None]


class Reads:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._asked: dict[int, _Asked] = {}
        self._fresh: tuple[int, Index] = (-(1 << 60), Index(0))
        """When a read index was last asked for that came, and the index: what was committed then."""
        self._numbers = node.ports.random.randrange(1 << 32) << 20
        """Not from zero: an answer to an earlier process of this node must not be taken for one of ours."""
        self._for_applied: list[_Held] = []
        self._for_commit: list[_Held] = []

    def submit(
        self,
        sql: str,
        args: list[Value] | dict[str, Value],
        *,
        read: str,
        token: str | None,
        timeout_ms: int,
        done: Answer,
    ) -> None:
        """Answer a query; ``done`` is called exactly once, on the loop."""
        node = self._node
        deadline_ms = node.ports.now_ms() + timeout_ms
        deadline = node.ports.deadline(timeout_ms)

        def run() -> None:
            node.ports.run(
                Lane.READ,
                lambda: node.engine.query(
                    sql, args, deadline=deadline, rows_max=RESULT_ROWS_MAX, bytes_max=RESULT_BYTES_MAX
                ),
                lambda result: self._answer(result, read, deadline_ms, done),
                lambda error: done(_as_error(error)),
            )

        if node.installing or node.quarantined:
            done(
                Unavailable(
                    f"{node.replica.name} is re-syncing its database", hint="read from another node meanwhile"
                )
            )
        elif read == "local":
            run()
        elif read == "leader":
            if node.leads:
                run()
            else:
                leader = node.replica.leader
                done(NotLeader(f"{node.replica.name} does not lead", leader=str(leader) if leader else None))
        elif read == "session":
            self._session(token, deadline_ms, run, done)
        elif read == "linearizable":
            self._ask(deadline_ms, run, done)
        elif _BOUNDED.match(read):
            if self.is_fresh(read):
                run()
            else:
                self._ask(deadline_ms, run, done)
        else:
            done(UsageError(f"unknown read level {read!r}", hint=f"use one of: {', '.join(LEVELS)}"))

    def is_fresh(self, read: str) -> bool:
        """Whether this node's state is known to be as young as level ``bounded MS`` wants, without asking anybody."""
        bound = _BOUNDED.match(read)
        fresh_ms, index = self._fresh
        return (
            bound is not None
            and self._node.ports.now_ms() - fresh_ms <= int(bound[1])
            and self._node.applied >= index
        )

    def _ask(self, deadline_ms: int, run: Callable[[], None], done: Answer) -> None:
        node, replica = self._node, self._node.replica
        if replica.leader is None:
            done(NotLeader(f"{replica.name} knows no leader now", leader=None, hint="repeat in a moment"))
            return
        self._numbers += 1
        number, now_ms = self._numbers, node.ports.now_ms()
        self._asked[number] = _Asked(deadline_ms, now_ms, now_ms, run, done)
        replica.read_index(number, now_ms)
        node.drain()

    def confirmed(self, indexes: list[tuple[int, Index]]) -> None:
        """The leader has confirmed these reads: run them once their index is applied here."""
        for number, index in indexes:
            asked = self._asked.pop(number, None)
            if asked is None:
                continue
            self._fresh = max(self._fresh, (asked.began_ms, index))

            def late(fail: Callable[[PacelineError], None] = asked.fail) -> None:
                fail(
                    TimedOut(
                        f"{self._node.replica.name} has not applied what was committed in time",
                        hint="read from another node, or allow more time",
                    )
                )

            self.when_applied(index, asked.deadline_ms, asked.go, late)

    def leader_changed(self) -> None:
        """Whoever was asked may not answer any more: ask the new leader."""
        self._ask_again(self._node.ports.now_ms())

    def _ask_again(self, now_ms: int) -> None:
        for number, asked in self._asked.items():
            asked.asked_ms = now_ms
            self._node.replica.read_index(number, now_ms)

    def _session(self, token: str | None, deadline_ms: int, run: Callable[[], None], done: Answer) -> None:
        node = self._node
        if token is None:
            run()
            return
        try:
            position = Position.parse(token)
        except ValueError as error:
            done(UsageError(str(error), hint="pass the position of an earlier answer"))
            return

        def check() -> None:
            lost = self._lost(position)
            if lost is not None:
                done(lost)
            else:
                run()

        def late() -> None:
            behind = position.index - node.applied
            done(
                TimedOut(
                    f"{node.replica.name} has not reached {position.short} in time ({behind} entries behind)",
                    hint="read from another node, or allow more time",
                )
            )

        self.when_applied(position.index, deadline_ms, check, late)

    def _lost(self, token: Position) -> TokenLost | None:
        """A token whose chain is not ours belongs to a history that was taken back."""
        here = self._node.log.position_at(token.index)
        if here is None or here == token:
            return None  # before the log's base: covered by a committed snapshot
        return TokenLost(
            f"position {token.short} is not part of this history",
            hint="the write that gave this token was lost in a failover, or the token is of another cluster",
        )

    def _answer(self, result: QueryResult, read: str, deadline_ms: int, done: Answer) -> None:
        node = self._node
        index = end_of(node.log, result.position, node.anchor)
        position = node.log.position_at(index) if index is not None else None
        reply = QueryReply(
            result,
            str(position) if position else None,
            str(node.replica.leader) if node.replica.leader else None,
            node.replica.term,
            str(node.replica.name),
        )
        if not read.startswith(_CONFIRMED):
            done(reply)
            return
        if index is None or position is None:
            # Nothing was ever written, or what was seen is no longer part of this log.
            if result.position is None or index is not None:
                done(reply)
            else:
                done(self._taken_back())
            return
        if index <= node.replica.commit:
            done(reply)
            return

        def go() -> None:
            here = node.log.position_at(index)
            done(reply if here == position or index < node.log.base.index else self._taken_back())

        def late() -> None:
            done(
                TimedOut(
                    "what the read saw was not committed in time",
                    hint="is a majority of the voters reachable?",
                )
            )

        self._for_commit.append(_Held(index, deadline_ms, go, late))

    def _taken_back(self) -> PacelineError:
        leader = self._node.replica.leader
        return NotLeader(
            f"what the read saw on {self._node.replica.name} was not committed, and a new leader has taken it back",
            leader=str(leader) if leader else None,
            hint="repeat the read",
        )

    # -- waiting -----------------------------------------------------------------

    def when_applied(
        self, index: Index, deadline_ms: int, go: Callable[[], None], late: Callable[[], None]
    ) -> None:
        if index <= self._node.applied:
            go()
        else:
            self._for_applied.append(_Held(index, deadline_ms, go, late))

    def when_committed(
        self, index: Index, deadline_ms: int, go: Callable[[], None], late: Callable[[], None]
    ) -> None:
        if index <= self._node.replica.commit:
            go()
        else:
            self._for_commit.append(_Held(index, deadline_ms, go, late))

    def applied(self) -> None:
        self._for_applied = self._release(self._for_applied, self._node.applied)

    def committed(self) -> None:
        self._for_commit = self._release(self._for_commit, self._node.replica.commit)

    @staticmethod
    def _release(queue: list[_Held], index: Index) -> list[_Held]:
        if not queue:
            return queue
        ready = [held for held in queue if held.index <= index]
        rest = [held for held in queue if held.index > index]
        for held in ready:
            held.go()
        return rest

    def expire(self, now_ms: int) -> None:
        for number in [n for n, asked in self._asked.items() if asked.deadline_ms <= now_ms]:
            self._asked.pop(number).fail(
                TimedOut(
                    "no majority confirmed the leader in time", hint="is a majority of the voters reachable?"
                )
            )
        if any(asked.asked_ms + _ASK_AGAIN_MS <= now_ms for asked in self._asked.values()):
            self._ask_again(now_ms)
            self._node.drain()
        for name in ("_for_applied", "_for_commit"):
            queue: list[_Held] = getattr(self, name)
            late = [held for held in queue if held.deadline_ms <= now_ms]
            if late:
                setattr(self, name, [held for held in queue if held.deadline_ms > now_ms])
                for held in late:
                    held.late()


def _as_error(error: BaseException) -> PacelineError:
    if isinstance(error, PacelineError):
        return error
    return PacelineError(f"the read failed: {type(error).__name__}: {error}")
