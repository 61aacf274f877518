"""Random SQL, captured, applied in random groups, checkpointed anywhere, undone and redone: always bit-identical.

Nothing may differ between the files of leader and follower, header included: SQLite's change counter, version
number and schema cookie are bytes of page 1 and travel with it.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pagepair import Pair, Transaction, digest, random_rows

STATEMENTS = (
    "INSERT INTO t(x) VALUES (randomblob(50))",
    "INSERT INTO t(x) VALUES (randomblob(20000))",
    random_rows("t", 40, 700),
    "INSERT INTO t(x) VALUES (zeroblob(30000))",
    "UPDATE t SET x = randomblob(100) WHERE id % 3 = 0",
    "DELETE FROM t WHERE id % 2",
    "DELETE FROM t",
    "INSERT OR REPLACE INTO w VALUES (abs(random()) % 50, randomblob(90))",
    "INSERT INTO f(x) VALUES ('one two ' || random())",
    "DELETE FROM f WHERE rowid % 2",
    "BEGIN; INSERT INTO t(x) VALUES (zeroblob(90000)); DELETE FROM t WHERE length(x) = 90000; COMMIT",
    "BEGIN; INSERT INTO t(x) VALUES (randomblob(60000)); ROLLBACK",
    "CREATE INDEX IF NOT EXISTS i ON t(x)",
    "DROP INDEX IF EXISTS i",
    "PRAGMA incremental_vacuum",
    "VACUUM",
)

ACTIONS = st.one_of(
    st.tuples(st.just("run"), st.integers(0, len(STATEMENTS) - 1)),
    st.tuples(st.just("run"), st.integers(0, len(STATEMENTS) - 1)),
    st.tuples(st.just("run"), st.integers(0, len(STATEMENTS) - 1)),
    st.tuples(st.just("take"), st.just(0)),
    st.tuples(st.just("take"), st.just(0)),
    st.tuples(st.just("apply"), st.integers(1, 5)),
    st.tuples(st.just("apply"), st.integers(1, 5)),
    st.tuples(st.just("leader checkpoint"), st.just(0)),
    st.tuples(st.just("follower checkpoint"), st.just(0)),
    st.tuples(st.just("undo"), st.integers(1, 4)),
)


class Run:
    """A leader and a follower with what lies between them."""

    def __init__(self, folder: Path, page_size: int, auto_vacuum: int) -> None:
        self.pair = Pair(
            folder,
            page_size=page_size,
            before=(
                f"PRAGMA auto_vacuum = {auto_vacuum}",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x)",
                "CREATE TABLE w(k INTEGER PRIMARY KEY, x) WITHOUT ROWID",
                "CREATE VIRTUAL TABLE f USING fts5(x)",
            ),
        )
        self.waiting: list[Transaction] = []
        self.applied: list[Transaction] = []
        self.digests = [digest(self.pair.follower_path)]
        """Of the follower after each applied transaction, as far as it was looked at."""

    def act(self, action: str, number: int) -> None:
        match action:
            case "run":
                self.pair.run(STATEMENTS[number])
            case "take":
                if transaction := self.pair.take():
                    self.waiting.append(transaction)
            case "apply":
                group, self.waiting = self.waiting[:number], self.waiting[number:]
                self.apply(group)
            case "leader checkpoint":
                self.pair.capture.checkpoint()
            case "follower checkpoint":
                assert self.pair.applier.checkpoint()
            case "undo":
                self.undo(number)

    def apply(self, group: list[Transaction]) -> None:
        if not group:
            return
        self.pair.applier.apply(itertools.chain.from_iterable(group))
        self.applied.append([delta for transaction in group for delta in transaction])
        self.digests.append(digest(self.pair.follower_path))

    def undo(self, number: int) -> None:
        """Take back the last groups, look, and put them back to where they wait."""
        back = self.applied[-number:]
        if not back:
            return
        self.pair.applier.undo(delta for group in reversed(back) for delta in reversed(group))
        del self.applied[-len(back) :], self.digests[-len(back) :]
        assert digest(self.pair.follower_path) == self.digests[-1]
        self.waiting[:0] = back

    def finish(self) -> None:
        self.act("take", 0)
        while self.waiting:
            self.act("apply", 3)
        assert self.pair.equal()
        assert self.pair.files_equal()


def run(actions: list[tuple[str, int]], page_size: int, auto_vacuum: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = Run(Path(folder) / "pair", page_size, auto_vacuum)
        try:
            for action, number in actions:
                made.act(action, number)
            made.finish()
        finally:
            made.pair.close()


PROPERTY = given(
    st.lists(ACTIONS, min_size=5, max_size=40),
    st.sampled_from([512, 1024, 4096]),
    st.sampled_from([0, 1, 2]),
)
CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=60, deadline=None, suppress_health_check=CHECKS)
@PROPERTY
def test_random_histories_end_bit_identical(
    actions: list[tuple[str, int]], page_size: int, auto_vacuum: int
) -> None:
    run(actions, page_size, auto_vacuum)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=600, deadline=None, suppress_health_check=CHECKS)
@PROPERTY
def test_many_random_histories_end_bit_identical(
    actions: list[tuple[str, int]], page_size: int, auto_vacuum: int
) -> None:
    run(actions, page_size, auto_vacuum)
