"""The asyncio client.

Writes go straight to the leader, reads at level ``local``, ``session`` and
``bounded MS`` to any member, other reads to the leader.  Both go over one connection each,
pipelined: many requests may be open at once.

    async with AsyncClient(["127.0.0.1:7301", "127.0.0.1:7302"]) as db:
        await db.execute([("INSERT INTO t VALUES (?)", [1])])
        result = await db.query("SELECT * FROM t", read="session")

Use a client on one event loop only.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Any, Self, cast

from paceline.client import protocol
from paceline.client.call import Args, Call, RequestIds, Statement, execute_message, timeout_of
from paceline.client.channel import Channel
from paceline.client.connection import Connection, open_connection
from paceline.client.reading import any_member_answers, parse_read
from paceline.client.results import ExecuteResult, QueryResult, Receipt
from paceline.client.routing import Backoff, Routes
from paceline.client.token import Tokens, position_of
from paceline.errors import PacelineError, Unavailable, UsageError
from paceline.limits import CLIENT_EVENTS_MAX

__all__ = ["AsyncClient"]


class AsyncClient:
    """``addresses``: ``host:port`` of some members; the others are found through them.

    ``request_ids=False`` saves a few bytes and promises less: a write whose
    connection breaks ends in ``OutcomeUnknown`` instead of being repeated.
    ``durability`` is what this client's writes wait for unless they say otherwise; None leaves it to the cluster.
    ``direct=True`` waits for the leader itself; otherwise a member that forwards will do where the leader
    cannot be reached.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        name: str = "paceline-python",
        request_ids: bool = True,
        timeout_ms: int | None = None,
        durability: str | None = None,
        direct: bool = False,
    ) -> None:
        self._routes = Routes(addresses)
        self._name = name
        self._ids = RequestIds() if request_ids else None
        self._timeout_ms = timeout_of(timeout_ms)
        self._durability = durability
        self._leader_channel: Channel | None = None
        self._any_channel: Channel | None = None
        self._direct = direct
        self._closed = False
        self._tokens = Tokens()

    @property
    def token(self) -> str | None:
        """The newest position this client has seen: ``read="session"`` never shows less.

        Setting it, also to None, accepts what a failover lost: ``TokenLost`` ends then.
        """
        return self._tokens.newest

    @token.setter
    def token(self, token: str | None) -> None:
        self._tokens.newest = token

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        self._closed = True
        for channel in (self._leader_channel, self._any_channel):
            if channel is not None:
                await channel.close()

    def submit(
        self,
        statements: str | Sequence[Statement],
        durability: str | None = None,
        request_id: bytes | None = None,
        timeout_ms: int | None = None,
    ) -> asyncio.Future[ExecuteResult]:
        """``execute`` without waiting: send now, await the future when you like.

        Calls of one loop iteration leave in one write and are run in order.
        """
        limit = self._timeout_ms if timeout_ms is None else timeout_of(timeout_ms)
        if request_id is None and self._ids is not None:
            request_id = self._ids.next()
        message = execute_message(statements, durability or self._durability, request_id, limit)
        return cast("asyncio.Future[ExecuteResult]", self._send(self._leader(), message, limit))

    async def execute(
        self,
        statements: str | Sequence[Statement],
        durability: str | None = None,
        request_id: bytes | None = None,
        timeout_ms: int | None = None,
    ) -> ExecuteResult:
        """Run ``statements`` as one transaction; returns when ``durability`` is reached.

        Raises ``OutcomeUnknown`` (it may have happened) or another ``PacelineError`` (it has not).
        """
        return await self.submit(statements, durability, request_id, timeout_ms)

    async def query(
        self,
        sql: str,
        args: Args = (),
        read: protocol.ReadLevel = "local",
        token: str | None = None,
        timeout_ms: int | None = None,
    ) -> QueryResult:
        """Read.  ``read="session"`` waits for ``token``, by default everything that this client has seen;
        ``read="bounded 500"`` is answered by any member whose state is at most so many milliseconds old."""
        limit = self._timeout_ms if timeout_ms is None else timeout_of(timeout_ms)
        read = parse_read(read)
        if read == "session" and token is None:
            for doubtful in list(self._tokens.doubtful):
                self._tokens.judged(doubtful, await self.outcome(doubtful))
            token = self.token
        message = protocol.Query(0, sql, cast(Any, args), read, token, limit)
        channel = self._any() if any_member_answers(read) else self._leader()
        return cast(QueryResult, await self._send(channel, message, limit))

    async def outcome(self, place: ExecuteResult | Receipt | str) -> str:
        """What became of a write: ``committed``, ``pending``, ``lost`` or ``unknown``.

        ``lost``: a failover removed it, it is not in the database and will not be.  ``pending``: it is in the
        leader's log and may still be committed or lost.  ``unknown``: the log no longer reaches back so far, or
        no node that answers can tell yet.
        """
        return str((await self.outcome_details(place))["outcome"])

    async def outcome_details(self, place: ExecuteResult | Receipt | str) -> dict[str, Any]:
        """``outcome``, and what the node knows beside it: ``position``, ``node``, ``commit``, ``custody``."""
        message = protocol.Outcome(0, position_of(place))
        return cast(dict[str, Any], await self._send(self._any(), message, self._timeout_ms))

    async def status(self) -> dict[str, Any]:
        """The status of the member that this client reads from."""
        return cast(dict[str, Any], await self._send(self._any(), protocol.Status(0), self._timeout_ms))

    async def leader(self) -> dict[str, Any]:
        """``{"leader", "term", "address", "http"}`` as that member knows them."""
        return cast(dict[str, Any], await self._send(self._any(), protocol.Leader(0), self._timeout_ms))

    async def ping(self) -> None:
        await self._send(self._any(), protocol.Ping(0), self._timeout_ms)

    async def admin(self, op: str, /, **params: Any) -> dict[str, Any]:
        """An operator's action on the leader; never repeated by itself."""
        message = protocol.Admin(0, op, params)
        return cast(dict[str, Any], await self._send(self._leader(), message, self._timeout_ms))

    async def ask(self, op: str, /, **params: Any) -> dict[str, Any]:
        """An operator's question to the member that this client reads from; for ops that any node answers."""
        message = protocol.Admin(0, op, params)
        return cast(dict[str, Any], await self._send(self._any(), message, self._timeout_ms))

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """Changes of role, leader, membership and position, as one member sees them.

        It has a connection of its own.  When that breaks it goes on with another
        member; ``{"event": "reconnected"}`` marks the gap.
        """
        backoff = Backoff(random.Random())
        first = True
        while not self._closed:
            feed = _EventFeed()
            try:
                await feed.open(self._routes, self._name)
                if not first:
                    yield {"event": "reconnected", "node": feed.node}
                first = False
                backoff.reset()
                async for event in feed:
                    yield event
            except Unavailable:
                self._routes.rotate()
                await asyncio.sleep(backoff.next())
            finally:
                feed.close()

    # inside

    def _send(self, channel: Channel, message: protocol.Message, timeout_ms: int) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        channel.submit(Call(message, loop.time() + timeout_ms / 1000, future))
        return future

    def _leader(self) -> Channel:
        if self._leader_channel is None:
            self._leader_channel = self._channel(leader=True)
        return self._leader_channel

    def _any(self) -> Channel:
        if self._any_channel is None:
            self._any_channel = self._channel(leader=False)
        return self._any_channel

    def _channel(self, *, leader: bool) -> Channel:
        if self._closed:
            raise UsageError("this client is closed")
        return Channel(
            self._routes,
            leader=leader,
            client=self._name,
            on_result=self._tokens.see,
            direct=self._direct,
        )


class _EventFeed:
    """One subscription on one connection.  A reader that lags stops the socket, never fills memory."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[dict[str, Any] | PacelineError] = asyncio.Queue()
        self._connection: Connection | None = None
        self._paused = False
        self.node = ""

    async def open(self, routes: Routes, name: str) -> None:
        """Raises ``Unavailable``."""
        search = routes.search(leader=False)
        while (address := search.next()) is not None:
            try:
                self._connection = await open_connection(
                    address, self, name, self._on_event, seconds=routes.patience_seconds
                )
            except (OSError, PacelineError) as error:
                search.failed(address, error)
                continue
            self.node = self._connection.welcome.node
            self._connection.send(Call(protocol.Subscribe(0), 0.0))
            return
        raise search.error()

    async def __aiter__(self) -> AsyncGenerator[dict[str, Any], None]:
        while True:
            item = await self._queue.get()
            if isinstance(item, PacelineError):
                raise item
            if self._paused and self._queue.empty() and self._connection is not None:
                self._paused = False
                self._connection.resume_reading()
            yield item

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _on_event(self, event: dict[str, Any]) -> None:
        self._queue.put_nowait(event)
        if not self._paused and self._queue.qsize() >= CLIENT_EVENTS_MAX and self._connection is not None:
            self._paused = True
            self._connection.pause_reading()

    def answered(self, connection: Connection, call: Call, reply: protocol.Reply) -> None:
        if isinstance(reply, protocol.Failure):
            self._queue.put_nowait(Unavailable(str(reply.error.get("message", "subscription refused"))))

    def lost(self, connection: Connection, calls: list[Call], error: PacelineError) -> None:
        self._queue.put_nowait(Unavailable(error.message))
