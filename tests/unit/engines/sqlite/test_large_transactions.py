"""Memory stays bounded when a transaction is far larger than any buffer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from pagepair import Pair, random_rows
from paceline.engines.sqlite.formats import page
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
pair = Pair(Path(sys.argv[1]))
pair.run("PRAGMA cache_size = -1000")
pair.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
pair.run(random_rows("t", 2000, 3000))
pair.ship()
def parts():
    for delta in pair.capture.changed():
        body, flags = page.encode(delta)
        assert len(body) < 3 << 20
        yield page.decode(body, flags)
before = peak()
pair.run(random_rows("t", int(sys.argv[2]) * 1024, 1000))
start = time.perf_counter()
pair.applier.apply(parts())
seconds = time.perf_counter() - start
pair.capture.advance()
grown = peak() - before
pages = pair.applier.page_count
assert pair.equal() and pair.files_equal()
pair.close()
print(grown, pages, round(seconds / pages * 1e6, 1))
"""


def grown_by(folder: Path, megabytes: int) -> tuple[int, int]:
    """MiB by which the process grew, and pages of the database."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder / "pair"), str(megabytes), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print(done.stdout)
    grown, pages, _ = done.stdout.split()
    return int(grown), int(pages)


def test_transaction_of_30_megabytes_takes_little_memory(tmp_path: Path) -> None:
    grown, pages = grown_by(tmp_path, 30)
    assert pages * 4096 > 30 << 20
    assert grown < 30


@pytest.mark.slow
def test_transaction_of_300_megabytes_takes_little_memory(tmp_path: Path) -> None:
    grown, pages = grown_by(tmp_path, 300)
    assert pages * 4096 > 300 << 20
    assert grown < 50
