"""What each durability costs, and what is left of it with one follower down.

    python -m bench.durability [--levels quorum,all,...] [--clients 1,16] [--seconds 4] [--down-seconds 4] [--dir DIR]

Three nodes with default settings on loopback.  For every level: rate and latency of single-row inserts for each number
of clients; then one follower is stopped in the middle of one client's writes (SIGSTOP: it says nothing more, its
connections stay), once for each policy for levels that cannot be reached.  One JSON line for each level.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.client import INSERT, TABLE
from bench.cluster import LocalCluster, wait_for
from bench.machine import machine
from bench.writes import emit, fresh_cluster, measure
from paceline.client import AsyncClient
from paceline.errors import OutcomeUnknown, PacelineError

__all__ = ["Tally", "main"]

_POLICIES: Final = ("wait", "fail", "degrade")
_LEVELS: Final = (
    "async",
    "local",
    "any 1",
    "any 2",
    "first 1",
    "quorum",
    "quorum+applied",
    "all",
    "all+applied",
)
_DEGRADE_AFTER_MS: Final = 500
_LIMIT_MS: Final = 1_000
"""Of each write while a follower is down; without an answer by then it was not acknowledged."""
_PAUSE_SECONDS: Final = 0.01
"""After a write that was not acknowledged, as a polite client would."""


class Tally:
    """What one client met; ``available`` is the share of the time in which its writes were acknowledged."""

    def __init__(self) -> None:
        self.as_asked = self.degraded = self.refused = self.unknown = 0
        self.served_s = self.lost_s = self.longest_s = 0.0

    def acknowledged(self, seconds: float, *, degraded: bool) -> None:
        self.as_asked += not degraded
        self.degraded += degraded
        self.served_s += seconds
        self.longest_s = max(self.longest_s, seconds)

    def failed(self, seconds: float, *, unknown: bool) -> None:
        self.refused += not unknown
        self.unknown += unknown
        self.lost_s += seconds

    def line(self) -> dict[str, Any]:
        whole = self.served_s + self.lost_s
        return {
            "available": round(self.served_s / whole, 3) if whole else 0.0,
            "as_asked": self.as_asked,
            "degraded": self.degraded,
            "refused": self.refused,
            "unknown": self.unknown,
            "longest_ack_ms": round(self.longest_s * 1000, 1),
        }


async def _write(address: str, durability: str, seconds: float, stop: Any) -> Tally:
    """Inserts one after the other; ``stop`` is called before the first one that counts."""
    tally = Tally()
    async with AsyncClient([address], timeout_ms=_LIMIT_MS) as client:
        await client.execute(TABLE, timeout_ms=10_000)
        stop()
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            try:
                reply = await client.execute([(INSERT, ["k", "x" * 100])], durability)
            except PacelineError as error:
                await asyncio.sleep(_PAUSE_SECONDS)
                tally.failed(time.perf_counter() - began, unknown=isinstance(error, OutcomeUnknown))
                continue
            assert reply.receipt is not None
            tally.acknowledged(time.perf_counter() - began, degraded=reply.receipt.asked is not None)
    return tally


def _whole(cluster: LocalCluster) -> bool:
    """Everybody is back, has everything, and no level is degraded."""
    status = cluster.status(cluster.leader())
    return (
        cluster.healthy(3)
        and status is not None
        and not status["degraded"]
        and all(member["reachable"] and member["lag_entries"] == 0 for member in status["members"])
    )


def _with_one_down(cluster: LocalCluster, durability: str, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for policy in _POLICIES:
        cluster.command("cluster", "set", f"unreached={policy}", f"degrade_after_ms={_DEGRADE_AFTER_MS}")
        address, down = cluster.address(cluster.leader()), cluster.followers()[0]

        def stop(name: str = down) -> None:
            cluster.signal(name, signal.SIGSTOP)

        try:
            found[policy] = uvloop.run(_write(address, durability, seconds, stop)).line()
        finally:
            cluster.signal(down, signal.SIGCONT)
        wait_for("a whole cluster", lambda: _whole(cluster), 60)
    return found


def _survives(cluster: LocalCluster, durability: str) -> str:
    report = json.loads(cluster.command("cluster", "show", "--json"))
    bare = durability.removesuffix("+applied")
    return next(str(level["survives"]) for level in report["levels"] if level["durability"].startswith(bare))


def _measure(
    cluster: LocalCluster, level: str, clients: list[int], seconds: float, down_seconds: float
) -> dict[str, Any]:
    # A level that names nodes: the one that will be stopped comes first.
    durability = f"first 1 ({', '.join(cluster.followers())})" if level == "first 1" else level
    loads = []
    for number in clients:
        load = measure(cluster, clients=number, durability=durability, seconds=seconds, with_lag=False)
        loads.append({key: load[key] for key in ("clients", "tps", "p50_ms", "p99_ms")})
    wait_for("a whole cluster", lambda: _whole(cluster), 60)
    return {
        "name": "durability",
        "durability": durability,
        "survives": _survives(cluster, level),
        "whole": loads,
        "one_follower_down": _with_one_down(cluster, durability, down_seconds),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.durability", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--levels", default=",".join(_LEVELS), help="levels, with commas")
    parser.add_argument("--clients", default="1,16", help="numbers of clients, with commas")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load, after one of warm-up")
    parser.add_argument(
        "--down-seconds", type=float, default=4.0, help="with a follower down, for each policy"
    )
    parser.add_argument(
        "--dir", type=Path, default=Path("bench-data"), help="where the data goes; use a real disk"
    )
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    options.dir.mkdir(parents=True, exist_ok=True)
    clients = [int(number) for number in options.clients.split(",")]
    with fresh_cluster(options.dir) as cluster:
        for level in options.levels.split(","):
            line = _measure(cluster, level, clients, options.seconds, options.down_seconds)
            emit({**line, "machine": machine(options.dir)})


if __name__ == "__main__":
    main()
