"""The TCP server of the native protocol: it listens, counts connections and closes them.

What happens on a connection is ``session.py``'s affair; what a request does is
the service's.
"""

from __future__ import annotations

import asyncio

from paceline.limits import CLIENT_CONNECTIONS_MAX
from paceline.server.listen import address_of, listen
from paceline.server.replies import Replies
from paceline.server.service import Service
from paceline.server.session import Session

__all__ = ["NativeServer"]


class NativeServer:
    """``start``, serve, ``close``; used on one event loop."""

    loop: asyncio.AbstractEventLoop

    def __init__(self, service: Service, *, connections_max: int = CLIENT_CONNECTIONS_MAX) -> None:
        self.service = service
        self.replies = Replies(service)
        self._connections_max = connections_max
        self._sessions: set[Session] = set()
        self._unflushed: list[Session] = []
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; port 0 picks a free one.  Returns host and port.  Raises ``UsageError``."""
        assert self._server is None, "started twice"
        sock = listen(host, port)
        self.loop = asyncio.get_running_loop()
        self._server = await self.loop.create_server(lambda: Session(self), sock=sock)
        return address_of(sock)

    async def close(self) -> None:
        """Stop listening; tell every client and close its connection."""
        if self._server is None:
            return
        self._server.close()
        for session in list(self._sessions):
            session.shutdown()
        for session in list(self._sessions):
            await session.closed.wait()
        self._server = None

    @property
    def connections(self) -> int:
        return len(self._sessions)

    def flush_soon(self, session: Session) -> None:
        """Have the session write its replies at the end of this turn of the loop: one callback for all sessions."""
        if not self._unflushed:
            self.loop.call_soon(self._flush)
        self._unflushed.append(session)

    def _flush(self) -> None:
        sessions, self._unflushed = self._unflushed, []
        for session in sessions:
            session.flush()

    def admit(self, session: Session) -> bool:
        """Count a new connection; False when there are too many already."""
        self._sessions.add(session)
        return len(self._sessions) <= self._connections_max

    def discard(self, session: Session) -> None:
        self._sessions.discard(session)
