"""One asyncio connection to one node: numbers requests, matches replies, nothing more.

It never retries and never looks for a leader; its owner does.  Everything that
is asked in one turn of the loop leaves in one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any, Protocol, cast

from paceline.client import protocol
from paceline.client.call import Call
from paceline.client.routing import parse_address
from paceline.errors import PacelineError, ProtocolError, Unavailable, from_wire
from paceline.limits import CLIENT_CONNECT_SECONDS, CLIENT_FRAME_BYTES_MAX

__all__ = ["Connection", "Owner", "open_connection"]


class Owner(Protocol):
    """Who gets what comes back."""

    def answered(self, connection: Connection, call: Call, reply: protocol.Reply) -> None: ...

    def lost(self, connection: Connection, calls: list[Call], error: PacelineError) -> None:
        """The connection is gone; ``calls`` were sent and not answered."""
        ...


class Connection(asyncio.Protocol):
    welcome: protocol.Welcome

    def __init__(
        self, owner: Owner, address: str, on_event: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.address = address
        self._owner = owner
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._reader = protocol.FrameReader(CLIENT_FRAME_BYTES_MAX)
        self._out: list[bytes] = []
        self._number = 0
        self._error: PacelineError = Unavailable("the connection was closed")
        self._greeting: asyncio.Future[protocol.Welcome] = self._loop.create_future()
        self._retiring = False
        self.pending: dict[int, Call] = {}
        self.closed = False

    async def greet(self, client: str) -> None:
        """Exchange hello and welcome; raises ``PacelineError``."""
        self._write(protocol.encode_frame(protocol.Hello(protocol.MAGIC, list(protocol.VERSIONS), client)))
        self.welcome = await self._greeting

    def send(self, call: Call) -> None:
        """Raises ``UsageError``/``TooLarge`` when the call cannot be encoded; it is not pending then."""
        number = self._number
        while number in self.pending:
            number = (number + 1) & 0xFFFF_FFFF
        self._number = (number + 1) & 0xFFFF_FFFF
        call.message.number = number
        frame = protocol.encode_frame(call.message)
        self.pending[number] = call
        call.sent_at = self._loop.time()
        self._write(frame)

    def owes_since(self) -> float:
        """When the oldest request without an answer was sent; infinity when there is none."""
        oldest = next(iter(self.pending.values()), None)
        return oldest.sent_at if oldest is not None else inf

    def forget(self, number: int) -> None:
        """Nobody waits for this reply any more."""
        self.pending.pop(number, None)
        self._close_when_retired()

    def retire(self) -> None:
        """Take no more; close after the last reply."""
        self._retiring = True
        self._close_when_retired()

    def close(self) -> None:
        self.closed = True
        self._transport.close()

    def give_up(self, error: PacelineError) -> None:
        """Do not wait for what is owed here; it counts as lost."""
        self._error = error
        self._transport.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if exc is not None:
            self._error = Unavailable(f"the connection broke: {exc}")
        if not self._greeting.done():
            self._greeting.set_exception(self._error)
            self._greeting.exception()  # nobody may be waiting any more
        calls = list(self.pending.values())
        self.pending.clear()
        self._owner.lost(self, calls, self._error)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        try:
            while (body := reader.next()) is not None:
                self._receive(protocol.decode_reply(body))
        except ProtocolError as error:
            self._error = error
            self._transport.abort()

    def _receive(self, reply: protocol.Reply) -> None:
        if isinstance(reply, protocol.Welcome):
            if not self._greeting.done():
                self._greeting.set_result(reply)
            return
        if isinstance(reply, protocol.Event):
            if self._on_event is not None:
                self._on_event(reply.event)
            return
        if reply.number is None:  # the whole connection is refused
            self._error = from_wire(reply.error)
            self._transport.close()
            return
        call = self.pending.pop(reply.number, None)
        if call is not None:
            self._owner.answered(self, call, reply)
        if self._retiring:
            self._close_when_retired()

    def _close_when_retired(self) -> None:
        if self._retiring and not self.pending:
            self.close()

    def _write(self, frame: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
        self._out.clear()


async def open_connection(
    address: str,
    owner: Owner,
    client: str,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    *,
    seconds: float = CLIENT_CONNECT_SECONDS,
) -> Connection:
    """Connect and greet.  Raises ``OSError``, ``TimeoutError``, ``PacelineError``."""
    host, port = parse_address(address)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(seconds):
        _, connection = await loop.create_connection(lambda: Connection(owner, address, on_event), host, port)
        try:
            await connection.greet(client)
        except BaseException:
            connection.close()
            raise
    return connection
