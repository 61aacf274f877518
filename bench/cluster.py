"""A real cluster on loopback, run by Paceline's own command line, as a user would run it.

Nothing of the cluster is imported: commands start and stop it, its directory says where the nodes
are, HTTP says how they feel, ``/proc`` says what they cost.  The demo uses it too.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

__all__ = ["CommandFailed", "LocalCluster", "free_port", "wait_for"]

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PORTS: Final = range(20_000, 30_000, 100)
"""Below the ephemeral ports; a cluster takes 10 for each node."""

T = TypeVar("T")


class CommandFailed(Exception):
    """A ``paceline`` command ended with an error."""


def free_port(nodes: int = 5) -> int:
    """The first port of a block that nobody listens on."""
    for base in random.sample(_PORTS, len(_PORTS)):
        try:
            for port in range(base, base + 10 * nodes):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise SystemExit("no free block of ports between 20000 and 30000")


def wait_for(what: str, condition: Callable[[], T | None], seconds: float, every: float = 0.05) -> T:
    """Poll until ``condition`` gives something; a clear error after ``seconds``."""
    give_up = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > give_up:
            raise CommandFailed(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(every)


class LocalCluster:
    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    # -- commands ---------------------------------------------------------------

    def command(self, *arguments: str, seconds: float = 120) -> str:
        """Run ``paceline ARGUMENTS --dir DIR``; return what it printed."""
        run = subprocess.run(
            [sys.executable, "-m", "paceline", *arguments, "--dir", str(self.path)],
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if run.returncode != 0:
            raise CommandFailed(
                f"paceline {' '.join(arguments)} failed ({run.returncode}):\n{run.stdout}{run.stderr}"
            )
        return run.stdout

    def up(self, *arguments: str, nodes: int = 3) -> None:
        """Start, and wait until every node answers, follows and has caught up."""
        self.command("up", *arguments, "--nodes", str(nodes), "--detach", "--port", str(free_port(nodes + 2)))
        self.wait_until_healthy(nodes)

    def resume(self) -> None:
        self.command("up", "--detach")
        self.wait_until_healthy(len(self.nodes()))

    def down(self) -> None:
        if (self.path / "cluster.json").exists():
            self.command("down")

    # -- what it says -----------------------------------------------------------

    def nodes(self) -> dict[str, dict[str, str]]:
        """Name -> ``listen``, ``http`` and ``peer`` address."""
        found = json.loads((self.path / "cluster.json").read_text())
        return {node["name"]: node for node in found["nodes"]}

    def address(self, name: str) -> str:
        return self.nodes()[name]["listen"]

    def status(self, name: str) -> dict[str, Any] | None:
        """A node's own status; None while it does not answer."""
        try:
            with urllib.request.urlopen(
                f"http://{self.nodes()[name]['http']}/api/v1/status", timeout=2
            ) as reply:
                answer: dict[str, Any] = json.load(reply)
                return answer
        except OSError:
            return None

    def leader(self) -> str:
        return wait_for("a leader", self._leader, 30)

    def _leader(self) -> str | None:
        """Of two that say so the one of the later term: the other has not heard of it yet."""
        found = [
            (int(status["term"]), name)
            for name in self.nodes()
            if (status := self.status(name)) and status["role"] == "leader" and status["ready"]
        ]
        return max(found)[1] if found else None

    def followers(self) -> list[str]:
        leader = self.leader()
        return [name for name in self.nodes() if name != leader]

    def healthy(self, count: int) -> bool:
        """All ``count`` members say that they are ready."""
        statuses = [self.status(name) for name in self.nodes()]
        return len(statuses) == count and all(
            status is not None and status.get("ready") and status.get("health") == "ok" for status in statuses
        )

    def wait_until_healthy(self, count: int, seconds: float = 60) -> None:
        wait_for(f"{count} healthy nodes", lambda: self.healthy(count), seconds)

    # -- what it costs ----------------------------------------------------------

    def database(self, name: str) -> Path:
        return self.path / name / "db" / "main.db"

    def log_bytes(self, name: str) -> int:
        """Bytes in the node's log; on a follower that is what was shipped to it."""
        return sum(file.stat().st_size for file in (self.path / name / "log").glob("*.seg"))

    def pid(self, name: str) -> int | None:
        """The process that serves ``name``, found by its configuration file."""
        mark = str(self.path / name / "paceline.toml").encode()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    if mark in (folder / "cmdline").read_bytes().split(b"\0"):
                        return int(folder.name)
                except OSError:
                    continue
        return None

    def signal(self, name: str, number: signal.Signals) -> int:
        """Send a signal to one node; returns its process id."""
        pid = self.pid(name)
        if pid is None:
            raise CommandFailed(f"node {name} does not run")
        os.kill(pid, number)
        return pid

    def kill(self, name: str) -> int:
        """``kill -9`` of one node; returns the process id that died."""
        return self.signal(name, signal.SIGKILL)

    def cpu_seconds(self) -> dict[str, float]:
        return {name: _cpu_seconds(pid) for name in self.nodes() if (pid := self.pid(name))}

    def peak_rss_mb(self) -> dict[str, float]:
        return {name: peak_rss_mb(pid) for name in self.nodes() if (pid := self.pid(name))}


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def peak_rss_mb(pid: int) -> float:
    """The most memory the process ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise AssertionError("no VmHWM in /proc")
