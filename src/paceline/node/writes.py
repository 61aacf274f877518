"""The leader's write path: a queue, one group after the other on the state lane, replies later.

While a group waits for disks and peers the next one already runs.  A group is as
large as what had queued up when the state lane became free: alone when idle, up to
the limit under load.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from paceline.core.durability import parse_durability, unsatisfiable
from paceline.core.entry import Entry
from paceline.core.membership import majority
from paceline.engines.base import Group, GroupResult, TookTooLong, WriteRequest
from paceline.errors import (
    NoQuorum,
    NotLeader,
    Overloaded,
    PacelineError,
    TimedOut,
    Unavailable,
    UsageError,
    WritesStopped,
)
from paceline.ids import Index, Position
from paceline.limits import GROUP_GATHER_MS, GROUP_REQUESTS_MAX, LOG_UNSYNCED_BYTES_MAX, WRITE_QUEUE_MAX
from paceline.node.acks import Done, Pending
from paceline.node.quick import GIVE_UP_MS, QuickGroups

if TYPE_CHECKING:
    from paceline.node.node import Node

__all__ = ["Writes"]

_LEVELS_MAX = 256
_BUSY = 8
_CROWD_FADES = 0.95
"""What is left of the largest crowd seen, after each group."""


class Writes:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._queue: deque[Pending] = deque()
        self._levels: dict[str, str] = {}
        """What clients may ask for now, and its canonical text; emptied by ``reconsider``."""
        self._crowd = 0.0
        self._gathering = False
        self._gathered = False
        self._must_be_reachable = False
        """The cluster refuses a write whose durability cannot be reached now."""
        self._quick = QuickGroups()
        self.gave_up = 0
        self.groups = 0
        self.requests = 0
        self.parts = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def busy(self) -> bool:
        """Whether many clients write at once: another group will follow soon."""
        return self._crowd >= _BUSY

    def reconsider(self) -> None:
        """Something changed on which it depends what this node takes: role, membership, a full disk."""
        self._levels.clear()
        membership = self._node.replica.membership
        self._must_be_reachable = membership is not None and membership.settings.unreached == "fail"
        if membership is not None and membership.settings.unreached != "degrade":
            self._node.acks.trust(self._degradation)

    def tick(self, now_ms: int) -> None:
        """Levels that depend on the time: ``first`` passes on when a node is silent, others fall back if they shall."""
        node, membership = self._node, self._node.replica.membership
        if membership is None or not node.leads:
            return
        if membership.settings.unreached == "degrade":
            node.acks.degrade(node.replica, membership.settings.degrade_after_ms, now_ms, self._degradation)
        if node.acks.waiting:
            node.acks.settle(node.replica, now_ms)

    def _degradation(self, level: str, degraded: bool) -> None:
        self._node.ports.event("degraded" if degraded else "restored", durability=level)

    def submit(self, request: WriteRequest, timeout_ms: int, done: Done) -> None:
        """Queue a request; ``done`` is called exactly once, on the loop."""
        level = self._levels.get(request.durability)
        if level is None or len(self._queue) >= WRITE_QUEUE_MAX:
            refused = self._refusal(request.durability)
            if refused is not None:
                done(refused)
                return
            level = self._levels[request.durability]
        if self._must_be_reachable and (
            why := self._node.replica.missing(parse_durability(level), self._node.ports.now_ms())
        ):
            done(
                NoQuorum(  # a client does not repeat it by itself, as it would repeat Unavailable
                    f"{why}; nothing was done",
                    hint="ask for a lower durability, or repeat when they are back",
                )
            )
            return
        request.durability = level
        self._queue.append(Pending(request, done, self._node.ports.now_ms() + timeout_ms))
        self._node.pump_soon()

    def _refusal(self, durability: str) -> PacelineError | None:
        """Why such a request is not taken; None, and the level is known from now on."""
        closed = self._closed_because()
        if closed is not None:
            return closed
        if len(self._queue) >= WRITE_QUEUE_MAX:
            return Overloaded(f"{WRITE_QUEUE_MAX} writes are queued already", hint="slow down and repeat")
        try:
            level = self._level(durability)
        except UsageError as error:
            return error
        if len(self._levels) >= _LEVELS_MAX:
            self._levels.clear()
        self._levels[durability] = level
        return None

    def _closed_because(self) -> PacelineError | None:
        """Why this node takes no writes at all."""
        node, membership = self._node, self._node.replica.membership
        if membership is None or not node.leads_or_will:  # one that will lead in a moment queues what comes
            leader = node.replica.leader
            return NotLeader(f"{node.replica.name} does not lead", leader=str(leader) if leader else None)
        if membership.settings.writes != "on":
            return WritesStopped("writes are stopped", hint="start them again with: paceline writes start")
        if node.disk_full is not None:
            return node.disk_full
        voters = len(membership.voters)
        if voters < majority(voters + len(membership.forming)):
            missing = ", ".join(membership.forming)
            return Unavailable(f"the cluster is forming: waiting for {missing}", hint="start these nodes")
        return None

    def _level(self, durability: str) -> str:
        """The level's canonical text; ``UsageError`` when this cluster can never reach it."""
        membership = self._node.replica.membership
        assert membership is not None
        level = parse_durability(durability)
        followers = frozenset(str(m.name) for m in membership.members) - {str(self._node.replica.name)}
        why = unsatisfiable(level, followers)
        if why is not None:
            raise UsageError(why, hint="choose a durability that this cluster can reach")
        return str(level)

    def ready(self) -> bool:
        """Whether a group may start now.

        A group costs the same whether it is small or large.  So it waits a moment until as many requests
        stand in the queue as there were clients lately, but no longer than ``GROUP_GATHER_MS``.
        """
        if (
            not self._queue
            or self._node.switching.pausing
            or self._node.log.staged_bytes >= LOG_UNSYNCED_BYTES_MAX
        ):
            return False
        if self._gathered or len(self._queue) >= min(self._crowd, GROUP_REQUESTS_MAX):
            return True
        if not self._gathering:
            self._gathering = True
            self._node.ports.later(GROUP_GATHER_MS, self._gather_over)
        return False

    def _gather_over(self) -> None:
        self._gathering = False
        self._gathered = True
        self._node.pump()

    def start_group(self) -> bool:
        """Reserve the next place and run what is queued; False when the place is taken."""
        node = self._node
        self._gathered = False
        self._crowd = max(len(self._queue) + node.acks.waiting, self._crowd * _CROWD_FADES)
        batch = self._collect()
        if not batch:
            return False
        slot = node.replica.reserve()
        if slot is None:
            self._queue.extendleft(reversed(batch))
            return False
        requests = [queued.request for queued in batch]
        now_ms = node.ports.now_ms()
        settings = node.replica.membership.settings if node.replica.membership else None
        gap = settings.ids_left_out if settings else 0
        group = Group(slot, requests, node.ports.wall_us(), self._emit, id_gap=gap)
        if self._quick.fits(requests, now_ms):
            group.give_up_at = node.ports.deadline(GIVE_UP_MS)
            node.run_state(
                lambda: node.engine.run_group(group),
                lambda result: self._group_done(batch, result),
                lambda error: self._gave_up(group, batch, error),
                quick=True,
            )
        else:
            self._run_on_lane(group, batch)
        return True

    def _run_on_lane(self, group: Group, batch: list[Pending]) -> None:
        node, started_ms = self._node, self._node.ports.now_ms()

        def done(result: GroupResult) -> None:
            now_ms = node.ports.now_ms()
            self._quick.learn(group.requests, now_ms - started_ms, now_ms)
            self._group_done(batch, result)

        node.run_state(lambda: node.engine.run_group(group), done)

    def _gave_up(self, group: Group, batch: list[Pending], error: BaseException) -> None:
        """A group that was thought quick was not: nothing of it happened, it runs again where it may take its time."""
        if not isinstance(error, TookTooLong):
            self._node.ports.fatal(error)
            return
        self.gave_up += 1
        self._quick.learn(group.requests, GIVE_UP_MS, self._node.ports.now_ms())
        group.give_up_at = None
        self._run_on_lane(group, batch)

    def _collect(self) -> list[Pending]:
        now_ms = self._node.ports.now_ms()
        batch: list[Pending] = []
        while self._queue and len(batch) < GROUP_REQUESTS_MAX:
            queued = self._queue.popleft()
            if queued.deadline_ms <= now_ms:
                queued.done(
                    TimedOut("the time limit passed before the write could start; nothing was changed")
                )
            else:
                batch.append(queued)
        return batch

    def _emit(self, part: Entry) -> None:
        """State lane: a part of a large transaction is ready."""
        node = self._node
        node.ports.wait_for_room(len(part.record))
        node.ports.post(lambda: self._part(part))

    def _part(self, part: Entry) -> None:
        self.parts += 1
        self._node.append([part], [])

    def _group_done(self, batch: list[Pending], result: GroupResult) -> None:
        node = self._node
        self.groups += 1
        self.requests += len(batch)
        if result.entry is not None:
            appended = node.append([result.entry], [result.local] if result.local else [])
            if not appended:
                lost = NotLeader(
                    f"{node.replica.name} lost its leadership before the write was logged; it is undone",
                    leader=node.replica.leader,
                )
                for queued in batch:
                    queued.done(lost)
                return
            node.set_applied(result.entry.index)
        self._wait(batch, result, result.entry.position if result.entry else node.replica.last)
        if node.leads_or_will:
            node.acks.settle(node.replica, node.ports.now_ms())
        node.replica.release(node.ports.now_ms())
        node.drain()

    def _wait(self, batch: list[Pending], result: GroupResult, position: Position) -> None:
        acks, now_ms = self._node.acks, self._node.ports.now_ms()
        levels: dict[str, list[Pending]] = {}
        for queued, outcome in zip(batch, result.outcomes, strict=True):
            queued.outcome = outcome
            level = queued.request.durability
            if outcome.repeated_at is not None:
                acks.add(level, self._earlier(outcome.repeated_at) or position, [queued], now_ms)
            elif level in levels:
                levels[level].append(queued)
            else:
                levels[level] = [queued]
        for level, replies in levels.items():
            acks.add(level, position, replies, now_ms)

    def _earlier(self, first_index: Index) -> Position | None:
        """End position of the transaction that a repeated request belongs to, while the log still knows it."""
        return self._node.log.position_at(first_index)

    def abandon(self, leader: str | None) -> None:
        """This node no longer leads: nothing that only waited in the queue has happened."""
        while self._queue:
            self._queue.popleft().done(
                NotLeader("the leader changed before the write started", leader=leader)
            )
