"""Fetching a snapshot from the leader and bringing it in, one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

from paceline.core.membership import Membership
from paceline.engines.base import Pin
from paceline.errors import Corruption, PacelineError, Unavailable
from paceline.ids import NodeId, Term
from paceline.node.installing import InstallActions
from paceline.node.ports import Lane
from paceline.runtime.peers import open_snapshot
from paceline.runtime.snapshots import flusher
from paceline.runtime.transfer import fetch
from paceline.snapshot.install import install
from paceline.snapshot.pace import Progress
from paceline.snapshot.plan import Plan
from paceline.snapshot.staging import Staging

if TYPE_CHECKING:
    from paceline.runtime.process import NodeProcess

__all__ = ["Fetcher"]

log = logging.getLogger("paceline")
_PAUSE_S = 0.5


class Fetcher:
    def __init__(self, process: NodeProcess) -> None:
        self._process = process
        self._task: asyncio.Task[None] | None = None
        self.progress: Progress | None = None

    def start(self, leader: NodeId) -> None:
        if self._task is not None and not self._task.done():
            return
        self._task = asyncio.get_running_loop().create_task(self._run(leader))
        self._task.add_done_callback(self._process.ended)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, leader: NodeId) -> None:
        process = self._process
        node = process.node
        node.begin_resync()
        try:
            await self._fetch(leader, node.replica.term)
        except PacelineError as error:
            log.warning("fetching a snapshot from %s failed: %s", leader, error)
            await asyncio.sleep(_PAUSE_S)
        except OSError as error:
            process.fatal(error)
        finally:
            self.progress = None

    async def _fetch(self, leader: NodeId, term: Term) -> None:
        process, node = self._process, self._process.node
        membership = node.replica.membership
        member = membership.member(leader) if membership else None
        address = member.peer if member else self._founder(leader)
        if address is None:
            return
        local = await self._local_pin()
        try:
            staging = Staging(process.directory.files, process.layout, local)
            plan = await fetch(
                lambda: open_snapshot(address, process.hello("snapshot")), staging, self._report
            )
        finally:
            if local is not None:
                local.close()
        if node.replica.term != term:
            # It may be final only because this node, which has voted since, was counted (decision 0008).
            raise Unavailable(f"{leader} may no longer lead; what has arrived stays")
        await self._install(plan, fresh=local is None)

    def _founder(self, leader: NodeId) -> str | None:
        """The leader's peer address when no membership is known yet."""
        config = self._process.config
        listed = [member.peer for member in config.members if member.name == leader]
        known = listed or list(config.join)
        return known[0] if known else None

    async def _local_pin(self) -> Pin | None:
        """What is here already, None when no database was ever here (its empty file is removed then)."""
        node = self._process.node
        future: asyncio.Future[Pin | None] = asyncio.get_running_loop().create_future()

        def work() -> Pin | None:
            try:
                pin = node.engine.pin()
            except Corruption:
                self._set_aside()
                return None
            if pin.unit_count == 0:
                pin.close()
                return None
            return pin

        node.on_state(work, future.set_result)
        return await future

    def _set_aside(self) -> None:
        """Nothing of the database can be read: keep its file for whoever wants to look, and fetch all."""
        files, layout = self._process.node.files, self._process.layout
        self._process.node.engine.close()
        for name in files.listdir(layout.database_directory):
            path = os.path.join(layout.database_directory, name)
            if path == layout.database:
                files.rename(path, path + ".damaged")
            elif not name.endswith(".damaged"):
                files.unlink(path)  # of use only beside the database

    def _report(self, progress: Progress) -> None:
        self.progress = progress
        self._process.events.publish(
            {
                "event": "snapshot",
                "node": self._process.config.name,
                "units_done": progress.units_done,
                "units_total": progress.units_total,
                "bytes_per_second": round(progress.bytes_per_second),
                "trouble": progress.trouble,
            }
        )

    async def _install(self, plan: Plan, *, fresh: bool) -> None:
        process, node = self._process, self._process.node
        loop = asyncio.get_running_loop()
        node.begin_install()
        actions = InstallActions(
            files=node.files,
            anchor_path=process.directory.paths.anchor,
            engine=node.engine,
            log=node.log,
            custody=node.custody,
            wall_us=node.ports.wall_us,
            on_loop=node.ports.ask,
            flush=flusher(node.log, lambda work, done, failed: node.ports.run(Lane.LOG, work, done, failed)),
        )

        def work() -> None:
            if fresh:
                node.engine.close()
                for suffix in ("", *process.layout.companions):
                    path = process.layout.database + suffix
                    if node.files.exists(path):
                        node.files.unlink(path)
            try:
                install(node.files, process.layout, plan, actions)
            finally:
                if fresh:
                    node.engine.open()

        future: asyncio.Future[Any] = loop.create_future()
        node.on_state(work, future.set_result)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(future)
            node.installed(plan.end, Membership.decode(plan.config), plan.database)
