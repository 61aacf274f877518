"""The loop thread and the log lane at the same time, on real files."""

from __future__ import annotations

import random
import threading
from pathlib import Path

from logtools import CLUSTER, check_whole, local_of, make_entries

from paceline.files import RealFiles
from paceline.ids import Index
from paceline.log.journal import Log


def test_reads_are_never_torn_by_flushes_truncations_and_drops(tmp_path: Path) -> None:
    options = {"cluster": CLUSTER, "segment_bytes": 4000, "tail_cache_bytes": 1000}
    log, _ = Log.open(RealFiles(), str(tmp_path / "log"), **options)  # type: ignore[arg-type]
    stop, work, failures = threading.Event(), threading.Semaphore(0), []

    def lane() -> None:
        while not stop.is_set():
            work.acquire()
            try:
                log.flush()
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=lane)
    thread.start()
    rng = random.Random(1)
    try:
        for step in range(1500):
            entries = make_entries(log.last, rng.randint(1, 3), term=1 + step, size=rng.randint(0, 200))
            log.stage(entries, [local_of(entries[-1])])
            work.release()
            after = Index(rng.randint(log.base.index, log.last.index))
            last = log.position_at(after)
            for entry in log.entries(after, bytes_max=2000):
                assert last is not None
                assert entry.follows(last)
                last = entry.position
            assert log.durable == log.position_at(log.durable.index)
            if step % 40 == 0:
                log.truncate(Index(max(log.base.index, log.last.index - rng.randint(0, 30))))
            if step % 100 == 0:
                log.drop_before(Index(log.last.index - 50))
            assert not failures
    finally:
        stop.set()
        work.release()
        thread.join()
    log.flush()
    log.close()
    again, report = Log.open(RealFiles(), str(tmp_path / "log"), **options)  # type: ignore[arg-type]
    assert not report.actions
    assert (again.last, again.base, again.bytes) == (log.last, log.base, log.bytes)
    check_whole(again)
