"""What the machine can do at this moment: the numbers that every measurement is read beside.

``fdatasync`` is the floor under every durable write; plain local SQLite with
``synchronous=FULL`` is what a program has without replication.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from pathlib import Path
from typing import Any

from bench.client import INSERT, TABLE

__all__ = ["fdatasync_ms", "local_sqlite", "machine"]

_RECORD = b"x" * 200


def fdatasync_ms(folder: Path, seconds: float = 1.0) -> dict[str, float]:
    """Append 200 bytes and sync, again and again: p50 and p99 of one round."""
    path = folder / "fdatasync.tmp"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    times: list[float] = []
    end = time.perf_counter() + seconds
    try:
        while (started := time.perf_counter()) < end:
            os.write(fd, _RECORD)
            os.fdatasync(fd)
            times.append(time.perf_counter() - started)
    finally:
        os.close(fd)
        path.unlink()
    times.sort()
    return {
        "p50": round(times[len(times) // 2] * 1000, 3),
        "p99": round(times[int(len(times) * 0.99)] * 1000, 3),
    }


def machine(folder: Path) -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "arch": platform.machine(),
        "python": platform.python_version(),
        "fdatasync_ms": fdatasync_ms(folder),
    }


def local_sqlite(folder: Path, seconds: float) -> dict[str, Any]:
    """Single-row inserts by one process into a plain WAL-mode file, each durable (``synchronous=FULL``)."""
    path = folder / "local.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(TABLE)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        db.execute(INSERT, (f"k0-{len(times)}", "x" * 100))
        times.append(time.perf_counter() - started)
    db.close()
    for file in folder.glob("local.db*"):
        file.unlink()
    times.sort()
    return {
        "tps": round(len(times) / seconds, 1),
        "p50_ms": round(times[len(times) // 2] * 1000, 3),
        "p99_ms": round(times[int(len(times) * 0.99)] * 1000, 3),
    }
