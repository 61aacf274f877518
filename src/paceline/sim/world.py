"""The simulated world: one heap of events, one clock, one seed.

Everything happens in one thread, in the order (time, sequence number).  Each source of
randomness is split off the seed by a stable name, so adding one
does not move the others.  Nothing reads the machine's clock, nothing iterates a
set of strings: the same seed gives the same trace, also under another
``PYTHONHASHSEED``.

An event belongs to a *life* (one incarnation of a process) or to the world.  When the life
has ended the event is dropped: what a dead process still had in mind never happens.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["Life", "Violation", "World"]

_STAMP: Final = struct.Struct(">QQ")
_TAIL_LINES: Final = 200
_STEPS_MAX: Final = 1_000_000
"""Many times what the busiest seed needs."""


class Violation(Exception):
    """An invariant does not hold.  ``rule`` names the checker."""

    def __init__(self, rule: str, details: str) -> None:
        super().__init__(f"{rule}: {details}")
        self.rule = rule
        self.details = details


class Life:
    """One incarnation of a process.

    ``call`` runs its code and deals with whatever that raises; while the process is stopped (as by SIGSTOP) it only
    notes what is to be run, and that happens when it goes on: first what has arrived, in order, then its
    own timers and results, as an event loop does that finds everything ready at once.
    """

    def __init__(self, name: str, call: Callable[[Callable[[], object]], None]) -> None:
        self.name = name
        self.alive = True
        self.stopped = False
        self.held: deque[Callable[[], object]] | None = None
        """What has arrived and waits; None when nothing has to."""
        self._own: deque[Callable[[], object]] = deque()
        self._call = call

    def call(self, what: Callable[[], object]) -> None:
        if self.held is not None:
            self.held.append(what)
        else:
            self._call(what)

    def call_own(self, what: Callable[[], object]) -> None:
        """The same for what the process itself has set going."""
        if self.held is not None:
            self._own.append(what)
        else:
            self._call(what)

    def call_next(self) -> bool:
        """Run the next of what waits; False when there is nothing more, and nothing has to wait any longer."""
        queue = self.held or self._own
        if not queue:
            self.held = None
            return False
        self._call(queue.popleft())
        return True


class World:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now_us = 0
        self.steps = 0
        self.after_step: Callable[[Life | None], None] = lambda life: None
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._heap: list[tuple[int, int, Life | None, Callable[[], object]]] = []
        self._seq = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._hidden: str | None = None

    def rng(self, name: str) -> random.Random:
        """The random source of that name."""
        return random.Random(f"{self.seed}/{name}")

    def at(self, delay_us: int, call: Callable[[], object], life: Life | None = None) -> None:
        """Let ``call`` happen after ``delay_us``, if ``life`` still lasts then."""
        assert delay_us >= 0
        self._seq += 1
        heapq.heappush(self._heap, (self.now_us + delay_us, self._seq, life, call))

    def stop(self, life: Life) -> None:
        """From now on nothing happens in this process; the clocks go on."""
        life.stopped = True
        if life.held is None:
            life.held = deque()

    def go_on(self, life: Life) -> None:
        """The process runs again: first everything that arrived meanwhile."""
        life.stopped = False
        self._catch_up(life)

    def _catch_up(self, life: Life) -> None:
        if not life.stopped and life.alive and life.held is not None and life.call_next():
            self.after_step(life)
            self.at(1, lambda: self._catch_up(life))

    def step(self) -> bool:
        """The next event; False when there is none."""
        if not self._heap:
            return False
        self.now_us, seq, life, call = heapq.heappop(self._heap)
        if life is None:
            call()
        elif life.alive:
            life.call_own(call)
        else:
            return True
        self.steps += 1
        if self.steps > _STEPS_MAX:
            raise Violation("no_livelock", f"{_STEPS_MAX} events in {self.now_us // 1000} ms")
        self._hash.update(_STAMP.pack(self.now_us, seq))
        self.after_step(life)
        return True

    def run_until(self, end_us: int, done: Callable[[], bool] = lambda: False) -> bool:
        """Run to ``end_us``; True when ``done`` became true before."""
        checked = self.now_us
        while self._heap and self._heap[0][0] <= end_us:
            self.step()
            if self.now_us - checked > 50_000:
                checked = self.now_us
                if done():
                    return True
        self.now_us = max(self.now_us, end_us)
        return done()

    def hide(self, text: str) -> None:
        """Leave this out of the trace: a name that is another one in each run."""
        self._hidden = text

    def trace(self, text: str) -> None:
        """Part of the run's identity, and shown when an invariant breaks."""
        if self._hidden is not None:
            text = text.replace(self._hidden, "")
        line = f"{self.now_us / 1000:10.3f} {text}"
        self.tail.append(line)
        self._hash.update(line.encode())

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()
