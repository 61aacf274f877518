"""A network between nodes that a test can cut, cut in one direction, and slow down, while it runs.

Every node advertises addresses of this proxy, not its own.  Who calls stands in the first frame of each
connection (the greeting of the peer port, the hello of a node that passes a request on), so each ordered
pair of nodes is a ``Direction`` of its own: what the one says to the other, whoever opened the connection.

A cut direction behaves like a wire, not like a closed port: nothing is refused or closed, bytes and ends of
connections wait, and the sender's buffers fill.  When it heals, everything late arrives in order; ``reset``
breaks what waits instead.  Callers that are no node (tests, tools) pass freely.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import msgspec

__all__ = ["Proxy"]

T = TypeVar("T")
_CHUNK_BYTES = 64 * 1024
_CHUNKS_MAX = 16
"""What one direction of a connection holds; beyond it the sender's own buffers fill."""
_FIRST_FRAME_BYTES_MAX = 64 * 1024
_FORWARDING = "forward-from-"


@dataclass(eq=False)
class Direction:
    """What one node says to another."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        self.open.set()


class Proxy:
    """A context manager: one thread with a loop of its own for all links of a cluster."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._directions: dict[tuple[str, str], Direction] = {}
        self._connections: dict[asyncio.Task[None], tuple[str, str]] = {}
        self._servers: list[asyncio.Server] = []
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def _do(self, work: Callable[[], None]) -> None:
        async def run() -> None:
            work()

        self._call(run())

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- what tests do ---------------------------------------------------------------------

    def forward(self, port: int, node: str, target: str) -> None:
        """Listen on ``port`` of loopback for ``node``, whose process listens at ``target``."""

        async def listen() -> None:
            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self._serve(node, target, reader, writer)

            server = await asyncio.start_server(accept, "127.0.0.1", port, limit=2 * _CHUNK_BYTES)
            self._servers.append(server)

        self._call(listen())

    def cut_one_way(self, source: str, target: str) -> None:
        """Nothing that ``source`` says arrives at ``target`` any more; the other direction works."""
        self._do(lambda: self._direction(source, target).open.clear())

    def cut(self, one: str, other: str) -> None:
        self.cut_one_way(one, other)
        self.cut_one_way(other, one)

    def isolate(self, node: str, others: Iterable[str]) -> None:
        for other in others:
            if other != node:
                self.cut(node, other)

    def delay(self, source: str, target: str, seconds: float) -> None:
        """What ``source`` says to ``target`` takes this long."""

        def work() -> None:
            self._direction(source, target).delay_s = seconds

        self._do(work)

    def heal(self, *pairs: tuple[str, str]) -> None:
        """Everything flows again, late bytes first; only between ``pairs`` when given (both directions)."""
        wanted = {*pairs, *((b, a) for a, b in pairs)}

        def work() -> None:
            for pair, direction in self._directions.items():
                if not pairs or pair in wanted:
                    direction.open.set()
                    direction.delay_s = 0.0

        self._do(work)

    def reset(self) -> None:
        """Break every connection between nodes, with what is under way in it."""

        def work() -> None:
            for task in list(self._connections):
                task.cancel()

        self._do(work)

    # -- inside ------------------------------------------------------------------------------

    def _direction(self, source: str, target: str) -> Direction:
        return self._directions.setdefault((source, target), Direction())

    async def _serve(
        self, node: str, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = ("", node)
        onward: asyncio.StreamWriter | None = None
        try:
            first = await _first_frame(reader)
            caller = _caller(first)
            self._connections[task] = (caller, node)
            there, back = self._direction(caller, node), self._direction(node, caller)
            # A handshake needs both directions.
            await there.open.wait()
            await back.open.wait()
            host, _, port = target.rpartition(":")
            answers, onward = await asyncio.open_connection(host, int(port), limit=2 * _CHUNK_BYTES)
            onward.write(first)
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(reader, onward, there))
                group.create_task(_carry(answers, writer, back))
        except* (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            del self._connections[task]
            for end in (writer, onward):
                if end is not None:
                    end.transport.abort()


async def _first_frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    length = int.from_bytes(head, "big")
    if length > _FIRST_FRAME_BYTES_MAX:
        return head  # no node talks like this; what it is shall be judged at the other end
    return head + await reader.readexactly(length)


def _caller(frame: bytes) -> str:
    """The node that speaks, '' for everybody else."""
    try:
        said = msgspec.msgpack.decode(frame[4:])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    if isinstance(said, dict):
        return str(said.get("name", ""))
    name = str(said[3]) if isinstance(said, list) and len(said) > 3 else ""
    return name.removeprefix(_FORWARDING) if name.startswith(_FORWARDING) else ""


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
    """Bytes of one direction of one connection, its end included."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_MAX)

    async def take() -> None:
        while True:
            try:
                data = await reader.read(_CHUNK_BYTES)
            except OSError:
                data = b""
            await chunks.put((loop.time(), data))
            if not data:
                return

    async def give() -> None:
        while True:
            arrived, data = await chunks.get()
            wait = arrived + direction.delay_s - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            await direction.open.wait()
            if not data:
                break
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(take())
        group.create_task(give())
