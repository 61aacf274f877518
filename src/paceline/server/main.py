"""``paceline serve``: one node with its servers, until it is told to stop.

Exit code 0 after SIGINT or SIGTERM; errors at start-up are raised; an error
that ends a running node is raised too, after everything was closed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import uvloop

from paceline import __version__
from paceline.config.shape import NodeConfig
from paceline.engines.sqlite.connect import EngineOptions, open_reader
from paceline.engines.sqlite.engine import SqliteEngine
from paceline.engines.sqlite.position import read_position
from paceline.ids import DatabasePosition
from paceline.node.start import Paths
from paceline.runtime.joining import contradictions
from paceline.runtime.lost import LostWrites
from paceline.runtime.peers import split_address
from paceline.runtime.process import NodeProcess
from paceline.runtime.service import NodeService
from paceline.runtime.status import StatusReport
from paceline.server.http import HttpServer
from paceline.server.listen import listen
from paceline.server.lost import LostReader
from paceline.server.native import NativeServer

__all__ = ["serve"]

_SWITCH_INTERVAL_S = 0.0001
"""Lanes hand work to each other all the time: a waiting thread must not wait 5 ms for the interpreter."""


def serve(config: NodeConfig, *, on_ready: Callable[[], None] | None = None) -> int:
    """Run the node; blocks until it has stopped."""
    logging.basicConfig(
        level=config.settings.log_level.upper(),
        format=f"%(asctime)s %(levelname)s {config.name} %(message)s",
        stream=sys.stderr,
    )
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # What is loaded by now stays for good; what a request makes dies at once by its reference count.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, on_ready))


class _SqliteEngines:
    """``runtime.engines.Engines`` for SQLite."""

    def __init__(self, config: NodeConfig) -> None:
        self._path = Paths(config.data).database
        self._options = EngineOptions(foreign_keys=config.settings.foreign_keys)

    def make(self, cluster: str) -> SqliteEngine:
        return SqliteEngine(self._path, cluster=cluster, options=self._options)

    def look(self) -> DatabasePosition | None:
        connection = open_reader(self._path, self._options)
        try:
            return read_position(connection)
        finally:
            connection.close()


async def _serve(config: NodeConfig, on_ready: Callable[[], None] | None) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    process = NodeProcess(config, _SqliteEngines(config))
    loop.set_exception_handler(partial(_callback_failed, process))
    try:
        _try_ports(config)
    except BaseException:
        await process.stop()
        raise
    start = loop.create_task(process.start())
    stopping = loop.create_task(stop.wait())
    await asyncio.wait((start, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not start.done():
        start.cancel()
        await asyncio.gather(start, return_exceptions=True)
        await process.stop()
        return 0
    try:
        start.result()
        await _run(process, config, stopping, on_ready)
    finally:
        await process.stop()
    return 0


def _try_ports(config: NodeConfig) -> None:
    """Before this node asks to be let in: a member that cannot listen would only be in the way of the others."""
    for address in (config.listen, config.http, config.peer):
        listen(*split_address(address)).close()


def _callback_failed(process: NodeProcess, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A callback that raises is an error of the program, and its work is half done: say it, and end the node."""
    loop.default_exception_handler(context)
    error = context.get("exception")
    if error is not None and "handle" in context:
        process.fatal(error)


async def _run(
    process: NodeProcess,
    config: NodeConfig,
    stopping: asyncio.Task[bool],
    on_ready: Callable[[], None] | None,
) -> None:
    lost = LostWrites(process, LostReader(process.directory.files, process.directory.paths.custody))
    lost.refresh()
    service = NodeService(process, StatusReport(process, __version__, lost), lost)
    native, http = NativeServer(service), HttpServer(service)
    try:
        await native.start(*split_address(config.listen))
        await http.start(*split_address(config.http))
        membership = process.node.replica.membership
        for difference in contradictions(config, membership) if membership else ():
            logging.getLogger("paceline").warning("%s; the cluster's membership counts", difference)
        if on_ready is not None:
            on_ready()
        await asyncio.wait((process.failure, stopping), return_when=asyncio.FIRST_COMPLETED)
        if process.failure.done():
            process.failure.result()
    finally:
        await http.close()
        await native.close()
        await service.close()
