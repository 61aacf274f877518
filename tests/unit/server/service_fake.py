"""A ``Service`` on real SQLite for tests of servers and clients: one database, and knobs for failures."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from paceline.engines.base import Outcome, QueryResult, StatementResult, WriteRequest
from paceline.errors import PacelineError, SqlError, TokenLost, UsageError
from paceline.node.replies import QueryReply, Receipt, WriteReply
from paceline.server.service import EventStream

Done = Callable[[WriteReply | PacelineError], None]


class Database:
    """What the nodes of a fake cluster share."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.index = 0
        self.applied: dict[bytes, tuple[int, list[StatementResult]]] = {}
        self.runs = 0
        self.term = 1

    def run(self, request: WriteRequest) -> Outcome:
        if request.request_id is not None and request.request_id in self.applied:
            index, results = self.applied[request.request_id]
            return Outcome(results=results, repeated_at=index)  # type: ignore[arg-type]
        self.runs += 1
        self.connection.execute("BEGIN")
        results = []
        for place, (sql, args) in enumerate(request.statements):
            try:
                cursor = self.connection.execute(sql, args)
            except sqlite3.Error as error:
                self.connection.execute("ROLLBACK")
                code = getattr(error, "sqlite_errorcode", 1)
                name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
                failed = SqlError(str(error), code=code & 0xFF, extended=code, name=name, statement=place)
                return Outcome(error=failed)
            result = StatementResult(cursor.lastrowid or 0, max(cursor.rowcount, 0))
            if cursor.description:
                result.columns = [column[0] for column in cursor.description]
                result.rows = [list(row) for row in cursor.fetchall()]
            results.append(result)
        self.connection.execute("COMMIT")
        self.index += 1
        if request.request_id is not None:
            self.applied[request.request_id] = (self.index, results)
        return Outcome(results=results)

    def position(self) -> str:
        return f"{self.term:08d}-{self.index:014d}-{hashlib.md5(str(self.index).encode()).hexdigest()}"


class Events:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.closed = asyncio.Event()

    async def _events(self) -> AsyncGenerator[dict[str, Any], None]:
        while (event := await self.queue.get()) is not None:
            yield event

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        return self._events()

    def close(self) -> None:
        self.closed.set()


class FakeService:
    """``script``: what happens to the next writes, one item each, see ``submit``."""

    def __init__(self, name: str = "n1", database: Database | None = None) -> None:
        self.name = name
        self.database = database or Database()
        self.leads = name
        self.term = 1
        self.addresses: dict[str, dict[str, Any]] = {}
        self.script: list[str | PacelineError] = []
        self.held: list[Done] = []
        self.requests: list[WriteRequest] = []
        self.timeouts: list[int] = []
        self.padding = ""
        self.status_calls = 0
        self.submitted = asyncio.Event()
        self.query_gate: asyncio.Event | None = None
        self.queries = 0
        self.levels: list[str] = []
        self.streams: list[Events] = []
        self.subscribed = asyncio.Event()
        self.ready = True
        self.outcomes: dict[str, str] = {}
        self.asked: str | None = None
        """What receipts say was asked for, as a cluster that degrades."""
        self.on_lose: Callable[[], None] = lambda: None

    def submit(self, request: WriteRequest, timeout_ms: int, done: Done) -> None:
        """A script item: ``hold`` (never answered), ``lose`` (applied, connection cut), or an error to answer."""
        self.requests.append(request)
        self.timeouts.append(timeout_ms)
        self.submitted.set()
        item = self.script.pop(0) if self.script else "run"
        if isinstance(item, PacelineError):
            asyncio.get_running_loop().call_soon(done, item)
        elif item == "hold":
            self.held.append(done)
        elif item == "lose":
            self.database.run(request)
            self.on_lose()
        else:
            reply = WriteReply(self.database.run(request), self.receipt(request))
            asyncio.get_running_loop().call_soon(done, reply)

    def receipt(self, request: WriteRequest) -> Receipt:
        durability = request.durability or "local"
        position = self.database.position()
        return Receipt(
            position, self.term, self.database.index, durability, ["n1"], ["n1"], self.leads, self.asked
        )

    async def query(
        self, sql: str, args: Any, *, read: str, token: str | None, timeout_ms: int
    ) -> QueryReply:
        self.queries += 1
        self.levels.append(read)
        if self.query_gate is not None:
            await self.query_gate.wait()
        if token == "lost":
            raise TokenLost("the history of this token is gone")
        try:
            cursor = self.database.connection.execute(sql, args)
        except sqlite3.Error as error:
            raise SqlError(str(error), code=1, extended=1, name="SQLITE_ERROR") from None
        columns = [column[0] for column in cursor.description or ()]
        rows = [list(row) for row in cursor.fetchall()]
        result = QueryResult(columns, [None] * len(columns), rows, None)
        return QueryReply(result, token or self.database.position(), self.leads, self.term, self.name)

    def status(self) -> dict[str, Any]:
        self.status_calls += 1
        return {"node": self.name, "cluster": "c1", "ready": self.ready, "padding": self.padding}

    def leader(self) -> tuple[str | None, int, dict[str, Any] | None]:
        return self.leads or None, self.term, self.addresses.get(self.leads)

    def subscribe(self) -> EventStream:
        events = Events()
        self.streams.append(events)
        self.subscribed.set()
        return events

    async def outcome(self, position: str) -> dict[str, Any]:
        if position not in self.outcomes:
            raise UsageError("not a position")
        return {"outcome": self.outcomes[position], "position": position, "node": self.name}

    async def admin(self, op: str, params: dict[str, Any]) -> dict[str, Any]:
        if op == "crash":
            raise RuntimeError("a bug")
        if op not in ("echo", "lost_list", "lost_show", "lost_write"):
            raise UsageError(f"unknown operation {op!r}")
        return {"op": op, **params}


class NullService(FakeService):
    """Answers at once and does nothing: measures the servers alone."""

    def __init__(self) -> None:
        super().__init__()
        receipt = Receipt(self.database.position(), 1, 1, "local", ["n1"], ["n1"], "n1")
        self._reply = WriteReply(Outcome(results=[StatementResult(1, 1)]), receipt)

    def submit(self, request: WriteRequest, timeout_ms: int, done: Done) -> None:
        done(self._reply)
