"""The node's ports on a real machine: threads, the event loop's clock, sockets."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from paceline.core.effects import Random
from paceline.core.messages import Message
from paceline.files import File, Steps, descriptor_of, perform
from paceline.ids import NodeId
from paceline.limits import LOG_UNSYNCED_BYTES_MAX
from paceline.node.ports import Lane
from paceline.runtime.asyncsync import AsyncSync
from paceline.runtime.lanes import LaneThreads

__all__ = ["Outside", "RealPorts"]

T = TypeVar("T")
_READ_THREADS = 4
_ROOM_WAIT_S = 0.5


class Outside(Protocol):
    """What the process does for the node beyond lanes and time."""

    def send(self, to: NodeId, message: Message) -> None: ...

    def fetch_snapshot(self, leader: NodeId) -> None: ...

    def event(self, kind: str, details: dict[str, Any]) -> None: ...

    def fatal(self, error: BaseException) -> None: ...

    def unsynced_bytes(self) -> int: ...


class RealPorts:
    def __init__(self, outside: Outside, loop: asyncio.AbstractEventLoop) -> None:
        self.random: Random = random.Random()  # seeded by the system; draws only timeouts
        self._outside = outside
        self._loop = loop
        self._thread = threading.get_ident()
        self._room = threading.Condition()
        self._lanes = {
            Lane.LOG: LaneThreads("log", loop, 1),
            Lane.STATE: LaneThreads("state", loop, 1),
            Lane.READ: LaneThreads("read", loop, _READ_THREADS),
        }
        self._syncing = False
        """A sync without a thread is under way; the log's lane waits for it."""
        self._after_sync: deque[Callable[[], None]] = deque()
        self._stopping = False
        try:
            self._async_sync: AsyncSync | None = AsyncSync(loop)
        except OSError:
            self._async_sync = None
        self.send = outside.send
        self.fetch_snapshot = outside.fetch_snapshot
        self.fatal = outside.fatal

    def now_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_us(self) -> int:
        return time.time_ns() // 1_000

    def deadline(self, timeout_ms: int) -> float:
        return time.monotonic() + timeout_ms / 1000

    def run(
        self,
        lane: Lane,
        work: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[BaseException], None],
        *,
        quick: bool = False,
    ) -> None:
        """Quick work runs on the loop itself: two changes of thread cost more than it does, and one thread that
        keeps the interpreter is faster than two that take it from each other at every call into SQLite."""
        if lane is Lane.LOG and self._syncing:
            self._after_sync.append(lambda: self.run(lane, work, done, failed, quick=quick))
            return
        if not quick:
            self._lanes[lane].run(work, done, failed)
            return
        try:
            result = work()
        except Exception as error:
            self._loop.call_soon(failed, error)
        else:
            self._loop.call_soon(done, result)

    def run_steps(
        self, steps: Steps[T], done: Callable[[T], None], failed: Callable[[BaseException], None]
    ) -> None:
        if self._async_sync is None or self._syncing or self._stopping:
            self.run(Lane.LOG, lambda: perform(steps), done, failed)
            return
        self._syncing = True
        self._step(steps, None, done, failed)

    def _step(
        self,
        steps: Steps[T],
        error: BaseException | None,
        done: Callable[[T], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """On to the next sync, or to the end."""
        try:
            file = next(steps) if error is None else steps.throw(error)
        except StopIteration as end:
            self._sync_over()
            self._loop.call_soon(done, end.value)
        except Exception as problem:
            self._sync_over()
            self._loop.call_soon(failed, problem)
        else:
            self._sync(file, lambda error: self._step(steps, error, done, failed))

    def _sync(self, file: File, then: Callable[[BaseException | None], None]) -> None:
        descriptor = descriptor_of(file)
        if descriptor is not None and self._async_sync is not None:
            try:
                self._async_sync.sync(descriptor, then)
                return
            except OSError:  # not on this kernel or file system
                self._async_sync.close()
                self._async_sync = None
        self._lanes[Lane.LOG].run(file.sync, lambda _: then(None), then)

    def _sync_over(self) -> None:
        self._syncing = False
        while self._after_sync and not self._syncing:
            self._after_sync.popleft()()

    def later(self, delay_ms: int, call: Callable[[], None]) -> None:
        self._loop.call_later(delay_ms / 1000, call)

    def soon(self, call: Callable[[], None]) -> None:
        self._loop.call_soon(call)

    def post(self, call: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(call)

    def ask(self, call: Callable[[], T]) -> T:
        if threading.get_ident() == self._thread:
            return call()

        async def answer() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result()

    def wait_for_room(self, size: int) -> None:
        """What is staged is read without a lock: the bound is soft by one part."""
        if threading.get_ident() == self._thread:
            return  # the loop must not wait for itself; what runs on it is small
        with self._room:
            while self._outside.unsynced_bytes() + size > LOG_UNSYNCED_BYTES_MAX:
                self._room.wait(_ROOM_WAIT_S)

    def made_room(self) -> None:
        with self._room:
            self._room.notify_all()

    def event(self, kind: str, **details: Any) -> None:
        self._outside.event(kind, details)

    async def settle(self) -> None:
        """Before ``stop``: what syncs without a thread ends, nothing like it begins."""
        self._stopping = True
        if self._syncing:
            over = asyncio.Event()
            self._after_sync.append(over.set)
            await over.wait()
        if self._async_sync is not None:
            self._async_sync.close()
            self._async_sync = None

    def stop(self) -> None:
        for lane in (Lane.READ, Lane.STATE, Lane.LOG):
            self._lanes[lane].stop()
