"""The HTTP API, as specified in ``docs/reference/http-api.md``.

An ASGI application: a table of routes and one handler each.  Handlers
translate; the service decides.  Every answer, errors too, names this node, the
leader and the term in its headers.  ``HttpServer`` (``http.py``) runs it.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import msgspec

from paceline.client.protocol import Timeout
from paceline.errors import PacelineError, UsageError, to_wire
from paceline.limits import REQUEST_ID_BYTES_MAX
from paceline.server.asgi import (
    Handler,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    Stream,
    decode_json,
    encode_json,
)
from paceline.server.events import event_chunks
from paceline.server.json_values import JsonArgs, args_from_json, result_to_json, rows_to_json
from paceline.server.metrics import METRICS_TYPE, metrics_text
from paceline.server.requests import check_args, check_read, check_sql, check_timeout, write_request
from paceline.server.service import Service, WriteReply

__all__ = ["HttpApi"]


class _Statement(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    sql: str
    args: JsonArgs = []


class _Execute(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    statements: list[str | _Statement]
    durability: str | None = None
    request_id: str | None = None
    timeout_ms: Timeout | None = None


class _Query(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    sql: str
    args: JsonArgs = []
    read: str | None = None
    token: str | None = None
    max_lag_ms: int | None = None
    timeout_ms: Timeout | None = None


_execute_body: Final = msgspec.json.Decoder(_Execute)
_query_body: Final = msgspec.json.Decoder(_Query)
_args_parameter: Final = msgspec.json.Decoder(JsonArgs)
_params_body: Final = msgspec.json.Decoder(dict[str, Any])

_TAILS: Final = ("{op}", "{position}", "{id}")
"""The last part of a path that names something; see ``Request.tail``."""
_LOST_ID: Final = re.compile(r"\d{14}-\d{14}-[0-9a-f]{16}\Z")
_EVENT_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class HttpApi:
    """The ASGI callable."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._node = service.name.encode()
        self._streams: set[asyncio.Task[None]] = set()
        self._routes: dict[str, dict[str, Handler]] = {
            "/api/v1/execute": {"POST": self._execute},
            "/api/v1/query": {"POST": self._query, "GET": self._query_by_url},
            "/api/v1/status": {"GET": self._status},
            "/api/v1/leader": {"GET": self._leader},
            "/api/v1/events": {"GET": self._events},
            "/api/v1/writes/{position}": {"GET": self._outcome},
            "/api/v1/lost": {"GET": self._lost},
            "/api/v1/lost/{id}": {"GET": self._lost_one},
            "/api/v1/admin/{op}": {"POST": self._admin},
            "/metrics": {"GET": self._metrics},
            "/healthz": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        try:
            answer = await self._answer(scope, receive)
        except PacelineError as error:
            answer = self._failure(error)
        except Exception as error:
            context = {"message": "an HTTP request failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
            answer = self._failure(PacelineError("this node failed on the request", hint="see its log"))
        if isinstance(answer, Stream):
            await self._send_stream(answer, receive, send)
        else:
            await self._send(answer, send, with_body=scope["method"] != "HEAD")

    async def close(self) -> None:
        """End the event streams, which would never end by themselves."""
        for task in self._streams:
            task.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)

    async def _answer(self, scope: Scope, receive: Receive) -> Response | Stream:
        path: str = scope["path"]
        methods, tail = self._routes.get(path), ""
        if methods is None:
            stem, _, tail = path.rpartition("/")
            methods = next(
                (self._routes[f"{stem}/{name}"] for name in _TAILS if f"{stem}/{name}" in self._routes), None
            )
        if methods is None:
            paths = [f"{method} {path}" for path, known in self._routes.items() for method in known]
            error = UsageError(f"no such path: {path}", hint="the paths are " + ", ".join(paths))
            return self._failure(error, status=404)
        method: str = scope["method"]
        handler = methods.get("GET" if method == "HEAD" else method)
        if handler is None:
            allowed = ", ".join(methods)
            error = UsageError(f"{path} does not know {method}", hint=f"use {allowed}")
            return self._failure(error, 405, ((b"allow", allowed.encode()),))
        return await handler(Request(scope, receive, tail))

    # handlers

    async def _execute(self, request: Request) -> Response:
        body = decode_json(_execute_body, await request.body())
        statements = [
            (item, [])
            if isinstance(item, str)
            else (item.sql, args_from_json(item.args, f"$.statements[{number}][1]"))
            for number, item in enumerate(body.statements)
        ]
        identity = _request_id(body.request_id)
        write = write_request(statements, body.durability, identity, request.client)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[WriteReply | PacelineError] = loop.create_future()

        def done(reply: WriteReply | PacelineError) -> None:
            if not future.done():  # the client may have gone, and its request with it
                future.set_result(reply)

        self._service.submit(write, check_timeout(body.timeout_ms), done)
        reply = await future
        if isinstance(reply, PacelineError):
            raise reply
        return self._written(reply)

    def _written(self, reply: WriteReply) -> Response:
        outcome, receipt = reply.outcome, reply.receipt
        if outcome.error is not None:
            raise outcome.error
        leader, term = self._leads() if receipt is None else (receipt.leader, receipt.term)
        shape: dict[str, Any] = {
            "results": None if outcome.results is None else [result_to_json(r) for r in outcome.results],
            "receipt": receipt,
            "leader": leader,
            "term": term,
        }
        if outcome.repeated_at is not None:
            shape["repeated_at"] = outcome.repeated_at
        return Response(encode_json(shape), term=term, leader=leader)

    async def _query(self, request: Request) -> Response:
        return await self._run_query(decode_json(_query_body, await request.body()))

    async def _query_by_url(self, request: Request) -> Response:
        given = request.parameters()
        if "sql" not in given:
            raise UsageError("?sql= is missing", hint="for example /api/v1/query?sql=SELECT%201")
        args = decode_json(_args_parameter, given.pop("args", "[]").encode())
        shape: dict[str, Any] = dict(given)
        for name in ("timeout_ms", "max_lag_ms"):
            text = given.get(name, "")
            if text.isascii() and text.isdecimal() and len(text) <= 12:
                shape[name] = int(text)
        try:
            query = msgspec.convert(shape, _Query)
        except msgspec.ValidationError as error:
            raise UsageError(f"bad query string: {error}") from None
        query.args = args
        return await self._run_query(query)

    async def _run_query(self, query: _Query) -> Response:
        check_sql(query.sql)
        args = args_from_json(query.args, "$.args")
        check_args(args)
        try:
            level = check_read(query.read, query.token, query.max_lag_ms)
        except UsageError as error:
            raise UsageError(f"$.read: {error.message}", hint=error.hint) from None
        reply = await self._service.query(
            query.sql,
            args,
            read=level,
            token=query.token,
            timeout_ms=check_timeout(query.timeout_ms),
        )
        result = reply.result
        shape = {
            "columns": result.columns,
            "types": result.types,
            "rows": rows_to_json(result.rows),
            "position": reply.position,
            "leader": reply.leader,
            "term": reply.term,
            "node": reply.node,
        }
        return Response(encode_json(shape), term=reply.term, leader=reply.leader)

    async def _status(self, request: Request) -> Response:
        return Response(encode_json(self._service.status()))

    async def _leader(self, request: Request) -> Response:
        name, term, where = self._service.leader()
        return Response(
            encode_json({**(where or {}), "leader": name, "term": term, "node": self._service.name})
        )

    async def _events(self, request: Request) -> Stream:
        stream = self._service.subscribe()
        return Stream(event_chunks(stream), stream.close, _EVENT_HEADERS)

    async def _admin(self, request: Request) -> Response:
        body = await request.body()
        params = decode_json(_params_body, body) if body.strip() else {}
        return Response(encode_json(await self._service.admin(request.tail, params)))

    async def _outcome(self, request: Request) -> Response:
        return Response(encode_json(await self._service.outcome(request.tail)))

    async def _lost(self, request: Request) -> Response:
        return Response(encode_json(await self._service.admin("lost_list", {})))

    async def _lost_one(self, request: Request) -> Response:
        if not _LOST_ID.match(request.tail):
            return Response(encode_json(await self._service.admin("lost_write", {"write": request.tail})))
        params = {"id": request.tail, **{k: v for k, v in request.parameters().items() if k == "node"}}
        return Response(encode_json(await self._service.admin("lost_show", params)))

    async def _metrics(self, request: Request) -> Response:
        text = metrics_text(self._service.status()).encode()
        return Response(text, headers=((b"content-type", METRICS_TYPE),))

    async def _healthz(self, request: Request) -> Response:
        return Response(encode_json({"ok": True, "node": self._service.name}))

    async def _readyz(self, request: Request) -> Response:
        ready = bool(self._service.status().get("ready"))
        leader, term = self._leads()
        shape = {"ready": ready, "node": self._service.name, "leader": leader, "term": term}
        return Response(encode_json(shape), 200 if ready else 503)

    # answers

    def _leads(self) -> tuple[str | None, int]:
        name, term, _ = self._service.leader()
        return name, term

    def _failure(
        self,
        error: PacelineError,
        status: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> Response:
        leader, term = self._leads()
        body = encode_json({"error": to_wire(error), "leader": leader, "term": term})
        json = (b"content-type", b"application/json")
        return Response(body, status or error.http_status, term, leader, (json, *headers))

    def _named(
        self, headers: tuple[tuple[bytes, bytes], ...], leader: str | None, term: int | None
    ) -> list[tuple[bytes, bytes]]:
        """``headers`` and those that every answer has."""
        if term is None:
            leader, term = self._leads()
        return [
            *headers,
            (b"paceline-node", self._node),
            (b"paceline-leader", (leader or "").encode()),
            (b"paceline-term", str(term).encode()),
        ]

    async def _send(self, answer: Response, send: Send, *, with_body: bool) -> None:
        headers = self._named(answer.headers, answer.leader, answer.term)
        headers.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body if with_body else b""})

    async def _send_stream(self, answer: Stream, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        pump = loop.create_task(self._pump(answer, send))
        gone = loop.create_task(Request({}, receive, "").disconnected())
        self._streams.add(pump)
        try:
            await asyncio.wait([pump, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._streams.discard(pump)
            pump.cancel()
            gone.cancel()
            await asyncio.gather(pump, gone, return_exceptions=True)
            answer.close()

    async def _pump(self, answer: Stream, send: Send) -> None:
        headers = self._named(answer.headers, None, None)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for chunk in answer.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            await answer.chunks.aclose()
            await send({"type": "http.response.body", "body": b""})


def _request_id(text: str | None) -> bytes | None:
    if text is None:
        return None
    identity = text.encode()
    if not 1 <= len(identity) <= REQUEST_ID_BYTES_MAX:
        raise UsageError(f"$.request_id: use 1 to {REQUEST_ID_BYTES_MAX} bytes of UTF-8")
    return identity
