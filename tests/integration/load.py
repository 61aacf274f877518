"""Writers that remember what was promised to them, and readers in other processes.

Each write adds one row to ``ledger`` and one to ``counter``, in one transaction; nothing in the
schema prevents a row from standing there twice, so a repeated write would be seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cluster import Cluster, Node, eventually

from paceline.errors import OutcomeUnknown, PacelineError

__all__ = ["Filling", "Fresh", "Load", "Readers", "make_tables"]


def make_tables(cluster: Cluster) -> None:
    with cluster.leader.client() as client:
        client.execute(
            [
                "CREATE TABLE ledger (writer INTEGER, n INTEGER, body BLOB)",
                "CREATE INDEX ledger_writer ON ledger (writer, n)",
                "CREATE TABLE counter (value INTEGER NOT NULL)",
                "INSERT INTO counter VALUES (0)",
            ],
            durability="all",
        )
    cluster.wait_level()  # durable everywhere is not yet visible everywhere


class Load:
    """Writers in the background; a context manager that stops them.

    Their numbers begin at ``first``: two loads on one cluster need different ones.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        writers: int = 4,
        first: int = 0,
        through: tuple[str, ...] = (),
        durability: str | None = None,
        body_bytes: int = 100,
        timeout_ms: int = 30_000,
    ) -> None:
        self._cluster = cluster
        self._through = through
        self._durability = durability
        self._body_bytes = body_bytes
        self.writers = range(first, first + writers)
        self._timeout_ms = timeout_ms
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.acknowledged: set[tuple[int, int]] = set()
        self.unknown: set[tuple[int, int]] = set()
        self.refused: dict[tuple[int, int], PacelineError] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True) for number in self.writers
        ]
        self._broken: list[BaseException] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a writer hangs"
        if self._broken:
            raise self._broken[0]

    def _run(self, writer: int) -> None:
        number = 0
        with self._cluster.client(*self._through, timeout_ms=self._timeout_ms) as client:
            while not self._stop.is_set():
                number += 1
                key = (writer, number)
                body = (b"%d-%d-" % key) * (self._body_bytes // 6 + 1)
                try:
                    client.execute(
                        [
                            ("INSERT INTO ledger VALUES (?, ?, ?)", [*key, body[: self._body_bytes]]),
                            "UPDATE counter SET value = value + 1",
                        ],
                        durability=self._durability,
                    )
                except OutcomeUnknown:
                    self._note(self.unknown.add, key)
                except PacelineError as error:
                    self.refused[key] = error
                    self._stop.wait(0.02)
                except BaseException as error:
                    self._broken.append(error)
                    return
                else:
                    self._note(self.acknowledged.add, key)

    def _note(self, add: Any, key: tuple[int, int]) -> None:
        with self._lock:
            add(key)

    def more(self, count: int = 20, seconds: float = 30.0) -> None:
        """Wait until this many further writes were acknowledged: the cluster works, now."""
        goal = len(self.acknowledged) + count
        eventually(f"{count} more acknowledged writes", lambda: len(self.acknowledged) >= goal, seconds)

    def assert_kept(self, *nodes: Node) -> None:
        """Everything acknowledged is there exactly once, nothing refused is, on every node; all are equal."""
        cluster = self._cluster
        cluster.wait_level()
        for node in nodes or cluster.running:
            found = [(w, n) for w, n in node.query("SELECT writer, n FROM ledger")]
            assert node.query("SELECT value FROM counter") == [[len(found)]]
            rows = Counter((w, n) for w, n in found if w in self.writers)
            assert len(self.acknowledged) > 0
            lost = self.acknowledged - set(rows)
            assert not lost, f"{node.name} lost {len(lost)} acknowledged writes, e.g. {sorted(lost)[:5]}"
            twice = [key for key, count in rows.items() if count > 1]
            assert not twice, f"{node.name} has {twice[:5]} more than once"
            ghosts = set(rows) & set(self.refused)
            assert not ghosts, f"{node.name} has refused writes: {[(k, self.refused[k]) for k in ghosts][:3]}"
            assert set(rows) <= self.acknowledged | self.unknown
        cluster.assert_equal()


class Fresh:
    """Linearizable reads in the background, at every one of ``nodes``: an answer shows all that was acknowledged before
    it was asked for, or there is none.
    """

    def __init__(self, load: Load, *nodes: Node) -> None:
        self._load = load
        self._stop = threading.Event()
        self.answers: Counter[str] = Counter()
        self._faults: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(node,), daemon=True) for node in nodes]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a reader hangs"
        if kind is None:
            assert not self._faults, self._faults[:3]

    def _run(self, node: Node) -> None:
        first, last = self._load.writers[0], self._load.writers[-1]
        sql = f"SELECT count(*) FROM ledger WHERE writer BETWEEN {first} AND {last}"
        while not self._stop.is_set():
            with node.client(timeout_ms=1_000) as client:
                try:
                    while not self._stop.wait(0.01):
                        known = len(self._load.acknowledged)
                        rows = client.query(sql, read="linearizable").rows
                        if rows[0][0] < known:  # type: ignore[operator]
                            self._faults.append(
                                f"{node.name} showed {rows[0][0]} rows of {known} acknowledged"
                            )
                        self.answers[node.name] += 1
                except (PacelineError, OSError):
                    self._stop.wait(0.05)

    def more(self, *nodes: Node) -> None:
        """Wait for further answers of these."""
        for node in nodes:
            goal = self.answers[node.name] + 3
            eventually(f"linearizable reads at {node.name}", lambda: self.answers[node.name] >= goal)  # noqa: B023


_READER = """
import json, sqlite3, sys, threading
path, may_fall = sys.argv[1], sys.argv[2] == "may fall"
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
reads, last, faults = 0, -1, []
held = None
print("reading", flush=True)
while not stop.is_set():
    try:
        if held is None or reads % 50 == 0:
            if held is not None:
                held.close()
            held = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10, isolation_level=None)
        held.execute("BEGIN")
        value = held.execute("SELECT value FROM counter").fetchone()[0]
        rows = held.execute("SELECT count(*) FROM ledger").fetchone()[0]
        if rows != value:
            faults.append(f"{rows} rows, counter {value}")
        if value < last and not may_fall:
            faults.append(f"counter fell from {last} to {value}")
        last = value
        if reads % 25 == 0:
            found = held.execute("PRAGMA integrity_check(3)").fetchall()
            if found != [("ok",)]:
                faults.append(f"integrity_check: {found}")
        held.execute("COMMIT")
        reads += 1
    except Exception as error:
        faults.append(f"{type(error).__name__}: {error}")
        held = None
    if len(faults) > 10:
        break
    stop.wait(0.005)
print(json.dumps({"reads": reads, "last": last, "faults": faults}))
"""


class Readers:
    """One process per file with Python's own ``sqlite3``: whole, growing, sound, at every moment.

    ``may_fall``: the file of a node that leads, or led, may show what a failover takes back; still whole states only.
    """

    def __init__(self, *nodes: Node, may_fall: bool = False) -> None:
        self._files = {node.name: node.database for node in nodes}
        self._may_fall = may_fall
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Self:
        for name, file in self._files.items():
            self._processes[name] = _reader(file, self._may_fall)
        for process in self._processes.values():
            assert process.stdout is not None and process.stdout.readline() == "reading\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        reports = {name: _report(process) for name, process in self._processes.items()}
        if kind is None:
            for name, report in reports.items():
                assert report["faults"] == [], f"reader of {name}: {report}"
                assert report["reads"] > 0, f"reader of {name} never read"


def _reader(file: Path, may_fall: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _READER, str(file), "may fall" if may_fall else "grows"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _report(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=30)
    report: dict[str, Any] = json.loads(output)
    return report


class Filling:
    """One large transaction in the background: rows of 100 kB into ``big``."""

    def __init__(self, cluster: Cluster, rows: int) -> None:
        self._cluster = cluster
        self._rows = rows
        self._parts = int(cluster.leader.status()["counters"]["parts"])
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        sql = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO big (body) SELECT randomblob(100000) FROM n"
        )
        try:
            with self._cluster.client(timeout_ms=60_000) as client:
                client.execute([(sql, [self._rows])])
        except PacelineError as error:
            self._failed = error

    def wait_for_parts(self) -> None:
        """Until a part of it stands in the leader's log."""
        eventually(
            "a part is in the log",
            lambda: self._cluster.leader.status()["counters"]["parts"] > self._parts,
        )

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self._failed is not None:
            raise self._failed
