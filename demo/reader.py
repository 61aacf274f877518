"""A reader: a process of its own that opens a node's file with plain ``sqlite3``, and nothing of Paceline.

It knows what every state of the database must look like: the board counts
exactly the live flights, in the same snapshot; no count ever falls.  (Save one: the file of a leader
may show what a failover takes back.  The line ``led`` on its input says that its node was one.)  From
time to time it lets SQLite check the whole file.  When its input ends it prints one JSON line with
what it saw; a broken rule is printed and ends it at once.

    python -m demo.reader FILE BASE      (BASE: flights before the first live one)
"""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
import time
from typing import Final

__all__ = ["main"]

_SNAPSHOT: Final = """
SELECT departed, landed, (SELECT count(*) FROM flights WHERE id > :base),
  (SELECT count(*) FROM flights WHERE id > :base AND arr_time IS NOT NULL)
FROM board
"""
_PAUSE_SECONDS: Final = 0.2
_CHECK_EVERY_SECONDS: Final = 15.0


def _check_file(db: sqlite3.Connection) -> None:
    (verdict,) = db.execute("PRAGMA integrity_check").fetchone()
    if verdict != "ok":
        raise SystemExit(f"integrity_check: {verdict}")


def _read_until(stopped: threading.Event, led: threading.Event, path: str, base: int) -> dict[str, int]:
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10, isolation_level=None)
    seen = (0, 0)
    reads = checks = 0
    check_at = time.monotonic() + _CHECK_EVERY_SECONDS
    while not stopped.wait(_PAUSE_SECONDS):
        departed, landed, flights, arrived = db.execute(_SNAPSHOT, {"base": base}).fetchone()
        if (departed, landed) != (flights, arrived):
            raise SystemExit(f"torn state: board {departed}/{landed}, flights {flights}/{arrived}")
        if (departed < seen[0] or landed < seen[1]) and not led.is_set():
            raise SystemExit(f"went backwards: {seen} -> {(departed, landed)}")
        seen = (departed, landed)
        reads += 1
        if time.monotonic() >= check_at:
            _check_file(db)
            checks += 1
            check_at = time.monotonic() + _CHECK_EVERY_SECONDS
    _check_file(db)
    db.close()
    return {"reads": reads, "checks": checks + 1, "departed": seen[0], "landed": seen[1]}


def main(path: str, base: str) -> None:
    stopped, led = threading.Event(), threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            if line == "led\n":
                led.set()
        stopped.set()

    threading.Thread(target=listen, daemon=True).start()
    print(json.dumps(_read_until(stopped, led, path, int(base))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
