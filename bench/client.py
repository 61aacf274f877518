"""The load: N clients in one light process, each with a connection of its own and one insert in flight.

It speaks the native protocol through the shipped codec and nothing else of the
client library, so that what is measured is the cluster.

    python -m bench.client HOST:PORT CLIENTS SECONDS DURABILITY      prints one JSON line
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop

from paceline.client.protocol import (
    MAGIC,
    VERSIONS,
    Execute,
    FrameReader,
    Hello,
    Message,
    Reply,
    Welcome,
    Written,
    decode_reply,
    encode_frame,
)
from paceline.limits import MIB

__all__ = ["INSERT", "TABLE", "Connection", "main"]

TABLE = "CREATE TABLE IF NOT EXISTS kv (id INTEGER PRIMARY KEY, k TEXT, v TEXT)"
INSERT = "INSERT INTO kv (k, v) VALUES (?, ?)"
_VALUE = "x" * 100
_WARM_UP_SECONDS = 1.0


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._frames = FrameReader(limit=MIB)
        self._reply: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, address: str) -> Connection:
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, host, int(port))
        welcome = await connection.ask(Hello(MAGIC, list(VERSIONS), "bench"))
        assert isinstance(welcome, Welcome), welcome
        return connection

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._frames.feed(data)
        while (body := self._frames.next()) is not None:
            assert self._reply is not None
            self._reply.set_result(decode_reply(body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionResetError("the node closed the connection"))

    def ask(self, message: Message) -> asyncio.Future[Reply]:
        assert self._transport is not None
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(encode_frame(message))
        return self._reply

    async def execute(self, sql: str, args: list[Any], durability: str | None = None) -> Written:
        reply = await self.ask(Execute(1, [(sql, args)], durability))
        if not isinstance(reply, Written) or reply.error is not None:
            raise SystemExit(f"a write failed: {reply}")
        return reply

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


async def _load(address: str, clients: int, seconds: float, durability: str) -> dict[str, Any]:
    connections = [await Connection.open(address) for _ in range(clients)]
    await connections[0].execute(TABLE, [])
    latencies: list[float] = []
    begin = time.perf_counter() + _WARM_UP_SECONDS
    end = begin + seconds
    written = 0

    async def one(number: int, connection: Connection) -> None:
        nonlocal written
        turn = 0
        while (started := time.perf_counter()) < end:
            turn += 1
            await connection.execute(INSERT, [f"k{number}-{turn}", _VALUE], durability)
            written += 1
            if started >= begin:
                latencies.append(time.perf_counter() - started)

    await asyncio.gather(*(one(number, connection) for number, connection in enumerate(connections)))
    for connection in connections:
        connection.close()
    latencies.sort()
    return {
        "tps": round(len(latencies) / seconds, 1),
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 3),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1000, 3),
        "rows": written,
        "client_cpu_s": round(time.process_time(), 3),
    }


def main(address: str, clients: str, seconds: str, durability: str) -> None:
    print(json.dumps(uvloop.run(_load(address, int(clients), float(seconds), durability))))


if __name__ == "__main__":
    main(*sys.argv[1:])
