"""A reference program beside which Paceline is measured, in the same minutes on the same machine.

It is any program with this interface:

    python PROGRAM leader MODE        python PROGRAM follower I        python PROGRAM client N SECONDS

with its data in the folder named by ``SKETCH_DIR``, one leader and two
followers, and a client that prints ``clients N: R tx/s p50 A ms p99 B ms``.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

__all__ = ["measure"]

_RESULT: Final = re.compile(r"clients (\d+): ([\d.]+) tx/s p50 ([\d.]+) ms p99 ([\d.]+) ms")
_START_SECONDS: Final = 1.5


@contextlib.contextmanager
def _running(program: Path, folder: Path, mode: str) -> Iterator[dict[str, str]]:
    environment = os.environ | {"SKETCH_DIR": os.path.abspath(folder)}
    folder.mkdir(parents=True, exist_ok=True)
    roles = (("leader", mode), ("follower", "1"), ("follower", "2"))
    processes = [
        subprocess.Popen([sys.executable, str(program), *role], env=environment, cwd=folder) for role in roles
    ]
    try:
        time.sleep(_START_SECONDS)
        yield environment
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(program: Path, folder: Path, *, mode: str, clients: int, seconds: float) -> dict[str, Any]:
    """One run of the reference: its rate and latencies."""
    with _running(program, folder, mode) as environment:
        command = [sys.executable, str(program), "client", str(clients), str(seconds)]
        run = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, timeout=seconds + 60
        )
    found = _RESULT.search(run.stdout)
    if found is None:
        raise SystemExit(f"the reference printed no result:\n{run.stdout}{run.stderr}")
    return {"tps": float(found[2]), "p50_ms": float(found[3]), "p99_ms": float(found[4])}
