"""An applier killed at any moment leaves a database that readers trust and a new applier goes on from."""

from __future__ import annotations

import contextlib
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from pagepair import Other, Pair, other_process

from paceline.engines.sqlite import plainfile
from paceline.engines.sqlite.applier import Applier
from paceline.engines.sqlite.formats import page

_FOLLOWER = """
import struct, sys
from paceline.core.entry import EntryFlags
from paceline.engines.sqlite.applier import Applier
from paceline.engines.sqlite.formats import page
path, bodies, start = sys.argv[1], sys.argv[2], int(sys.argv[3])
applier = Applier(path)
reason = applier.open()
assert reason is None, reason
data = memoryview(open(bodies, "rb").read())
at = number = 0
while at < len(data):
    flags, size = struct.unpack_from("<II", data, at)
    if number >= start:
        applier.apply([page.decode(data[at + 8 : at + 8 + size], EntryFlags(flags))])
        print(number, flush=True)
        if number % 40 == 39:
            applier.checkpoint()
    at += 8 + size
    number += 1
"""


@pytest.mark.parametrize("watched", [False, True])
def test_applier_killed_at_any_moment_continues(tmp_path: Path, watched: bool) -> None:
    """``watched``: a reader keeps the files open, so SQLite's recovery does not run and index leftovers stay."""
    pair = Pair(tmp_path / "pair")
    pair.run("CREATE TABLE n(n)")
    pair.run("INSERT INTO n VALUES (0)")
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    bodies = tmp_path / "bodies"
    with bodies.open("wb") as file:
        for _ in range(400):
            pair.run("BEGIN")
            pair.run("UPDATE n SET n = n + 1")
            pair.run("INSERT INTO t VALUES (randomblob(6000))")
            pair.run("COMMIT")
            (delta,) = pair.capture.changed()
            pair.capture.advance()
            body, flags = page.encode(delta)
            file.write(struct.pack("<II", flags, len(body)) + body)
    pair.applier.close()
    plainfile.forget(pair.follower_path)
    chance = random.Random(7)
    with contextlib.ExitStack() as stack:
        reader: Other | None = None
        if watched:
            reader = stack.enter_context(other_process(pair.follower_path))
            reader.ask("q('select n from n')")
        done = 0
        for _ in range(6):
            child = subprocess.Popen(
                [sys.executable, "-c", _FOLLOWER, pair.follower_path, str(bodies), str(done)],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert child.stdout is not None
            printed = done - 1
            for _ in range(chance.randrange(1, 60)):
                printed = int(child.stdout.readline())
            child.kill()
            child.stdout.close()
            child.wait()
            with contextlib.ExitStack() as one:
                now = reader or one.enter_context(other_process(pair.follower_path))
                assert now.ask("q('pragma integrity_check')") == "[('ok',)]"
                done = int(now.ask("q('select n from n')[0][0]"))
                assert done > printed
                assert now.ask("q('select count(*) from t')") == f"[({done},)]"
                if not watched:
                    # The last to close has checkpointed; the node will suspect it, as it must.
                    Path(pair.follower_path).with_name("state").unlink()
        subprocess.run(
            [sys.executable, "-c", _FOLLOWER, pair.follower_path, str(bodies), str(done)],
            stdout=subprocess.DEVNULL,
            check=True,
        )
    pair.applier = Applier(pair.follower_path)
    pair.applier.open()
    assert pair.equal()
    pair.close()
