"""One client connection of the native protocol.

Rules.  Requests are started in the order they arrive and answered in the order
they finish.  Replies made in one turn of the loop leave in one write.

A client that is slow, greedy or wrong hurts only itself.  The session stops
reading while the client has ``CLIENT_INFLIGHT_MAX`` requests (or their bytes'
limit) open or does not take its replies, and it cuts a connection whose unsent
replies pass ``CLIENT_UNSENT_BYTES_ABORT``.  Bytes that are not the protocol get
one error frame; the connection then lingers for a moment, reading and dropping,
so that the error is not lost to a TCP reset.

An idle session holds this object and no task or timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final, assert_never, cast

from paceline.client import protocol
from paceline.errors import Overloaded, PacelineError, ProtocolError, Unavailable
from paceline.limits import (
    CLIENT_FRAME_BYTES_MAX,
    CLIENT_HELLO_SECONDS,
    CLIENT_INFLIGHT_BYTES_MAX,
    CLIENT_INFLIGHT_MAX,
    CLIENT_LINGER_SECONDS,
    CLIENT_QUERIES_MAX,
    CLIENT_UNSENT_BYTES_ABORT,
    CLIENT_UNSENT_BYTES_MAX,
    KIB,
    TIMEOUT_MS_DEFAULT,
)
from paceline.server.requests import check_args, check_read, check_sql, check_timeout, write_request
from paceline.server.service import WriteReply

if TYPE_CHECKING:
    from paceline.server.native import NativeServer

__all__ = ["Session"]

_SUBSCRIPTIONS_MAX: Final = 8
_LARGE_BYTES: Final = 64 * KIB
_frame: Final = protocol.encode_frame


class Session(asyncio.Protocol):
    def __init__(self, server: NativeServer) -> None:
        self._server = server
        self._service = server.service
        self._replies = server.replies
        self._loop = server.loop
        self._reader = protocol.FrameReader()
        self._out: list[bytes] = []
        self._inflight = 0
        self._inflight_bytes = 0
        self._greeted = False
        self._closing = False
        self._reading = True
        self._subscriptions = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._query_slots = asyncio.Semaphore(CLIENT_QUERIES_MAX)
        self.closed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._flowing = True
        """The same as ``_writable``, for looking at often."""

    # connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=CLIENT_UNSENT_BYTES_MAX)
        peer = transport.get_extra_info("peername")
        self._client = f"{peer[0]}:{peer[1]}" if peer else "?"
        self._timer = self._loop.call_later(CLIENT_HELLO_SECONDS, self._no_hello)
        if not self._server.admit(self):
            self._refuse(
                Overloaded(
                    f"node {self._service.name} has all the client connections that it takes",
                    hint="close idle connections, or connect to another node",
                )
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._timer.cancel()
        self._server.discard(self)
        self.closed.set()
        for task in self._tasks:
            task.cancel()

    def eof_received(self) -> bool:
        return False  # a client that says no more takes no more answers

    def pause_writing(self) -> None:
        self._flowing = False
        self._writable.clear()
        self._regulate()

    def resume_writing(self) -> None:
        self._flowing = True
        self._writable.set()
        self._regulate()

    def shutdown(self) -> None:
        """The server closes: say so, then go."""
        self._refuse(Unavailable(f"node {self._service.name} is shutting down", hint="use another node"))

    # bytes in

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._reader.feed(data)
        self._regulate()

    def _regulate(self) -> None:
        """Take what has arrived, as far as the bounds allow; read on only below them."""
        if self._closing:
            return
        reader = self._reader
        try:
            room = self._has_room()
            while room and not reader.empty:
                body = reader.next()
                if body is None:
                    break
                if self._greeted and type(request := protocol.decode_request(body)) is protocol.Execute:
                    self._execute(request, len(body))  # nearly all there is: the short way
                elif self._greeted:
                    self._start(request, len(body))
                else:
                    self._greet(body)
                room = self._has_room()
        except ProtocolError as error:
            self._refuse(error)
            return
        if room is not self._reading and not self._transport.is_closing():
            self._reading = room
            (self._transport.resume_reading if room else self._transport.pause_reading)()

    def _has_room(self) -> bool:
        return (
            self._inflight < CLIENT_INFLIGHT_MAX
            and self._inflight_bytes < CLIENT_INFLIGHT_BYTES_MAX
            and self._flowing
            and not self._closing
        )

    def _greet(self, body: protocol.Body) -> None:
        hello, version = protocol.decode_hello(body)
        self._greeted = True
        self._timer.cancel()
        self._client = f"{hello.client}@{self._client}"
        self._reader.limit = CLIENT_FRAME_BYTES_MAX
        self._send(self._replies.welcome(version))

    def _start(self, request: protocol.Request, size: int) -> None:
        match request:
            case protocol.Execute():
                self._execute(request, size)
            case protocol.Query():
                self._start_answer(request.number, size, self._query(request))
            case protocol.Status():
                self._send(_frame(protocol.Info(request.number, self._service.status())))
            case protocol.Leader():
                self._send(_frame(protocol.Info(request.number, self._leader_info())))
            case protocol.Subscribe():
                self._subscribe(request.number)
            case protocol.Admin():
                self._start_answer(request.number, size, self._admin(request))
            case protocol.Outcome():
                self._start_answer(request.number, size, self._outcome(request))
            case protocol.Ping():
                self._send(_frame(protocol.Pong(request.number)))
            case _:
                assert_never(request)

    # requests

    def _execute(self, request: protocol.Execute, size: int) -> None:
        try:
            write = write_request(request.statements, request.durability, request.request_id, self._client)
        except PacelineError as error:
            self._send(self._replies.failure(request.number, error))
            return
        self._inflight += 1
        self._inflight_bytes += size
        self._service.submit(
            write, request.timeout_ms or TIMEOUT_MS_DEFAULT, partial(self._executed, request.number, size)
        )

    def _executed(self, number: int, size: int, reply: WriteReply | PacelineError) -> None:
        self._inflight -= 1
        self._inflight_bytes -= size
        if self._closing:
            return
        if isinstance(reply, PacelineError):
            frame = self._replies.failure(number, reply)
        else:
            try:
                frame = self._replies.written(number, reply)
            except PacelineError as error:  # values that cannot travel
                frame = self._replies.failure(number, error)
        self._send(frame)
        if not self._reading:
            self._loop.call_soon(self._regulate)

    async def _query(self, request: protocol.Query) -> bytes:
        check_sql(request.sql)
        check_args(request.args)
        async with self._query_slots:
            await self._writable.wait()
            reply = await self._service.query(
                request.sql,
                request.args,
                read=check_read(request.read),
                token=request.token,
                timeout_ms=check_timeout(request.timeout_ms),
            )
        return self._replies.rows(request.number, reply)

    async def _admin(self, request: protocol.Admin) -> bytes:
        info = await self._service.admin(request.op, request.params)
        return _frame(protocol.Info(request.number, info))

    async def _outcome(self, request: protocol.Outcome) -> bytes:
        return _frame(protocol.Info(request.number, await self._service.outcome(request.position)))

    def _leader_info(self) -> dict[str, Any]:
        name, term, where = self._service.leader()
        return {**(where or {}), "leader": name, "term": term}

    def _subscribe(self, number: int) -> None:
        if self._subscriptions >= _SUBSCRIPTIONS_MAX:
            error = Overloaded(f"a connection may hold {_SUBSCRIPTIONS_MAX} subscriptions")
            self._send(self._replies.failure(number, error))
            return
        self._subscriptions += 1
        self._send(_frame(protocol.Info(number, {})))
        self._spawn(self._push_events(number))

    async def _push_events(self, number: int) -> None:
        stream = self._service.subscribe()
        try:
            async for event in stream:
                self._send(_frame(protocol.Event(number, event)))
                await self._writable.wait()
        finally:
            stream.close()
            self._subscriptions -= 1

    async def _answer(self, number: int, size: int, work: Coroutine[Any, Any, bytes]) -> None:
        try:
            frame = await work
        except PacelineError as error:
            frame = self._replies.failure(number, error)
        finally:
            self._inflight -= 1
            self._inflight_bytes -= size
        self._send(frame)
        if not self._reading:
            self._regulate()

    def _start_answer(self, number: int, size: int, work: Coroutine[Any, Any, bytes]) -> None:
        self._inflight += 1
        self._inflight_bytes += size
        self._spawn(self._answer(number, size, work))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task ends by itself or with its connection; else it is a bug, the runtime's to judge."""
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._loop.call_exception_handler(
            {"message": "a client request failed", "exception": error, "task": task}
        )
        self._refuse(Unavailable(f"node {self._service.name} failed on a request", hint="see its log"))

    # bytes out

    def _send(self, frame: bytes) -> None:
        if self._closing:
            return
        if not self._out:
            self._server.flush_soon(self)
        self._out.append(frame)
        if len(frame) >= _LARGE_BYTES:
            self.flush()  # now, so that the transport can say 'full' before the next query starts

    def flush(self) -> None:
        """Write what was sent since the last time."""
        out = self._out
        if out and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            if not self._flowing and self._transport.get_write_buffer_size() > CLIENT_UNSENT_BYTES_ABORT:
                self._transport.abort()
        out.clear()

    def _refuse(self, error: PacelineError) -> None:
        """Say why, then close; see the module docstring."""
        if self._closing:
            return
        self._send(self._replies.failure(None, error))
        self.flush()
        self._closing = True
        self._timer.cancel()
        if self._transport.is_closing():
            return
        try:
            self._transport.write_eof()
        except OSError:  # the client has gone already, and the loop not told us yet
            self._transport.abort()
            return
        if not self._reading:
            self._transport.resume_reading()
        self._timer = self._loop.call_later(CLIENT_LINGER_SECONDS, self._transport.abort)

    def _no_hello(self) -> None:
        self._refuse(ProtocolError(f"no hello within {CLIENT_HELLO_SECONDS:.0f} s"))
