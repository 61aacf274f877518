"""Keep the node processes of a local cluster as ``cluster.json`` wishes.

Theory: one loop looks four times a second.  A node that is wished and does not
run is started; one that runs and is no longer wished is stopped; one that died
is started again after a pause that doubles while it keeps dying.  Stopping is
SIGTERM, and SIGKILL for those that do not go in time.  A second Ctrl-C skips
the patience.

Each node has a session of its own, so the terminal's Ctrl-C reaches only the
supervisor, which then stops the nodes in order.  Should the supervisor itself
be killed, the kernel sends its nodes SIGTERM (PR_SET_PDEATHSIG): no orphan
keeps a port.

Processes are reached through :class:`Process` and time through ``clock``, so
tests drive the loop step by step without either.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from paceline.cli.cluster import Cluster
from paceline.config.keys import ENVIRONMENT

__all__ = ["Process", "Supervisor", "has_error", "last_refusal", "last_words", "spawn"]

_PAUSE_FIRST: Final = 0.5
_PAUSE_MAX: Final = 30.0
_STABLE_SECONDS: Final = 60.0
"""A node that lived this long starts with the short pause again."""
STOP_SECONDS: Final = 20.0
STEP_SECONDS: Final = 0.25
_PR_SET_PDEATHSIG: Final = 1
_REFUSAL: Final = re.compile(r"refused \{'by': '([^']+)', 'reason': [\"'](.+)[\"']\}")


class Process(Protocol):
    pid: int

    def poll(self) -> int | None: ...

    def send_signal(self, sig: int, /) -> None: ...


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def spawn(cluster: Cluster, name: str) -> Process:
    """Start one node; what it prints goes to its ``node.log``."""
    # A variable such as PACELINE_LISTEN would otherwise hit every node at once.
    env = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    command = [sys.executable, "-m", "paceline", "serve", "--config", str(cluster.config_path(name))]
    with open(cluster.log_path(name), "ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )


def last_words(log: Path, offset: int = 0) -> str:
    """What a node that died said last: its error with the hint, else its last line."""
    try:
        with open(log, "rb") as file:
            file.seek(max(offset, file.seek(0, os.SEEK_END) - 8_192))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    lines = [line.rstrip() for line in lines if line.strip()]
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].startswith("paceline: "):
            hint = lines[number + 1].strip() if number + 1 < len(lines) else ""
            said = lines[number].removeprefix("paceline: ")
            return f"{said} ({hint.removeprefix('hint: ')})" if hint.startswith("hint: ") else said
    return lines[-1] if lines else ""


def has_error(log: Path, offset: int) -> bool:
    """Whether a node has ended with an error of its own behind that place of its output."""
    try:
        with open(log, "rb") as file:
            file.seek(offset)
            return any(line.startswith(b"paceline: ") for line in file)
    except FileNotFoundError:
        return False


def last_refusal(log: Path) -> str:
    """Why another node last refused this one, as its log says; empty when none did."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8_192))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    found = _REFUSAL.findall(text)
    return f"{found[-1][0]} refuses: {found[-1][1]}" if found else ""


class _Node:
    """A node's process and its history of deaths."""

    def __init__(self) -> None:
        self.process: Process | None = None
        self.started = 0.0
        self.start_at = 0.0
        self.pause = _PAUSE_FIRST
        self.log_offset = 0
        self.leaving = False


class Supervisor:
    """``say`` gets one line for each thing that happened."""

    def __init__(
        self,
        cluster: Cluster,
        say: Callable[[str], None],
        *,
        spawn: Callable[[Cluster, str], Process] = spawn,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cluster = cluster
        self._say = say
        self._spawn = spawn
        self._clock = clock
        self._nodes: dict[str, _Node] = {}
        self._stamp: tuple[int, int] | None = None
        self._missing: set[str] = set()
        self._interrupts = 0
        self.reason = ""

    # -- one step ---------------------------------------------------------------

    def step(self) -> None:
        """Look once, and act."""
        self._read_wish()
        for name, node in list(self._nodes.items()):
            self._reap(name, node)
        for name, node in self._nodes.items():
            waits = node.process is None and not node.leaving and self._clock() >= node.start_at
            if waits and self._is_there(name):
                self._start(name, node)

    def _read_wish(self) -> None:
        stat = (self.cluster.path / "cluster.json").stat()
        stamp = (stat.st_ino, stat.st_mtime_ns)
        if stamp == self._stamp:
            return
        first = self._stamp is None
        self.cluster = Cluster.load(self.cluster.path)
        self._stamp = stamp
        wished = {node.name for node in self.cluster.nodes}
        for name in wished - self._nodes.keys():
            self._nodes[name] = _Node()
            if not first:
                self._say(f"{name} was added; starting it")
        for name, node in self._nodes.items():
            if name not in wished and not node.leaving:
                node.leaving = True
                self._say(f"{name} was removed; stopping it")
                if node.process is not None:
                    node.process.send_signal(signal.SIGTERM)

    def _is_there(self, name: str) -> bool:
        """Whether the node's directory is; a wiped one is waited for, and said once."""
        if self.cluster.config_path(name).exists():
            self._missing.discard(name)
            return True
        if name not in self._missing:
            self._missing.add(name)
            where = self.cluster.node_dir(name)
            self._say(f"{where} is gone; bring {name} back as a new node: paceline node add {name}")
        return False

    def _start(self, name: str, node: _Node) -> None:
        log = self.cluster.log_path(name)
        node.log_offset = log.stat().st_size if log.exists() else 0
        node.process = self._spawn(self.cluster, name)
        node.started = self._clock()

    def _reap(self, name: str, node: _Node) -> None:
        if node.process is not None and (code := node.process.poll()) is not None:
            node.process = None
            if not node.leaving:
                self._plan_restart(name, node, code)
        if node.leaving and node.process is None:
            del self._nodes[name]

    def _plan_restart(self, name: str, node: _Node, code: int) -> None:
        if self._clock() - node.started >= _STABLE_SECONDS:
            node.pause = _PAUSE_FIRST
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        words = last_words(self.cluster.log_path(name), node.log_offset) if code > 0 else ""
        why = f"{how}: {words}" if words else how
        self._say(f"{name} ended ({why}); starting it again in {node.pause:g} s")
        node.start_at = self._clock() + node.pause
        node.pause = min(node.pause * 2, _PAUSE_MAX)

    # -- whole life -------------------------------------------------------------

    def dead(self) -> dict[str, str]:
        """Nodes that ended and wait for their restart, with what they said last."""
        return {
            name: last_words(self.cluster.log_path(name), node.log_offset)
            for name, node in self._nodes.items()
            if node.process is None and node.start_at > 0
        }

    def pids(self) -> dict[str, int]:
        return {name: node.process.pid for name, node in self._nodes.items() if node.process is not None}

    def interrupt(self, number: int = signal.SIGINT, _frame: object = None) -> None:
        """Signal handler: the first one asks to stop, a second one to stop at once."""
        self._interrupts += 1
        self.reason = signal.Signals(number).name

    @property
    def interrupted(self) -> bool:
        return self._interrupts > 0

    def run(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Step until interrupted or ``until`` holds."""
        while not self.interrupted:
            self.step()
            if until():
                return
            time.sleep(STEP_SECONDS)

    def stop(self) -> None:
        """Stop all nodes and wait for their end."""
        running = {name: node.process for name, node in self._nodes.items() if node.process is not None}
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        before, deadline = self._interrupts, self._clock() + STOP_SECONDS
        while running and self._clock() < deadline and self._interrupts == before:
            running = {name: process for name, process in running.items() if process.poll() is None}
            if running:
                time.sleep(0.02)
        for name, process in running.items():
            self._say(f"{name} did not stop in time; killing it")
            process.send_signal(signal.SIGKILL)
        for process in running.values():
            while process.poll() is None:
                time.sleep(0.02)
        self._nodes.clear()
