"""``node.ports.Ports`` on the simulated world.

LOG and STATE work runs as strands: it begins after a short delay, every sync in it takes
time during which the world goes on, and its effects between two pauses are
atomic.  READ work runs at one moment after a delay, quick work at once.  Results and posts reach the loop in
order, a little later: a node can die between 'durable' and 'known to be durable'.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from paceline.core.effects import Random
from paceline.core.messages import Message
from paceline.files import Steps, perform
from paceline.ids import NodeId
from paceline.node.ports import Lane
from paceline.sim.disk import PowerCut
from paceline.sim.strands import Ended, Strand, in_strand, pause
from paceline.sim.world import Life, World

__all__ = ["Latencies", "Outside", "SimPorts"]

T = TypeVar("T")
_POLL_US = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """In microseconds, (least, most); drawn anew each time."""

    sync_us: tuple[int, int]
    state_us: tuple[int, int]
    read_us: tuple[int, int]
    loop_us: tuple[int, int]


class Outside(Protocol):
    """The process around the node."""

    name: NodeId

    def wall_us(self) -> int: ...

    def send(self, to: NodeId, message: Message) -> None: ...

    def fetch_snapshot(self, leader: NodeId) -> None: ...

    def event(self, kind: str, details: dict[str, Any]) -> None: ...

    def fatal(self, error: BaseException) -> None: ...

    @property
    def dark(self) -> bool:
        """The power went during the last operation of its disk."""
        ...


@dataclass(slots=True)
class _Job:
    work: Callable[[], Any]
    done: Callable[[Any], None]
    failed: Callable[[BaseException], None]


class SimPorts:
    def __init__(self, world: World, life: Life, outside: Outside, latencies: Latencies) -> None:
        self._world = world
        self._life = life
        self._outside = outside
        self._latencies = latencies
        self._rng = world.rng(f"ports/{life.name}")
        self.random: Random = world.rng(f"node/{life.name}")
        self._queues: dict[Lane, deque[_Job]] = {lane: deque() for lane in Lane}
        self._busy: set[Lane] = set()
        self._strands: list[Strand] = []
        self._loop_free_us = 0
        self.send = outside.send
        self.fetch_snapshot = outside.fetch_snapshot
        self.fatal = outside.fatal

    # -- time ----------------------------------------------------------------------------

    def now_ms(self) -> int:
        return self._world.now_us // 1000

    def wall_us(self) -> int:
        return self._outside.wall_us()

    def deadline(self, timeout_ms: int) -> float:
        return self._world.now_us / 1e6 + timeout_ms / 1000

    def later(self, delay_ms: int, call: Callable[[], None]) -> None:
        self._world.at(delay_ms * 1000, call, self._life)

    # -- lanes ----------------------------------------------------------------------------

    def run(
        self,
        lane: Lane,
        work: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[BaseException], None],
        *,
        quick: bool = False,
    ) -> None:
        job = _Job(work, done, failed)
        if lane is Lane.READ:
            self._world.at(self._draw(self._latencies.read_us), lambda: self._at_once(job), self._life)
            return
        if quick:
            self._at_once(job)
            return
        self._queues[lane].append(job)
        if lane not in self._busy:
            self._next(lane)

    def run_steps(
        self, steps: Steps[T], done: Callable[[T], None], failed: Callable[[BaseException], None]
    ) -> None:
        """Both ways that there are: other things happen during the sync, or nothing does."""
        self.run(Lane.LOG, lambda: perform(steps), done, failed, quick=self._rng.random() < 0.5)

    def _at_once(self, job: _Job) -> None:
        try:
            result = job.work()
        except Exception as error:
            if self._outside.dark:
                raise PowerCut(f"told as {error!r}") from error
            self._to_loop(lambda error=error: job.failed(error))  # type: ignore[misc]
        else:
            self._to_loop(lambda: job.done(result))

    def _next(self, lane: Lane) -> None:
        self._busy.discard(lane)
        if not self._queues[lane]:
            return
        self._busy.add(lane)
        job = self._queues[lane].popleft()
        delay = self._draw(self._latencies.state_us) if lane is Lane.STATE else 0

        def begin() -> None:
            strand = Strand(job.work)
            self._strands.append(strand)
            self._advance(lane, job, strand)

        self._world.at(delay, begin, self._life)

    def _advance(self, lane: Lane, job: _Job, strand: Strand) -> None:
        report = strand.resume()
        if not isinstance(report, Ended):
            self._world.at(report.delay_us, lambda: self._advance(lane, job, strand), self._life)
            return
        self._strands.remove(strand)
        error = report.error
        if isinstance(error, PowerCut):
            raise error
        if error is not None and self._outside.dark:
            raise PowerCut(f"told as {error!r}") from error
        if error is not None:
            self._to_loop(lambda: job.failed(error))
        else:
            self._to_loop(lambda: job.done(report.result))
        self._next(lane)

    def flush_from_lane(self, flush: Callable[[], Any]) -> None:
        """From the state lane: a flush on the log lane, waited for."""
        result: list[BaseException | None] = []
        self.run(Lane.LOG, flush, lambda _: result.append(None), result.append)
        assert in_strand()
        while not result:
            pause(_POLL_US)
        if result[0] is not None:
            raise result[0]

    def kill(self) -> None:
        """The process is gone: unwind what its lanes were doing."""
        strands, self._strands = self._strands, []
        for strand in strands:
            strand.kill(PowerCut("the process is gone"))

    # -- to the loop ------------------------------------------------------------------------

    def soon(self, call: Callable[[], None]) -> None:
        self._to_loop(call)

    def post(self, call: Callable[[], None]) -> None:
        self._to_loop(call)

    def _to_loop(self, call: Callable[[], object]) -> None:
        at = max(self._loop_free_us, self._world.now_us + self._draw(self._latencies.loop_us))
        self._loop_free_us = at
        self._world.at(at - self._world.now_us, call, self._life)

    def ask(self, call: Callable[[], T]) -> T:
        pause(self._draw(self._latencies.loop_us))
        return call()

    def wait_for_room(self, size: int) -> None:
        pause(self._draw(self._latencies.loop_us))

    def made_room(self) -> None:
        pass

    def event(self, kind: str, **details: Any) -> None:
        self._outside.event(kind, details)

    def _draw(self, limits: tuple[int, int]) -> int:
        low, high = limits
        return self._rng.randint(low, high)
