"""A fourth node joins under load: how long it takes, and what the writers feel.

    python -m bench.join [--database-mb 200] [--clients 16] [--dir DIR]

One line: the time to join, and rate and latencies of the same load without and
with the join.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench.cluster import LocalCluster, wait_for
from bench.machine import machine
from bench.memory import fill
from bench.writes import emit, measure

__all__ = ["main"]

_SECONDS = 10.0


def _join(cluster: LocalCluster, result: dict[str, float]) -> None:
    """Add n4 two seconds into the load; time until it is healthy."""
    time.sleep(2)
    began = time.perf_counter()
    cluster.command("node", "add", "n4", seconds=300)
    wait_for("four healthy nodes", lambda: cluster.healthy(4), 300)
    result["join_s"] = round(time.perf_counter() - began, 2)


def join(cluster: LocalCluster, clients: int) -> dict[str, Any]:
    before = measure(cluster, clients=clients, durability="quorum", seconds=_SECONDS, with_lag=False)
    result: dict[str, float] = {}
    joining = threading.Thread(target=_join, args=(cluster, result))
    joining.start()
    during = measure(cluster, clients=clients, durability="quorum", seconds=_SECONDS, with_lag=False)
    joining.join()
    figures = ("tps", "p50_ms", "p99_ms")
    return {
        "name": "join",
        "clients": clients,
        "durability": "quorum",
        **result,
        "without": {figure: before[figure] for figure in figures},
        "joining": {figure: during[figure] for figure in figures},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.join", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--database-mb", type=int, default=200)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument(
        "--dir", type=Path, default=Path("bench-data"), help="where the data goes; use a real disk"
    )
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="join-", dir=options.dir))
    cluster = LocalCluster(folder / "data")
    try:
        fill(folder / "source.db", options.database_mb)
        cluster.up(str(folder / "source.db"))
        line = {"database_mb": options.database_mb, **join(cluster, options.clients)}
        emit({**line, "machine": machine(folder)})
    finally:
        cluster.down()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
