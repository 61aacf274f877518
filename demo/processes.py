"""Handles to the demo's other processes: the writers and the readers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["Failed", "Readers", "Writers"]


class Failed(Exception):
    """A proof failed; the message says which."""


def _start(module: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Writers:
    """The process of ``demo.writer``."""

    def __init__(self, addresses: list[str], clients: int, acknowledged: Path) -> None:
        self._process = _start("demo.writer", ",".join(addresses), str(clients), str(acknowledged))
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, errors = self._process.communicate(timeout=10)
            raise Failed(f"the writers died:\n{errors}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _tell(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def rate(self, transactions_per_second: int) -> None:
        self._tell({"rate": transactions_per_second})

    def mark(self, name: str) -> dict[str, Any]:
        """What happened since the last mark; no write may have failed."""
        self._tell({"mark": name})
        report = self._answer()
        if report["errors"]:
            raise Failed(f"{report['errors']} writes failed during {name!r}: {report['first_errors']}")
        return report

    def stop(self) -> dict[str, Any]:
        """Wait for the last answers; returns how many departures and landings were acknowledged."""
        self._tell({"stop": True})
        return self._answer()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Readers:
    """One process of ``demo.reader`` for each node's file."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def add(self, node: str, database: Path) -> None:
        self._processes[node] = _start("demo.reader", str(database), str(self._base))

    def led(self, node: str) -> None:
        """This node leads, or led: a failover may take back what its file shows."""
        if (process := self._processes.get(node)) is not None:
            assert process.stdin is not None
            process.stdin.write("led\n")
            process.stdin.flush()

    def check(self) -> None:
        """None of them has found anything wrong so far."""
        for node, process in self._processes.items():
            if process.poll() is not None:
                _, errors = process.communicate()
                raise Failed(f"the reader of {node} stopped: {errors.strip()}")

    def stop(self) -> dict[str, dict[str, int]]:
        """End them all; each checks its file once more."""
        self.check()
        seen: dict[str, dict[str, int]] = {}
        for node, process in self._processes.items():
            output, errors = process.communicate(timeout=60)
            if process.returncode != 0:
                raise Failed(f"the reader of {node}: {errors.strip()}")
            seen[node] = json.loads(output)
        self._processes.clear()
        return seen

    def kill(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
