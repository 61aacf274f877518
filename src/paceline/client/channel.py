"""A lasting way to one kind of node (the leader, or any) over connections that come and go.

Calls are sent at once when a connection is there, and wait otherwise while a
single task searches.  A call that loses its connection is sent again or ended
as ``call.py`` decides.  One timer looks for calls whose time has passed; there
is no timer per call.

A leader that is cut off or stopped closes no connection.  So when an answer is overdue
(``CLIENT_SUSPECT_SECONDS``) another member is asked who leads; when it knows another leader of a later term,
the old connection counts as lost, and what it owes is sent again under its request id.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from paceline.client import protocol
from paceline.client.call import Call, result_of
from paceline.client.connection import Connection, open_connection
from paceline.client.routing import Backoff, Routes, is_newer
from paceline.errors import NotLeader, Overloaded, PacelineError, Unavailable
from paceline.limits import CLIENT_ANSWER_GRACE_SECONDS, CLIENT_CALLS_MAX, CLIENT_SUSPECT_SECONDS

__all__ = ["Channel"]

_SWEEP_SECONDS: Final = 0.05


class Channel:
    """``on_result`` sees every good result before the caller does (the client keeps its token there).

    ``direct``: calls go to the leader itself, never to a member that would forward them.
    """

    def __init__(
        self,
        routes: Routes,
        *,
        leader: bool,
        client: str,
        on_result: Callable[[Any], None],
        direct: bool = False,
    ) -> None:
        self._routes = routes
        self._wants_leader = leader
        self._direct = direct
        self._client = client
        self._on_result = on_result
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(random.Random())
        self._pause = False
        self._electing = False
        self._hinted = False
        self._connection: Connection | None = None
        self._retired: set[Connection] = set()
        self._waiting: deque[Call] = deque()
        self._search_task: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._suspicion: asyncio.Task[None] | None = None
        self._suspect_at = 0.0
        self._closed = False

    def submit(self, call: Call) -> None:
        """Send, or keep for later; the call's future gets the result.  Raises ``UsageError``, ``TooLarge``,
        ``Overloaded``."""
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep)
        connection = self._connection
        if connection is not None:
            if len(connection.pending) >= CLIENT_CALLS_MAX:
                raise Overloaded(f"{CLIENT_CALLS_MAX} requests are open on this client", hint="await some")
            connection.send(call)
            return
        if len(self._waiting) >= CLIENT_CALLS_MAX:
            raise Overloaded(f"{CLIENT_CALLS_MAX} requests wait for a connection", hint="await some")
        protocol.encode_frame(call.message)  # what cannot be sent fails now, in the caller's hands
        self._wait(call)

    async def close(self) -> None:
        """End every call; close every connection."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        tasks = [task for task in (self._search_task, self._suspicion) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gone = Unavailable("the client was closed")
        for call in self._waiting:
            _fail(call, call.expired(sent=False) if call.in_doubt else gone)
        self._waiting.clear()
        for connection in [*self._retired, *([self._connection] if self._connection else [])]:
            for call in connection.pending.values():
                _fail(call, call.expired(sent=True) if call.write else gone)
            connection.pending.clear()
            connection.close()

    # what connections report

    def answered(self, connection: Connection, call: Call, reply: protocol.Reply) -> None:
        result = result_of(reply)
        if isinstance(result, PacelineError):
            error = call.refused(result)
            if error is not None:
                _fail(call, error)
                return
            if self._wants_leader:
                knows = self._routes.hint(reply, connection.welcome.node)
                self._pause = self._hinted or not knows  # two that name each other are no reason to hurry
                self._hinted = True
            else:
                self._pause = True
                self._routes.rotate()  # perhaps another member is better off
            self._leave(connection)
            self._wait(call)
            return
        if self._pause or self._hinted:
            self._pause = self._hinted = False
            self._backoff.reset()
        self._on_result(result)
        if not call.future.done():
            call.future.set_result(result)
        if type(reply) is protocol.Written:
            receipt = reply.receipt
            if receipt is not None and receipt.leader != connection.welcome.leader:
                self._routes.moved()
                self._leave(connection)

    def lost(self, connection: Connection, calls: list[Call], error: PacelineError) -> None:
        if connection is self._connection:
            self._connection = None
        self._retired.discard(connection)
        for call in calls:
            raised = call.lost(error)
            if raised is not None:
                _fail(call, raised)
            elif not self._closed:
                self._pause = True
                self._wait(call)

    # inside

    def _wait(self, call: Call) -> None:
        if call.future.done():
            return
        self._waiting.append(call)
        if self._search_task is None and not self._closed:
            self._search_task = self._loop.create_task(self._search())

    def _leave(self, connection: Connection) -> None:
        """Send nothing more there; it still owes replies."""
        if connection is self._connection:
            self._connection = None
            self._retired.add(connection)
            connection.retire()

    async def _search(self) -> None:
        try:
            while self._waiting:
                if self._pause:
                    await asyncio.sleep(self._backoff.next(electing=self._electing))
                try:
                    connection = await self._round()
                except Unavailable as error:
                    self._pause, self._electing = True, isinstance(error, NotLeader)
                    for call in self._waiting:
                        call.last_error = error
                    continue
                self._electing = False
                self._connection = connection
                self._send_waiting(connection)
        finally:
            self._search_task = None

    async def _round(self) -> Connection:
        """One search over the members.  Raises ``Unavailable``."""
        search = self._routes.search(leader=self._wants_leader, direct=self._direct)
        fallback: Connection | None = None
        try:
            while (address := search.next()) is not None:
                try:
                    patience = self._routes.patience_seconds
                    connection = await open_connection(address, self, self._client, seconds=patience)
                except (OSError, PacelineError) as error:  # TimeoutError is an OSError
                    search.failed(address, error)
                    continue
                if search.opened(address, connection.welcome):
                    return connection
                if fallback is None and search.forwards(connection.welcome):
                    fallback = connection
                else:
                    connection.close()
            if fallback is not None and not fallback.closed:
                connection, fallback = fallback, None
                return connection
        finally:
            if fallback is not None:
                fallback.close()
        self._routes.moved()
        self._routes.rotate()
        raise search.error()

    def _suspect(self, connection: Connection) -> None:
        """``connection`` owes an answer for long: ask around, once in a while and one question at a time."""
        now = self._loop.time()
        if self._suspicion is None and now >= self._suspect_at:
            self._suspect_at = now + CLIENT_SUSPECT_SECONDS
            self._suspicion = self._loop.create_task(self._ask_around(connection))

    async def _ask_around(self, connection: Connection) -> None:
        try:
            search = self._routes.search(leader=False)
            while (address := search.next()) is not None and not connection.closed:
                if address == connection.address:
                    continue
                try:
                    other = await open_connection(
                        address, self, self._client, seconds=self._routes.patience_seconds
                    )
                except (OSError, PacelineError):
                    continue
                other.close()
                if is_newer(connection.welcome, other.welcome) and search.opened(address, other.welcome):
                    self._routes.leader = other.welcome.leader_address
                    connection.give_up(
                        Unavailable(f"{other.welcome.leader} leads term {other.welcome.term} now")
                    )
                    return
        finally:
            self._suspicion = None

    def _send_waiting(self, connection: Connection) -> None:
        waiting, self._waiting = self._waiting, deque()
        now = self._loop.time()
        for call in waiting:
            if call.future.done():
                continue
            if connection.closed:
                self._waiting.append(call)
                continue
            if hasattr(call.message, "timeout_ms"):
                call.message.timeout_ms = max(1, int((call.deadline - now) * 1000))
            connection.send(call)

    def _sweep(self) -> None:
        """End calls whose time has passed, or that nobody awaits any more."""
        now = self._loop.time()
        kept: deque[Call] = deque()
        for call in self._waiting:
            if now >= call.deadline:
                _fail(call, call.expired(sent=False))
            elif not call.future.done():
                kept.append(call)
        self._waiting = kept
        late = now - CLIENT_ANSWER_GRACE_SECONDS
        open_calls = len(kept)
        for connection in [*self._retired, *([self._connection] if self._connection else [])]:
            if self._wants_leader and connection.owes_since() <= now - CLIENT_SUSPECT_SECONDS:
                self._suspect(connection)
            for number, call in list(connection.pending.items()):
                if late >= call.deadline:
                    _fail(call, call.expired(sent=True))
                    connection.forget(number)
            open_calls += len(connection.pending)
        self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep) if open_calls else None


def _fail(call: Call, error: PacelineError) -> None:
    if not call.future.done():
        call.future.set_exception(error)
