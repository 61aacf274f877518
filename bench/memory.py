"""What a node of size costs: memory with a 1 GB database, start-up time with 100 MB of log.

    python -m bench.memory [--database-mb 1024] [--log-mb 100] [--dir DIR]

Memory: a cluster is made from a database of that size and written to for a
while; the peak of every node counts.  Start-up: the log is filled with random
BLOBs (they do not compress), the cluster is stopped and started again; what
counts is the time from the birth of the leader's process to its first answer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import uvloop

from bench.client import INSERT, Connection
from bench.cluster import LocalCluster, wait_for
from bench.machine import machine
from bench.writes import emit, measure

__all__ = ["fill", "main"]

_MIB = 1024 * 1024
_BLOB_BYTES = 64 * 1024


def fill(path: Path, megabytes: int) -> None:
    """An ordinary SQLite file: rows of 1,000 random bytes and an index."""
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE filler (id INTEGER PRIMARY KEY, k TEXT, body BLOB)")
    rows = megabytes * _MIB // 1150
    block = os.urandom(_MIB)
    body = ((f"key-{n * 7919 % rows}", block[n % 997 : n % 997 + 1000]) for n in range(rows))
    db.executemany("INSERT INTO filler (k, body) VALUES (?, ?)", body)
    db.execute("CREATE INDEX filler_k ON filler (k)")
    db.commit()
    db.close()


def memory(cluster: LocalCluster, source: Path) -> dict[str, Any]:
    """Peak memory of every node after import, join of the followers, and a load."""
    began = time.perf_counter()
    cluster.up(str(source))
    ready = time.perf_counter() - began
    load = measure(cluster, clients=64, durability="quorum", seconds=5, with_lag=False)
    peaks = cluster.peak_rss_mb()
    return {
        "name": "memory",
        "database_mb": round(source.stat().st_size / _MIB),
        "up_s": round(ready, 1),
        "peak_rss_mb": peaks,
        "tps": load["tps"],
        "ok": max(peaks.values()) < 200,
    }


async def _write_log(address: str, megabytes: int) -> None:
    leader = await Connection.open(address)
    await leader.execute("CREATE TABLE blobs (id INTEGER PRIMARY KEY, body BLOB)", [])
    for _ in range(megabytes * _MIB // _BLOB_BYTES):
        await leader.execute("INSERT INTO blobs (body) VALUES (?)", [os.urandom(_BLOB_BYTES)])
    leader.close()


async def _first_write(address: str) -> None:
    connection = await Connection.open(address)
    await connection.execute(INSERT, ["first", "write"])
    connection.close()


def _age_seconds(pid: int) -> float:
    """How long the process has lived."""
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def _up_age(cluster: LocalCluster, name: str) -> float | None:
    """The age of the node's process at the moment when it first answers."""
    pid = cluster.pid(name)
    return _age_seconds(pid) if pid is not None and cluster.status(name) is not None else None


def start_up(cluster: LocalCluster, megabytes: int) -> dict[str, Any]:
    """Seconds from the birth of the leader's process to its first answer, and to its first write."""
    leader = cluster.leader()
    uvloop.run(_write_log(cluster.address(leader), megabytes))
    log_mb = cluster.log_bytes(leader) / _MIB
    cluster.down()
    # `up` returns when every node is well; here the clock is the leader's own.
    starting = threading.Thread(target=cluster.resume)
    starting.start()
    answered = wait_for("an answer of the leader", lambda: _up_age(cluster, leader), 60, every=0.01)
    wait_for(
        "the leader's reign", lambda: (cluster.status(leader) or {}).get("role") == "leader", 60, every=0.01
    )
    uvloop.run(_first_write(cluster.address(leader)))
    pid = cluster.pid(leader)
    assert pid is not None
    written = _age_seconds(pid)
    starting.join()
    return {
        "name": "start-up",
        "log_mb": round(log_mb, 1),
        "answers_s": round(answered, 2),
        "first_write_s": round(written, 2),
        "ok": answered < 2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--database-mb", type=int, default=1024)
    parser.add_argument("--log-mb", type=int, default=100)
    parser.add_argument(
        "--dir", type=Path, default=Path("bench-data"), help="where the data goes; use a real disk"
    )
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="memory-", dir=options.dir))
    cluster = LocalCluster(folder / "data")
    try:
        source = folder / "source.db"
        fill(source, options.database_mb)
        emit({**memory(cluster, source), "machine": machine(folder)})
        emit({**start_up(cluster, options.log_mb), "machine": machine(folder)})
    finally:
        cluster.down()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
