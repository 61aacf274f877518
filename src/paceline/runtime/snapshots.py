"""Snapshots on a running node: giving them, fetching them, and bringing them in.

The transfer itself is ``transfer.py``; here stands what it asks of the node: a pin on the state lane with
the log held from there, the wait for the commit, and the steps of an install plan.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from paceline.core.membership import Membership
from paceline.engines.base import Engine, Pin
from paceline.errors import TimedOut, Unavailable
from paceline.files import Files
from paceline.ids import Position
from paceline.limits import SNAPSHOT_PIN_SECONDS_MAX
from paceline.log.custody import Custody
from paceline.log.journal import Log
from paceline.node.anchors import Anchor, pack, save_anchor
from paceline.node.node import Node
from paceline.runtime.transfer import PinnedImage
from paceline.snapshot.plan import Plan

__all__ = ["InstallActions", "NodeProvider", "flusher"]


class NodeProvider:
    """``transfer.Provider`` over a running node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._count = 0

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
        found = node.replica.history.at(position.index)
        self._count += 1
        try:
            yield PinnedImage(
                pin=pin,
                position=position,
                config=found[1].encode() if found else b"",
                snapshot=f"{node.replica.name}-{position.index}-{self._count}",
            )
        finally:
            pin.close()
            node.ports.later(30_000, lambda: node.retainer.release(hold))

    async def committed(self, position: Position) -> None:
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

        node.reads.when_committed(
            position.index, node.ports.now_ms() + SNAPSHOT_PIN_SECONDS_MAX * 1000, go, late
        )
        await future


class InstallActions:
    """The steps of a plan, for ``snapshot.install``; blocking, on the state lane or before the loop runs.

    ``on_loop`` runs a call where the log's index may be touched; ``flush`` performs what is staged and returns when
    it is durable.
    """

    def __init__(
        self,
        *,
        files: Files,
        anchor_path: str,
        engine: Engine,
        log: Log,
        custody: Custody,
        wall_us: Callable[[], int],
        on_loop: Callable[[Callable[[], Any]], Any],
        flush: Callable[[], None],
    ) -> None:
        self._files = files
        self._anchor_path = anchor_path
        self._engine = engine
        self._log = log
        self._custody = custody
        self._wall_us = wall_us
        self._on_loop = on_loop
        self._flush = flush

    def keep_lost(self, plan: Plan) -> None:
        log, end = self._log, plan.end
        if self._on_loop(lambda: log.position_at(end.index)) == end:
            return
        entries = self._on_loop(lambda: log.entries(log.base.index, bytes_max=1 << 40))
        if not entries:
            return
        notes = self._on_loop(
            lambda: {e.index: note for e in entries if (note := log.local(e.index)) is not None}
        )
        self._custody.keep(
            f"replaced by the snapshot at {end.short}",
            entries,
            notes,
            time_us=self._wall_us(),
            term_now=end.term,
        )

    def install_units(self, unit_bytes: int, unit_count: int, units: Iterable[tuple[int, bytes]]) -> None:
        self._engine.install(unit_bytes, unit_count, units)
        self._engine.checkpoint(force=True)

    def database_digest(self) -> bytes:
        pin = self._engine.pin()
        try:
            return pin.digest()
        finally:
            pin.close()

    def reset_log(self, plan: Plan) -> None:
        log, end = self._log, plan.end
        if self._on_loop(lambda: log.position_at(end.index)) != end:
            self._on_loop(lambda: log.reset(end))
            self._flush()

    def write_config(self, plan: Plan) -> None:
        membership = Membership.decode(plan.config)
        save_anchor(
            self._files,
            self._anchor_path,
            Anchor(
                base=plan.position, database=pack(plan.database), memberships=((plan.end.index, membership),)
            ),
        )


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
