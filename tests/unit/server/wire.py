"""A raw client for tests: sends any bytes, reads frames or HTTP answers, knows no library of ours but the codec."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from paceline.client import protocol as p

TIMEOUT = 10


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until ``condition``: for states of a server that no event announces."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *messages: p.Message | bytes) -> None:
        self.writer.write(b"".join(m if isinstance(m, bytes) else p.encode_frame(m) for m in messages))
        await self.writer.drain()

    async def receive(self) -> p.Reply:
        async with asyncio.timeout(TIMEOUT):
            length = int.from_bytes(await self.reader.readexactly(4), "big")
            return p.decode_reply(await self.reader.readexactly(length))

    async def ask(self, message: p.Message) -> p.Reply:
        await self.send(message)
        return await self.receive()

    async def ends(self) -> bytes:
        """Whatever comes until the server closes."""
        async with asyncio.timeout(TIMEOUT):
            return await self.reader.read()


@asynccontextmanager
async def connect(address: tuple[str, int], *, hello: bool = True) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection(*address)
    wire = Wire(reader, writer)
    try:
        if hello:
            assert isinstance(await wire.ask(p.Hello(p.MAGIC, [1], "test")), p.Welcome)
        yield wire
    finally:
        writer.transport.abort()


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def http(
    address: tuple[str, int], method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> Answer:
    """One request on a connection of its own; ``body`` is bytes or something for JSON."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"host": "test", "connection": "close", "content-length": str(len(content)), **(headers or {})}
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n"
    async with connect(address, hello=False) as wire:
        await wire.send(head.encode("latin-1") + content)
        return parse_answer(await wire.ends())


def parse_answer(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), {k.lower(): v for k, v in headers.items()}, body)
