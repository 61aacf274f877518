"""Threads that do what may block, and bring the result back to the loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["LaneThreads"]

T = TypeVar("T")
_Work = tuple[Callable[[], Any], Callable[[Any], None], Callable[[BaseException], None]]


class LaneThreads:
    """``threads`` workers on one queue; with one thread, work runs in order."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, threads: int) -> None:
        self._loop = loop
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(
        self, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[BaseException], None]
    ) -> None:
        self._queue.put((work, done, failed))

    def _run(self) -> None:
        call = self._loop.call_soon_threadsafe
        while (item := self._queue.get()) is not None:
            work, done, failed = item
            try:
                result = work()
            except BaseException as error:
                call(failed, error)
            else:
                call(done, result)

    def stop(self) -> None:
        """Finish what is queued, then end; waits for the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
