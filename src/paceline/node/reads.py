"""Reads by level.  Every answer carries the position of exactly the snapshot that it saw.

    local     this node, now
    session   this node, once it has applied the token's position
    leader    the leader; the answer is held until everything that it contains is committed

Holding the answer, not the read: the snapshot is taken at once.
"""

from __future__ import annotations

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
LEVELS = ("local", "session", "leader")


@dataclass(slots=True)
class _Held:
    """Something that waits for this node to have applied or committed ``index``."""

    index: Index
    deadline_ms: int
    go: Callable[[], None]
    late: Callable[[], None]


class Reads:
    def __init__(self, node: Node) -> None:
        self._node = node
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
        else:
            done(UsageError(f"unknown read level {read!r}", hint=f"use one of: {', '.join(LEVELS)}"))

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
        if read != "leader" or index is None or index <= node.replica.commit:
            done(reply)
            return

        def late() -> None:
            done(
                TimedOut(
                    "what the read saw was not committed in time",
                    hint="is a majority of the voters reachable?",
                )
            )

        self._for_commit.append(_Held(index, deadline_ms, lambda: done(reply), late))

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
