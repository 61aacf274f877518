"""Single-row inserts: rate and latency for each number of clients and each durability.

    python -m bench.writes [--clients 1,16,64,256] [--durability quorum,...] [--seconds 8] [--rounds 1]
                           [--reference PATH] [--dir DIR]

Every measurement is one JSON line.  Each run starts with what the machine can do
by itself (a raw fdatasync loop, plain local SQLite with ``synchronous=FULL``).
With ``--reference`` each number of clients is measured A B A B: reference,
Paceline, reference, Paceline, each on data of its own, and a line with the ratio follows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench import reference
from bench.cluster import LocalCluster
from bench.machine import local_sqlite, machine

__all__ = ["main"]

_DURABILITIES: Final = ("async", "local", "any 1", "quorum", "all")


def emit(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


@contextlib.contextmanager
def fresh_cluster(folder: Path) -> Iterator[LocalCluster]:
    """Three nodes with an empty database; gone afterwards."""
    cluster = LocalCluster(Path(tempfile.mkdtemp(prefix="cluster-", dir=folder)) / "data")
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
        shutil.rmtree(cluster.path.parent)


def _run(module: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True)


def _result(process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    output, _ = process.communicate(timeout=seconds + 60)
    if process.returncode != 0:
        raise SystemExit(f"{process.args!r} failed")
    answer: dict[str, Any] = json.loads(output)
    return answer


def measure(
    cluster: LocalCluster, *, clients: int, durability: str, seconds: float, with_lag: bool
) -> dict[str, Any]:
    """One load on a running cluster and what it cost; with the lag of one follower when asked."""
    leader = cluster.leader()
    follower = cluster.followers()[0]
    address, duration = cluster.address(leader), str(seconds)
    cpu, log = cluster.cpu_seconds(), cluster.log_bytes(follower)
    load = _run("bench.client", address, str(clients), duration, durability)
    lag: dict[str, Any] = {}
    if with_lag:
        probe = _run("bench.lag", address, str(cluster.database(follower)), duration, durability)
        lag = _result(probe, seconds)
    result = _result(load, seconds)
    rows = result.pop("rows")
    return {
        "name": "insert",
        "clients": clients,
        "durability": durability,
        **result,
        **lag,
        "log_bytes_per_row": round((cluster.log_bytes(follower) - log) / rows, 1),
        "cpu_s": {name: round(now - cpu.get(name, 0.0), 2) for name, now in cluster.cpu_seconds().items()},
        "peak_rss_mb": cluster.peak_rss_mb(),
    }


def compare(folder: Path, program: Path, *, clients: int, seconds: float, rounds: int) -> None:
    """A B A B at quorum durability, which is what both sides have in common."""
    rates: dict[str, list[float]] = {"reference": [], "paceline": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="reference-", dir=folder) as data:
            theirs = reference.measure(program, Path(data), mode="quorum", clients=clients, seconds=seconds)
        emit({"name": "reference", "clients": clients, **theirs, "machine": machine(folder)})
        with fresh_cluster(folder) as cluster:
            ours = measure(cluster, clients=clients, durability="quorum", seconds=seconds, with_lag=False)
        emit({**ours, "machine": machine(folder)})
        rates["reference"].append(theirs["tps"])
        rates["paceline"].append(ours["tps"])
    medians = {name: statistics.median(values) for name, values in rates.items()}
    emit(
        {
            "name": "ratio",
            "clients": clients,
            "rounds": rounds,
            **medians,
            "ratio": round(medians["paceline"] / medians["reference"], 3),
        }
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.writes", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--clients", default="1,16,64,256", help="numbers of clients, with commas")
    parser.add_argument("--durability", default=",".join(_DURABILITIES), help="levels, with commas")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="of each measurement, after one of warm-up"
    )
    parser.add_argument("--rounds", type=int, default=2, help="how often A B is repeated with --reference")
    parser.add_argument("--reference", type=Path, metavar="PATH", help="a program to run interleaved")
    parser.add_argument(
        "--dir", type=Path, default=Path("bench-data"), help="where the data goes; use a real disk"
    )
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    options.dir.mkdir(parents=True, exist_ok=True)
    clients = [int(number) for number in options.clients.split(",")]
    emit({"name": "machine", **machine(options.dir)})
    emit(
        {
            "name": "local-sqlite",
            "clients": 1,
            "durability": "full",
            **local_sqlite(options.dir, options.seconds),
        }
    )
    if options.reference is not None:
        for number in clients:
            program = options.reference.resolve()
            compare(options.dir, program, clients=number, seconds=options.seconds, rounds=options.rounds)
        return
    for durability in options.durability.split(","):
        with fresh_cluster(options.dir) as cluster:
            for number in clients:
                line = measure(
                    cluster, clients=number, durability=durability, seconds=options.seconds, with_lag=True
                )
                emit({**line, "machine": machine(options.dir)})


if __name__ == "__main__":
    main()
