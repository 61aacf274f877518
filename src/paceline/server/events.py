"""The service's events as server-sent events.

An event becomes ``id:`` (a counter of this stream), ``event:`` (its kind) and
``data:`` (the whole of it as JSON).  A comment every ``HTTP_HEARTBEAT_SECONDS``
keeps proxies from closing a quiet stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from paceline.limits import HTTP_HEARTBEAT_SECONDS
from paceline.server.service import EventStream

__all__ = ["event_chunks"]

_encode = msgspec.json.Encoder().encode


async def event_chunks(
    stream: EventStream, heartbeat_seconds: float = HTTP_HEARTBEAT_SECONDS
) -> AsyncGenerator[bytes, None]:
    """Bytes to send as they come; ends when the stream ends.  The caller closes ``stream``."""
    events = aiter(stream)
    number = 0
    waiting: asyncio.Task[dict[str, Any]] | None = None
    try:
        yield b": paceline events\n\n"
        while True:
            waiting = waiting or asyncio.ensure_future(_next(events))
            done, _ = await asyncio.wait([waiting], timeout=heartbeat_seconds)
            if not done:
                yield b": heartbeat\n\n"
                continue
            try:
                event = waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
            number += 1
            kind = str(event.get("event", "message")).replace("\n", " ").encode()
            yield b"id: %d\nevent: %b\ndata: %b\n\n" % (number, kind, _encode(event))
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def _next(events: Any) -> dict[str, Any]:
    event: dict[str, Any] = await anext(events)
    return event
