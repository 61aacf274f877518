"""Strands: work of a lane that can be suspended in the middle of a call.

The shipped log and the shipped install plan block while they sync.  To let the world go
on meanwhile (entries are staged during a flush, a node dies between two syncs) such
work runs in a thread of its own, but strictly hand to hand: either the
world runs or exactly one strand does, so nothing is concurrent and
everything stays deterministic.

``pause`` is called deep inside (by the simulated disk's sync); on the loop,
where no strand runs, it does nothing.
"""

from __future__ import annotations

import threading
from _thread import allocate_lock
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Ended", "Paused", "Strand", "in_strand", "pause"]


@dataclass(frozen=True, slots=True)
class Paused:
    """The strand wants to go on after ``delay_us``."""

    delay_us: int


@dataclass(frozen=True, slots=True)
class Ended:
    result: Any
    error: BaseException | None


class _Thread:
    """A thread that waits for its turn; reused by later strands."""

    def __init__(self) -> None:
        self.turn = allocate_lock()
        self.turn.acquire()
        self.back = allocate_lock()
        self.back.acquire()
        self.work: Callable[[], Any] = lambda: None
        self.report: Paused | Ended = Paused(0)
        self.raising: BaseException | None = None
        threading.Thread(target=self._loop, name="strand", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self.turn.acquire()
            try:
                self.report = Ended(self.work(), None)
            except BaseException as error:
                self.report = Ended(None, error)
            self.back.release()

    def go(self) -> Paused | Ended:
        self.turn.release()
        self.back.acquire()
        return self.report


_idle: list[_Thread] = []
_running: list[Strand] = []


class Strand:
    def __init__(self, work: Callable[[], Any]) -> None:
        self._thread = _idle.pop() if _idle else _Thread()
        self._thread.work = work
        self._thread.raising = None
        self.ended = False

    def resume(self, raising: BaseException | None = None) -> Paused | Ended:
        """Run until the next pause or the end; ``raising`` comes out of the pause."""
        assert not self.ended
        thread = self._thread
        thread.raising = raising
        _running.append(self)
        report = thread.go()
        _running.pop()
        if isinstance(report, Ended):
            self.ended = True
            _idle.append(thread)
        return report

    def kill(self, error: BaseException) -> None:
        """Unwind: the process is gone.  Whatever it still tries is refused in the same way."""
        while not self.ended:
            self.resume(error)

    def suspend(self, delay_us: int) -> None:
        thread = self._thread
        thread.report = Paused(delay_us)
        thread.back.release()
        thread.turn.acquire()
        if thread.raising is not None:
            raise thread.raising


def in_strand() -> bool:
    return bool(_running)


def pause(delay_us: int) -> None:
    """Let the world go on; does nothing outside a strand."""
    if _running:
        _running[-1].suspend(delay_us)
