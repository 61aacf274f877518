"""Follower lag as an application sees it: from an acknowledgement to the row in the follower's file.

Twenty times a second it counts up one row through the leader, waits for the
acknowledgement, and then reads the follower's file with plain ``sqlite3`` until
the new number is there.

    python -m bench.lag HOST:PORT FOLLOWER.db SECONDS DURABILITY      prints one JSON line
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import time
from typing import Any

import uvloop

from bench.client import Connection

__all__ = ["main"]

_TABLE = "CREATE TABLE IF NOT EXISTS lag_probe (id INTEGER PRIMARY KEY, number INTEGER NOT NULL)"
_COUNT = "INSERT INTO lag_probe VALUES (1, ?) ON CONFLICT DO UPDATE SET number = excluded.number"
_EVERY_SECONDS = 0.05
_POLL_SECONDS = 0.0005
_GIVE_UP_SECONDS = 30.0


async def _wait_for(follower: sqlite3.Connection, number: int) -> None:
    give_up = time.perf_counter() + _GIVE_UP_SECONDS
    while True:
        row = follower.execute("SELECT number FROM lag_probe").fetchone()
        if row is not None and row[0] >= number:
            return
        if time.perf_counter() > give_up:
            raise SystemExit(f"the follower did not show write {number} within {_GIVE_UP_SECONDS} s")
        await asyncio.sleep(_POLL_SECONDS)


async def _open_when_there(path: str) -> sqlite3.Connection:
    """The table arrives by replication too."""
    follower = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10, isolation_level=None)
    give_up = time.perf_counter() + _GIVE_UP_SECONDS
    while not follower.execute("SELECT 1 FROM sqlite_schema WHERE name = 'lag_probe'").fetchone():
        if time.perf_counter() > give_up:
            raise SystemExit("the probe's table did not reach the follower")
        await asyncio.sleep(0.01)
    return follower


async def _probe(address: str, path: str, seconds: float, durability: str) -> dict[str, Any]:
    leader = await Connection.open(address)
    await leader.execute(_TABLE, [])
    follower = await _open_when_there(path)
    lags: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        # The wall clock as the number, so that a second probe goes on counting up.
        number = time.time_ns()
        await leader.execute(_COUNT, [number], durability)
        acknowledged = time.perf_counter()
        await _wait_for(follower, number)
        lags.append(time.perf_counter() - acknowledged)
        await asyncio.sleep(_EVERY_SECONDS)
    leader.close()
    lags.sort()
    return {
        "lag_ms_p50": round(lags[len(lags) // 2] * 1000, 2),
        "lag_ms_p99": round(lags[int(len(lags) * 0.99)] * 1000, 2),
        "samples": len(lags),
    }


def main(address: str, path: str, seconds: str, durability: str) -> None:
    print(json.dumps(uvloop.run(_probe(address, path, float(seconds), durability))))


if __name__ == "__main__":
    main(*sys.argv[1:])
