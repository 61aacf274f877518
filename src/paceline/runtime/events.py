"""Events for whoever listens: bounded queues, slow listeners are dropped with a last word."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

__all__ = ["EventHub", "Subscription"]

_QUEUE_MAX = 1000


class Subscription:
    """One listener.  Iterate to receive; ends when closed or dropped."""

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        self._events: deque[dict[str, Any]] = deque()
        self._wake = asyncio.Event()
        self._over = False

    def put(self, event: dict[str, Any]) -> None:
        if len(self._events) >= _QUEUE_MAX:
            self._events.append({"event": "dropped", "reason": "the listener is too slow; subscribe again"})
            self.close()
        else:
            self._events.append(event)
        self._wake.set()

    def close(self) -> None:
        self._over = True
        self._hub.forget(self)
        self._wake.set()

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        while True:
            while self._events:
                yield self._events.popleft()
            if self._over:
                return
            self._wake.clear()
            await self._wake.wait()


class EventHub:
    def __init__(self) -> None:
        self._listeners: set[Subscription] = set()
        self.counts: dict[str, int] = {}
        self._watchers: list[Callable[[dict[str, Any]], None]] = []

    def watch(self, call: Callable[[dict[str, Any]], None]) -> None:
        """Have ``call`` hear every event at once, within ``publish``."""
        self._watchers.append(call)

    @property
    def listening(self) -> bool:
        return bool(self._listeners)

    def subscribe(self) -> Subscription:
        listener = Subscription(self)
        self._listeners.add(listener)
        return listener

    def forget(self, listener: Subscription) -> None:
        self._listeners.discard(listener)

    def publish(self, event: dict[str, Any]) -> None:
        kind = str(event["event"])
        self.counts[kind] = self.counts.get(kind, 0) + 1
        for listener in list(self._listeners):
            listener.put(event)
        for call in self._watchers:
            call(event)

    def close(self) -> None:
        for listener in list(self._listeners):
            listener.close()
