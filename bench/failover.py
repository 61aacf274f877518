"""How long nobody can write when the leader dies, and when it hands over.

    python -m bench.failover [--runs 100] [--switches 100] [--dir DIR]

Three nodes with default settings on loopback, and a client that writes all the time, one row after the
other.  Again and again the leader is killed with -9; what counts is the time from the kill to the first
write that a new leader acknowledges to that client.  Then the killed node starts again, and when it is
in line the next leader dies.  A planned switch is measured from the client's side too: the longest time
between two acknowledgements around it.  One JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop

from bench.client import INSERT, TABLE
from bench.cluster import LocalCluster, wait_for
from bench.machine import machine
from bench.writes import emit
from paceline.client import AsyncClient, Client
from paceline.errors import PacelineError

__all__ = ["Ack", "Nodes", "Writer", "main", "percentiles"]

KILL_GOAL_MS: Final = {"p50": 1000.0, "p99": 3000.0}
SWITCH_GOAL_MS: Final = {"p99": 300.0}
_IN_LINE_SECONDS: Final = 60.0
_CALM_SECONDS: Final = (0.3, 0.6)
"""Undisturbed writing before the next blow; drawn, so that heartbeats stand anywhere."""


class Ack(NamedTuple):
    """An acknowledged write: when, and which reign acknowledged it."""

    at: float
    term: int
    leader: str


class Writer:
    """A client in a thread of its own; every acknowledgement is kept."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        self.acks: list[Ack] = []
        self.errors: list[str] = []
        self._stopped = False
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join(60)

    async def _run(self) -> None:
        async with AsyncClient(self.addresses) as client:
            await client.execute(TABLE)
            turn = 0
            while not self._stopped:
                turn += 1
                try:
                    reply = await client.execute([(INSERT, [f"k{turn}", "x" * 100])])
                except PacelineError as error:
                    self.errors.append(str(error))
                    await asyncio.sleep(0.01)
                    continue
                assert reply.receipt is not None
                self.acks.append(Ack(time.perf_counter(), reply.receipt.term, reply.receipt.leader))

    def first_later(self, mark: int, term: int) -> Ack | None:
        """The first of ``acks[mark:]`` that a reign after ``term`` gave."""
        return next((ack for ack in self.acks[mark:] if ack.term > term), None)

    def pause_ms(self, since: float, until: float) -> float:
        """The longest time without an acknowledgement that ended between the two moments."""
        times = [ack.at for ack in self.acks if ack.at <= until]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times) if later >= since]
        return max(gaps, default=0.0) * 1000


class Nodes:
    """The nodes of a cluster as processes of this program: nobody else starts them again."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        folder = self.cluster.path / name
        with open(folder / "node.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "paceline", "serve", "--config", str(folder / "paceline.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self, name: str) -> float:
        """kill -9; returns the moment."""
        process = self._processes.pop(name)
        now = time.perf_counter()
        process.kill()
        process.wait()
        return now

    def stop(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            process.wait(30)
        self._processes.clear()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Nodes]:
    """Three nodes, founded by ``paceline up`` with nothing but defaults, then run by this program."""
    cluster = LocalCluster(Path(tempfile.mkdtemp(prefix="failover-", dir=folder)) / "data")
    nodes = Nodes(cluster)
    try:
        cluster.up()
        cluster.down()
        for name in cluster.nodes():
            nodes.start(name)
        cluster.wait_until_healthy(3)
        yield nodes
    except BaseException:
        print(f"the nodes' logs (node.log) are in {cluster.path}", file=sys.stderr)
        raise
    finally:
        nodes.stop()
    shutil.rmtree(cluster.path.parent)


def in_line(cluster: LocalCluster, name: str) -> bool:
    """Whether ``name`` follows, healthy, and has applied what its leader has committed."""
    status = cluster.status(name)
    if status is None or status["health"] != "ok" or not status["ready"] or status["role"] != "follower":
        return False
    leader = cluster.status(status["leader"])
    return leader is not None and status["applied"] >= leader["commit"] - 100


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50 and p99 by nearest rank, and the largest."""
    ordered = sorted(values)
    ranks = {"p50": 0.50, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[math.ceil(len(ordered) * share) - 1], 1) for name, share in ranks.items()}


def _calm(writer: Writer) -> None:
    """Wait until writes have gone on undisturbed for a moment."""
    count = len(writer.acks)
    wait_for("writing", lambda: len(writer.acks) > count + 10, 30, every=0.01)
    time.sleep(random.uniform(*_CALM_SECONDS))


def kills(nodes: Nodes, writer: Writer, runs: int) -> dict[str, list[float]]:
    """Kill the leader ``runs`` times: milliseconds until a write was acknowledged, and until it was back in line."""
    cluster = nodes.cluster
    found: dict[str, list[float]] = {"kill": [], "back": []}
    for run in range(runs):
        _calm(writer)
        mark = len(writer.acks)
        _, term, leader = writer.acks[-1]
        killed = nodes.kill(leader)
        ack = wait_for("a write after the kill", lambda: writer.first_later(mark, term), 60, every=0.005)  # noqa: B023
        found["kill"].append((ack.at - killed) * 1000)
        started = time.perf_counter()
        nodes.start(leader)
        wait_for(f"{leader} in line", lambda: in_line(cluster, leader), _IN_LINE_SECONDS, every=0.02)  # noqa: B023
        found["back"].append((time.perf_counter() - started) * 1000)
        _progress(f"kill {run + 1}/{runs}: {found['kill'][-1]:.0f} ms, back after {found['back'][-1]:.0f} ms")
    return found


def switches(nodes: Nodes, writer: Writer, runs: int) -> dict[str, list[float]]:
    """Hand over ``runs`` times: the longest pause between two acknowledgements around each, and what the old leader
    says of it, in milliseconds.
    """
    cluster = nodes.cluster
    found: dict[str, list[float]] = {"pause": [], "reported": []}
    refused = 0
    for run in range(runs):
        _calm(writer)
        leader = writer.acks[-1].leader
        target = random.choice([name for name in cluster.nodes() if name != leader])
        wait_for(f"{target} in line", lambda: in_line(cluster, target), _IN_LINE_SECONDS, every=0.02)  # noqa: B023
        began = time.perf_counter()
        try:
            with Client([cluster.address(leader)]) as client:
                answer = client.admin("switch", node=target)
        except PacelineError as error:  # on a machine so busy that somebody was elected meanwhile
            _progress(f"switch {run + 1}/{runs}: {error.message}")
            refused += 1
            continue
        wait_for("a write after the switch", lambda: writer.acks[-1].leader == target, 30, every=0.005)  # noqa: B023
        time.sleep(0.1)
        found["pause"].append(writer.pause_ms(began, time.perf_counter()))
        found["reported"].append(float(answer["pause_ms"]))
        _progress(
            f"switch {run + 1}/{runs}: {found['pause'][-1]:.0f} ms, reported {found['reported'][-1]:.0f} ms"
        )
    if refused > runs // 10:
        raise SystemExit(f"{refused} of {runs} switches were refused")
    return found


def _progress(text: str) -> None:
    if sys.stderr.isatty() or os.environ.get("BENCH_VERBOSE"):
        print(text, file=sys.stderr, flush=True)


def _met(found: dict[str, float], goal: dict[str, float]) -> bool:
    return all(found[name] <= limit for name, limit in goal.items())


def failover(nodes: Nodes, runs: int, turns: int) -> dict[str, Any]:
    cluster = nodes.cluster
    with Writer([cluster.address(name) for name in cluster.nodes()]) as writer:
        killed = kills(nodes, writer, runs) if runs else {}
        switched = switches(nodes, writer, turns) if turns else {}
    line: dict[str, Any] = {"name": "failover", "writes": len(writer.acks), "errors": len(writer.errors)}
    good = not writer.errors
    if killed:
        line["runs"] = runs
        line["kill_ms"] = percentiles(killed["kill"])
        line["back_in_line_ms"] = percentiles(killed["back"])
        good = good and _met(line["kill_ms"], KILL_GOAL_MS)
    if switched:
        line["switches"] = len(switched["pause"])
        line["switch_pause_ms"] = percentiles(switched["pause"])
        line["switch_reported_ms"] = percentiles(switched["reported"])
        good = good and _met(line["switch_pause_ms"], SWITCH_GOAL_MS)
    return {**line, "ok": good}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.failover", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--runs", type=int, default=100, help="how often the leader is killed (default: 100)")
    parser.add_argument(
        "--switches", type=int, default=None, help="how often it hands over (default: as RUNS)"
    )
    parser.add_argument(
        "--dir", type=Path, default=Path("bench-data"), help="where the data goes; use a real disk"
    )
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    turns = options.runs if options.switches is None else options.switches
    with running(options.dir) as nodes:
        emit({**failover(nodes, options.runs, turns), "machine": machine(options.dir)})


if __name__ == "__main__":
    main()
