"""The writers: many clients in one process, each letting its flights depart and land through the leader.

A departure is one transaction (insert the flight, count it on the board), a
landing is another (fill in the arrival, count it).  Commands come on standard
input, one JSON line each: ``{"rate": N}`` (transactions per second, 0: as fast
as the answers come), ``{"mark": NAME}`` (answer with what happened since the
last mark), ``{"stop": true}``.

What was acknowledged is written to a SQLite file of its own, so that the demo
can look for every single flight on every node afterwards.

    python -m demo.writer HOST:PORT,HOST:PORT,... CLIENTS ACKNOWLEDGED.db
"""

from __future__ import annotations

import asyncio
import collections
import json
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import uvloop

from demo.flights import live_flights
from paceline.client import AsyncClient
from paceline.errors import PacelineError

__all__ = ["main"]

_DEPART: Final = (
    "INSERT INTO flights (year, month, day, dep_time, sched_dep_time, dep_delay, sched_arr_time, carrier,"
    " flight, tailnum, origin, dest, distance, hour, minute, time_hour)"
    " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_LAND: Final = (
    "UPDATE flights SET arr_time = ?, arr_delay = ?, air_time = ? WHERE id = ? AND arr_time IS NULL"
)
_COUNT_DEPARTED: Final = "UPDATE board SET departed = departed + changes()"
_COUNT_LANDED: Final = "UPDATE board SET landed = landed + changes()"
_IN_THE_AIR: Final = 20
"""Flights that each client lets depart before it lands the first."""

Flight = list[int | str | None]


def _departure(flight: Flight) -> Flight:
    """All columns that are known when a flight leaves."""
    return [*flight[:6], flight[7], *flight[9:14], *flight[15:19]]


@dataclass(slots=True)
class Tally:
    """What happened since the last mark."""

    since: float = field(default_factory=time.perf_counter)
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    longest_gap: float = 0.0
    last: float = field(default_factory=time.perf_counter)

    def add(self, started: float) -> None:
        now = time.perf_counter()
        self.seconds.append(now - started)
        self.longest_gap = max(self.longest_gap, now - self.last)
        self.last = now

    def report(self, name: str) -> dict[str, Any]:
        latencies = sorted(self.seconds)
        elapsed = time.perf_counter() - self.since

        def percentile(share: float) -> float:
            return round(latencies[int(len(latencies) * share)] * 1000, 2) if latencies else 0.0

        return {
            "mark": name,
            "transactions": len(latencies),
            "tps": round(len(latencies) / elapsed, 1),
            "p50_ms": percentile(0.50),
            "p99_ms": percentile(0.99),
            "longest_gap_ms": round(self.longest_gap * 1000, 1),
            "errors": len(self.errors),
            "first_errors": self.errors[:3],
        }


class Pace:
    """Lets transactions through at ``rate`` a second, evenly; 0 lets everything through."""

    def __init__(self) -> None:
        self.rate = 0.0
        self._next = 0.0

    async def turn(self) -> None:
        if not self.rate:
            return
        now = time.perf_counter()
        self._next = max(self._next, now - 0.05) + 1 / self.rate
        if self._next > now:
            await asyncio.sleep(self._next - now)


class Writers:
    def __init__(self, addresses: list[str], flights: Iterator[Flight]) -> None:
        self.addresses = addresses
        self.flights = flights
        self.pace = Pace()
        self.tally = Tally()
        self.stopped = False
        self.departed: list[tuple[int, str | int | None, str | int | None, str | int | None]] = []
        self.landed: list[tuple[int]] = []

    async def client(self) -> None:
        """One client with a connection of its own, one transaction at a time."""
        air: collections.deque[tuple[int, Flight]] = collections.deque()
        async with AsyncClient(self.addresses) as client:
            while not self.stopped:
                await self.pace.turn()
                if len(air) >= _IN_THE_AIR:
                    done = await self.land(client, *air[0])
                    if done:
                        air.popleft()
                    continue
                flight = next(self.flights, None)
                if flight is None:
                    return
                number = await self.depart(client, flight)
                if number is not None and flight[6] is not None:
                    air.append((number, flight))

    async def depart(self, client: AsyncClient, flight: Flight) -> int | None:
        started = time.perf_counter()
        try:
            reply = await client.execute([(_DEPART, _departure(flight)), (_COUNT_DEPARTED, [])])
        except PacelineError as error:
            self.tally.errors.append(str(error))
            return None
        self.tally.add(started)
        assert reply.results is not None
        number = reply.results[0].last_insert_rowid
        self.departed.append((number, flight[18], flight[9], flight[10]))
        return number

    async def land(self, client: AsyncClient, number: int, flight: Flight) -> bool:
        started = time.perf_counter()
        try:
            await client.execute([(_LAND, [flight[6], flight[8], flight[14], number]), (_COUNT_LANDED, [])])
        except PacelineError as error:
            self.tally.errors.append(str(error))
            return False
        self.tally.add(started)
        self.landed.append((number,))
        return True

    async def obey(self) -> None:
        """Read commands until told to stop, or until nobody is there to give them."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            match json.loads(line):
                case {"rate": rate}:
                    self.pace.rate = float(rate)
                case {"mark": name}:
                    print(json.dumps(self.tally.report(name)), flush=True)
                    self.tally = Tally()
                case {"stop": True}:
                    break
        self.stopped = True

    def save(self, path: str) -> None:
        db = sqlite3.connect(path)
        db.executescript(
            "CREATE TABLE departed (id INTEGER PRIMARY KEY, time_hour TEXT, carrier TEXT, flight INTEGER);"
            "CREATE TABLE landed (id INTEGER PRIMARY KEY);"
        )
        db.executemany("INSERT INTO departed VALUES (?,?,?,?)", self.departed)
        db.executemany("INSERT INTO landed VALUES (?)", self.landed)
        db.commit()
        db.close()


async def _run(addresses: list[str], clients: int, acknowledged: str) -> None:
    writers = Writers(addresses, iter(live_flights()))
    print(json.dumps({"ready": clients}), flush=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(writers.obey())
        for _ in range(clients):
            group.create_task(writers.client())
    writers.save(acknowledged)
    print(json.dumps({"departed": len(writers.departed), "landed": len(writers.landed)}), flush=True)


def main(addresses: str, clients: str, acknowledged: str) -> None:
    uvloop.run(_run(addresses.split(","), int(clients), acknowledged))


if __name__ == "__main__":
    main(*sys.argv[1:])
