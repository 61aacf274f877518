"""Runs the HTTP API in our own loop on an embedded uvicorn.

The process belongs to the node: no signal handlers, no logging setup, no
lifespan.  uvicorn sets no bound on the bytes of a request's head; ours does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from paceline.errors import ProtocolError
from paceline.limits import CLIENT_CONNECTIONS_MAX, HTTP_HEAD_BYTES_MAX
from paceline.server.http_api import HttpApi
from paceline.server.listen import address_of, listen
from paceline.server.service import Service

__all__ = ["HttpServer"]

_GRACE_SECONDS = 2
_KEEP_ALIVE_SECONDS = 75


class _BoundedHead(HttpToolsProtocol):
    """Answers 400 when URL and headers together pass ``HTTP_HEAD_BYTES_MAX``.

    An exception in a callback makes httptools give up and uvicorn answer 400 and close.
    """

    _head_bytes = 0

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HTTP_HEAD_BYTES_MAX:
            raise ProtocolError("the head of the request is too large")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        """Wake once a second for the date header; uvicorn's own wakes ten times."""
        while not self.stopping.is_set():
            await self.on_tick(0)
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self.stopping.wait()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class HttpServer:
    """``start``, serve, ``close``; used on one event loop."""

    def __init__(self, service: Service) -> None:
        self._api = HttpApi(service)
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; port 0 picks a free one.  Returns host and port.  Raises ``UsageError``."""
        assert self._server is None, "started twice"
        sock = listen(host, port)
        config = uvicorn.Config(
            self._api,
            http=_BoundedHead,
            loop="none",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            limit_concurrency=CLIENT_CONNECTIONS_MAX,
        )
        self._server = _Server(config)
        self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[sock]))
        await self._server.ready.wait()
        return address_of(sock)

    async def close(self) -> None:
        """Stop listening, end event streams, give open requests a moment."""
        if self._server is None or self._task is None:
            return
        self._server.stopping.set()
        await self._api.close()
        await self._task
        self._server = self._task = None
