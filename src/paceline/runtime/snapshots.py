"""Snapshots on a running node: giving them, fetching them, and bringing them in.

The transfer itself is ``transfer.py``; here stands what it asks of the node: a pin on the state lane with
the log held from there, and the wait for the commit.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from paceline.engines.base import Pin
from paceline.errors import TimedOut, Unavailable
from paceline.ids import NodeId, Position
from paceline.limits import SNAPSHOT_PIN_SECONDS_MAX
from paceline.log.journal import Log
from paceline.node.node import Node
from paceline.runtime.transfer import PinnedImage

__all__ = ["NodeProvider", "flusher"]

_numbers = itertools.count(1)


class NodeProvider:
    """``transfer.Provider`` over a running node."""

    def __init__(self, node: Node, receiver: NodeId | None = None) -> None:
        self._node = node
        self._receiver = receiver

    def to(self, receiver: NodeId | None) -> NodeProvider:
        """For one receiver: a member that counts once it has the snapshot, or anybody else (None)."""
        return NodeProvider(self._node, receiver)

    @asynccontextmanager
    async def pin(self) -> AsyncIterator[PinnedImage]:
        node = self._node
        if node.quarantined or node.installing:
            raise Unavailable("this node is re-syncing itself", hint="fetch from another node")
        future: asyncio.Future[tuple[Pin, Position]] = asyncio.get_running_loop().create_future()

        def pinned(pin: Pin, position: Position) -> None:
            if future.done():
                pin.close()
            else:
                future.set_result((pin, position))

        node.pin(pinned)
        pin, position = await future
        hold = node.retainer.hold(position.index)
        membership = node.replica.history.at_or_after(position.index)
        count = next(_numbers)
        try:
            yield PinnedImage(
                pin=pin,
                position=position,
                config=membership.encode() if membership else b"",
                snapshot=f"{node.replica.name}-{position.index}-{count}",
            )
        finally:
            pin.close()
            node.ports.later(30_000, lambda: node.retainer.release(hold))

    async def committed(self, position: Position) -> None:
        """Wait until nothing can take ``position`` back once the receiver has it (``Node.when_final``)."""
        node = self._node
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def late() -> None:
            if not future.done():
                future.set_exception(
                    TimedOut("the snapshot's position was not committed in time", hint="it is tried again")
                )

        def go() -> None:
            if not future.done():
                future.set_result(None)

        node.when_final(
            position, self._receiver, node.ports.now_ms() + SNAPSHOT_PIN_SECONDS_MAX * 1000, go, late
        )
        await future


def flusher(
    log: Log, run: Callable[[Callable[[], Any], Callable[[Any], None], Callable[[BaseException], None]], None]
) -> Callable[[], None]:
    """A blocking flush through the log lane, for the state lane."""

    def flush() -> None:
        finished = threading.Event()
        failure: list[BaseException] = []

        def failed(error: BaseException) -> None:
            failure.append(error)
            finished.set()

        run(log.flush, lambda _: finished.set(), failed)
        finished.wait()
        if failure:
            raise failure[0]

    return flush
