"""Capture on a leader, apply, undo and checkpoint on a follower: both stay equal bit for bit."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import numpy as np
import pytest
from pagepair import Pair, Transaction, digest, other_process, random_rows

from paceline.engines.sqlite import plainfile
from paceline.engines.sqlite.applier import Applier
from paceline.engines.sqlite.capture import Capture, Window
from paceline.engines.sqlite.formats.page import PageDelta, merge
from paceline.engines.sqlite.mark import Mark
from paceline.engines.sqlite.pagesource import PageSource
from paceline.engines.sqlite.pin import SnapshotPin
from paceline.engines.sqlite.walwriter import WalWriter
from paceline.errors import Diverged, HashMismatch, Unavailable

MakePair = Callable[..., Pair]


@pytest.fixture
def make_pair(tmp_path: Path) -> Iterator[MakePair]:
    made: list[Pair] = []

    def make(**options: object) -> Pair:
        made.append(Pair(tmp_path / f"pair{len(made)}", **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for pair in made:
        pair.close()


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    return make_pair()


def backwards(transactions: list[Transaction]) -> list[PageDelta]:
    return [delta for transaction in reversed(transactions) for delta in reversed(transaction)]


@pytest.mark.parametrize("page_size", [512 << shift for shift in range(8)])
def test_every_page_size_ends_bit_identical(make_pair: MakePair, page_size: int) -> None:
    pair = make_pair(page_size=page_size)
    start = digest(pair.leader_path)
    done: list[Transaction] = []
    for sql in (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x)",
        random_rows("t", 60, page_size // 3),
        "CREATE INDEX i ON t(x)",
        "DELETE FROM t WHERE id % 3",
        "VACUUM",
        random_rows("t", 12, page_size * 3),
    ):
        pair.run(sql)
        done.append(pair.ship())
        assert pair.equal(), sql
    pair.applier.undo(backwards(done))
    assert digest(pair.follower_path) == start
    pair.applier.apply(itertools.chain.from_iterable(done))
    assert pair.equal()
    assert pair.files_equal()


SHAPES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "without rowid": (
        ("CREATE TABLE t(k TEXT PRIMARY KEY, x) WITHOUT ROWID",),
        (
            "INSERT INTO t WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i<500)"
            " SELECT hex(randomblob(20)), i FROM r",
            "DELETE FROM t WHERE x % 2",
        ),
    ),
    "auto_vacuum full": (
        ("PRAGMA auto_vacuum = full", "CREATE TABLE t(x)"),
        (random_rows("t", 300, 900), "DELETE FROM t WHERE rowid > 20", random_rows("t", 100, 900)),
    ),
    "auto_vacuum incremental": (
        ("PRAGMA auto_vacuum = incremental", "CREATE TABLE t(x)"),
        (
            random_rows("t", 300, 900),
            "DELETE FROM t WHERE rowid > 20",
            "PRAGMA incremental_vacuum(7)",
            "PRAGMA incremental_vacuum",
            random_rows("t", 100, 900),
        ),
    ),
    "full text": (
        ("CREATE VIRTUAL TABLE t USING fts5(x)",),
        (
            "INSERT INTO t WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i<400)"
            " SELECT 'word' || (i * 7919 % 101) || ' and ' || i FROM r",
            "DELETE FROM t WHERE rowid % 3 = 0",
            "INSERT INTO t(t) VALUES ('optimize')",
        ),
    ),
    "r-tree": (
        ("CREATE VIRTUAL TABLE t USING rtree(id, a, b, c, d)",),
        (
            "INSERT INTO t WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r WHERE i<400)"
            " SELECT i, i % 37, i % 37 + 1, i % 11, i % 11 + 2 FROM r",
            "DELETE FROM t WHERE id % 5 = 0",
        ),
    ),
    "imported with rows": (
        ("CREATE TABLE t(x)", random_rows("t", 400, 700), "DELETE FROM t WHERE rowid > 100"),
        (random_rows("t", 50, 5000), "DROP TABLE t", "VACUUM", "CREATE TABLE u(x)"),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("merged", [False, True])
def test_every_kind_of_table_ends_bit_identical(make_pair: MakePair, shape: str, merged: bool) -> None:
    before, statements = SHAPES[shape]
    pair = make_pair(before=before)
    start = digest(pair.leader_path)
    done: list[Transaction] = []
    for sql in statements:
        pair.run(sql)
        done.append(pair.take() if merged else pair.ship())
    if merged:
        pair.applier.apply(itertools.chain.from_iterable(done))
    assert pair.equal()
    with other_process(pair.follower_path) as other:
        assert other.ask("q('pragma integrity_check')") == "[('ok',)]"
    pair.applier.undo(backwards(done))
    assert digest(pair.follower_path) == start
    pair.applier.apply(itertools.chain.from_iterable(done))
    assert pair.files_equal()


@pytest.mark.parametrize("follower_checkpoints", [False, True])
@pytest.mark.parametrize("leader_checkpoints", [False, True])
def test_pages_freed_unwritten_after_vacuum_are_equal(
    pair: Pair, follower_checkpoints: bool, leader_checkpoints: bool
) -> None:
    """SQLite grows the database by pages that it never writes; old bytes linger there, on one node only."""
    pair.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)")
    pair.run("INSERT INTO t(x) VALUES (randomblob(400000))")
    pair.ship()
    pair.run("DELETE FROM t")
    pair.run("VACUUM")
    shrunk = pair.ship()
    if follower_checkpoints:
        assert pair.applier.checkpoint()
    if leader_checkpoints:
        assert pair.capture.checkpoint()
    pair.run("BEGIN")
    pair.run("INSERT INTO t(x) VALUES (zeroblob(300000))")
    pair.run("DELETE FROM t")
    pair.run("COMMIT")
    grown = pair.ship()
    assert pair.equal()
    pair.applier.undo(backwards([shrunk, grown]))
    pair.applier.apply([*shrunk, *grown])
    assert pair.equal()
    assert pair.files_equal()


def test_pages_that_came_without_a_frame_are_captured_as_they_stand(pair: Pair, tmp_path: Path) -> None:
    """What SQLite does not do today, but may: the database grows by pages that nobody wrote."""
    pair.run("CREATE TABLE t(x)")
    pair.run("INSERT INTO t VALUES (randomblob(30000))")
    pair.ship()
    leader = Applier(str(tmp_path / "main.db"))
    leader.open()
    leader.install(4096, pair.applier.page_count, pages_of(pair.follower_path))
    full, first = leader.page_count, leader._source.stored(1)
    leader.install(4096, 2, [(1, first)])
    mark = Mark.decode(leader.mark)
    leader.install(4096, 2, [(1, first)])
    append = leader._writer.begin()
    append.add([1], np.frombuffer(first, np.uint8).reshape(1, 4096))
    append.commit(full)
    index = leader._index
    assert index is not None
    source = PageSource(leader.path, 4096)
    source.reset(mark.page_count, index.pages(0, mark.frame))
    wal = plainfile.descriptor(leader.path + "-wal")
    (delta,) = Window(wal, index, source, mark.frame, index.header()).deltas()
    assert delta.pages.tolist() == [1, *range(3, full + 1)]
    lingering = dict(pages_of(pair.follower_path))
    assert [row.tobytes() for row in delta.xor[1:]] == [lingering[page] for page in range(3, full + 1)]
    assert delta.before.tolist()[1:] == [0] * (full - 2)
    leader.close()
    plainfile.forget(leader.path)


def pages_of(path: str) -> list[tuple[int, bytes]]:
    pin = SnapshotPin(path, None)
    units = list(enumerate(pin.read(1, pin.unit_count), 1))
    pin.close()
    return units


def test_spilled_and_rolled_back_frames_are_not_captured(pair: Pair) -> None:
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    pair.run("PRAGMA cache_size = 5")
    pair.run("BEGIN")
    pair.run(random_rows("t", 200, 3000))
    pair.run("ROLLBACK")
    assert list(pair.capture.changed()) == []
    pair.run("INSERT INTO t VALUES (1)")
    (delta,) = pair.ship()
    assert len(delta) == 1
    assert pair.equal()


def test_of_several_frames_of_a_page_the_last_counts(pair: Pair) -> None:
    pair.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    pair.ship()
    for number in range(700):  # more than the small-window path takes
        pair.run("INSERT INTO t(x) VALUES (?)", (number,))
    (delta,) = pair.ship()
    assert len(delta) < 8
    assert pair.equal()


def test_commits_of_others_merge_into_the_next_capture_and_are_counted(pair: Pair) -> None:
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    assert pair.capture.foreign_commits == 0
    with other_process(pair.leader_path) as other:
        assert other.ask("q('insert into t values (1)')") == "[]"
        assert other.ask("q('insert into t values (2)')") == "[]"
        assert pair.capture.pending()
        pair.run("INSERT INTO t VALUES (3)")
        pair.ship()
    assert pair.capture.foreign_commits == 2
    assert not pair.capture.pending()
    assert pair.equal()


def test_leader_whose_log_was_restarted_over_uncaptured_commits_has_diverged(pair: Pair) -> None:
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    with other_process(pair.leader_path) as other:
        other.ask("q('insert into t values (1)')")
        other.ask("q('pragma wal_checkpoint(truncate)')")
        other.ask("q('insert into t values (2)')")
        with pytest.raises(Diverged):
            list(pair.capture.changed())


def test_leader_whose_uncaptured_commits_were_checkpointed_has_diverged(pair: Pair) -> None:
    """The images before them are gone from the file."""
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    with other_process(pair.leader_path) as other:
        other.ask("q('insert into t values (1)')")
        other.ask("q('pragma wal_checkpoint(passive)')")
        with pytest.raises(Diverged):
            list(pair.capture.changed())


def test_new_log_is_captured_from_its_first_frame(pair: Pair) -> None:
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    old = pair.capture.mark()
    assert pair.capture.checkpoint()
    for number in range(3):
        pair.run("INSERT INTO t VALUES (?)", (number,))
    pair.ship()
    assert pair.capture.mark()[:8] != old[:8]
    assert pair.equal()


def test_leader_does_not_checkpoint_what_was_not_captured(pair: Pair) -> None:
    pair.run("CREATE TABLE t(x)")
    assert not pair.capture.checkpoint()
    pair.ship()
    assert pair.capture.checkpoint()
    assert pair.capture.frames == 0


def change_one(transaction: Transaction, **columns: np.ndarray) -> Transaction:
    """The transaction with other columns in its only part."""
    (delta,) = transaction
    fields = {name: getattr(delta, name) for name in PageDelta.__dataclass_fields__}
    return [PageDelta(**{**fields, **columns})]


@pytest.mark.parametrize("column", ["before", "after", "xor"])
def test_nothing_is_published_when_a_hash_differs(pair: Pair, column: str) -> None:
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    pair.run(random_rows("t", 20, 2000))
    transaction = pair.take()
    before = digest(pair.follower_path)
    frames = pair.applier.frames
    damaged = getattr(transaction[0], column).copy()
    damaged[len(damaged) // 2 if column != "before" else 0] ^= 1
    with pytest.raises(HashMismatch, match="page"):
        pair.applier.apply(change_one(transaction, **{column: damaged}))
    assert digest(pair.follower_path) == before and pair.applier.frames == frames
    pair.applier.apply(transaction)
    assert pair.equal()


def test_hash_mismatch_in_a_streamed_transaction_publishes_nothing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paceline.engines.sqlite.capture.PART_RAW_BYTES", 4 * 4096)
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    before = digest(pair.follower_path)
    pair.run(random_rows("t", 100, 3000))
    parts = pair.take()
    assert len(parts) > 10
    damaged = parts[-1].after.copy()
    damaged[-1] ^= 1
    with pytest.raises(HashMismatch):
        pair.applier.apply([*parts[:-1], *change_one(parts[-1:], after=damaged)])
    assert digest(pair.follower_path) == before
    with other_process(pair.follower_path) as other:
        assert other.ask("q('select count(*) from t')") == "[(0,)]"
    pair.applier.apply(parts)
    assert pair.equal()
    assert pair.files_equal()


def test_transactions_larger_than_memory_allows_are_published_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several transactions with pages in common, streamed: the second finds the first one's images in the log."""
    monkeypatch.setattr("paceline.engines.sqlite.applier.APPLY_PAGES_MAX", 3)
    published: list[int] = []
    publish = pair.applier._publish

    def spy(*args: object) -> None:
        published.append(1)
        publish(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pair.applier, "_publish", spy)
    start = digest(pair.follower_path)
    done: list[Transaction] = []
    for sql in (
        "CREATE TABLE t(x)",
        random_rows("t", 30, 3000),
        "DELETE FROM t",
        "VACUUM",
        random_rows("t", 60, 2500),
        "UPDATE t SET x = x || 'a'",
    ):
        pair.run(sql)
        done.append(pair.take())
    pair.applier.apply(itertools.chain.from_iterable(done))
    assert published == [1]
    assert pair.equal()
    pair.applier.undo(backwards(done))
    assert digest(pair.follower_path) == start
    pair.applier.apply(itertools.chain.from_iterable(done))
    assert pair.files_equal()


def test_transaction_that_does_not_continue_is_refused(pair: Pair) -> None:
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    pair.run("INSERT INTO t VALUES (1)")
    skipped = pair.take()
    pair.run("INSERT INTO t VALUES (2)")
    with pytest.raises(HashMismatch, match="page 2"):
        pair.applier.apply(pair.take())
    with pytest.raises(HashMismatch):
        merge([*skipped, *skipped])


def test_unfinished_transaction_is_a_programmer_error(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.engines.sqlite.capture.PART_RAW_BYTES", 4096)
    pair.run("CREATE TABLE t(x)")
    parts = pair.take()
    assert len(parts) == 2
    with pytest.raises(AssertionError, match="last part"):
        pair.applier.apply(parts[:1])
    pair.applier.apply(parts)
    assert pair.equal()


def test_promotion_after_applies_reads_and_writes_the_new_content(pair: Pair) -> None:
    """The guard's own cache is stale by then; a fresh writer's is not."""
    pair.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    for _ in range(20):
        pair.run(random_rows("t", 20, 300))
        pair.ship()
    mark = pair.applier.release_for_leading()
    writer = apsw.Connection(pair.follower_path)
    assert writer.execute("SELECT count(*) FROM t").fetchall() == [(400,)]
    writer.execute("INSERT INTO t(x) VALUES ('new')")
    assert writer.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    writer.close()
    pair.applier.open()
    assert pair.applier.mark != mark


def test_follower_follows_again_after_leading(pair: Pair) -> None:
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    mark = pair.applier.release_for_leading()
    writer = apsw.Connection(pair.follower_path)
    writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    capture = Capture(pair.follower_path)
    capture.attach(writer, mark)
    writer.execute("INSERT INTO t VALUES (1)")
    own = list(capture.changed())
    capture.advance()
    end = capture.mark()
    capture.detach()
    writer.close()
    pair.applier.open()
    assert pair.applier.mark == end
    pair.applier.undo(reversed(own))
    assert pair.equal()
    pair.run("INSERT INTO t VALUES (2)")
    pair.ship()
    assert pair.equal()


def test_busy_reader_postpones_a_checkpoint_and_nothing_is_lost(pair: Pair) -> None:
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    with other_process(pair.follower_path) as other:
        other.ask("q('begin')")
        assert other.ask("q('select count(*) from t')") == "[(0,)]"
        for _ in range(5):
            pair.run("INSERT INTO t VALUES (1)")
            pair.ship()
        for _ in range(2):
            assert pair.applier.checkpoint() is False
            assert other.ask("lock()") != "got"
            pair.run("INSERT INTO t VALUES (1)")
            pair.ship()
            assert other.ask("q('select count(*) from t')") == "[(0,)]"
        with other_process(pair.follower_path) as third:
            assert third.ask("q('select count(*) from t')") == "[(7,)]"
            assert third.ask("q('pragma integrity_check')") == "[('ok',)]"
        other.ask("q('rollback')")
        assert other.ask("q('select count(*) from t')") == "[(7,)]"
    assert pair.applier.checkpoint() is True
    assert pair.applier.frames == 0
    assert pair.equal()


def test_checkpoint_that_cannot_empty_the_log_syncs_it(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """So everything applied is durable either way, and the node's log may let go of it."""
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    synced: list[int] = []
    sync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(fd), sync(fd)))
    with other_process(pair.follower_path) as other:
        other.ask("q('begin')")
        other.ask("q('select count(*) from t')")
        pair.run("INSERT INTO t VALUES (1)")
        pair.ship()
        synced.clear()
        assert pair.applier.checkpoint() is False
        assert plainfile.descriptor(pair.follower_path + "-wal") in synced


def test_reader_that_stays_forever_does_not_stop_pages_from_moving(pair: Pair) -> None:
    """After a checkpoint that moved everything but could not empty the log, appends go on behind it."""
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    with other_process(pair.follower_path) as other:
        for number in range(6):
            pair.run("INSERT INTO t VALUES (1)")
            pair.ship()
            other.ask("q('begin')")
            assert other.ask("q('select count(*) from t')") == f"[({number + 1},)]"
            assert pair.applier.checkpoint() is False
            info = pair.applier._index.checkpoint_info()  # type: ignore[union-attr]
            assert info.backfilled == pair.applier.frames
            pair.run("UPDATE t SET x = x + 1")
            pair.ship()
            with other_process(pair.follower_path) as third:
                assert third.ask("q('select count(*), min(x) from t')") == f"[({number + 1}, 2)]"
            assert pair.equal()
            other.ask("q('rollback')")
            assert other.ask("q('select min(x) from t')") == "[(2,)]"
            pair.run("UPDATE t SET x = 1")
            pair.ship()
    assert pair.applier.checkpoint()


def test_foreign_write_during_a_checkpoint_means_diverged(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    guard = pair.applier._guard
    lock = guard._lock
    with other_process(pair.follower_path) as other:

        def late(fresh: apsw.Connection) -> None:
            assert other.ask("q('insert into t values (1)')") == "[]"
            lock(fresh)

        monkeypatch.setattr(guard, "_lock", late)
        with pytest.raises(Diverged):
            pair.applier.checkpoint()
    assert guard.held


@pytest.mark.parametrize("writes", [False, True])
def test_foreign_lock_after_a_checkpoint_never_lets_us_append_without_the_guard(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, writes: bool
) -> None:
    monkeypatch.setattr("paceline.engines.sqlite.guard.BUSY_MS", 10)
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    guard = pair.applier._guard
    lock = guard._lock
    with other_process(pair.follower_path) as other:

        def late(fresh: apsw.Connection) -> None:
            assert other.ask("q('begin immediate')") == "[]"
            if writes:
                other.ask("q('insert into t values (1)')")
            lock(fresh)

        with monkeypatch.context() as patch:
            patch.setattr(guard, "_lock", late)
            with pytest.raises(Unavailable):
                pair.applier.checkpoint()
        assert not guard.held
        pair.run("INSERT INTO t VALUES (2)")
        transaction = pair.take()
        with pytest.raises(Unavailable):
            pair.applier.apply(transaction)
        other.ask("q('commit')")
    if writes:
        with pytest.raises(Diverged):
            pair.applier.apply(transaction)
    else:
        pair.applier.apply(transaction)
        assert pair.equal()


def test_foreign_checkpoint_during_ours_is_harmless(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    guard = pair.applier._guard
    lock = guard._lock
    with other_process(pair.follower_path) as other:

        def late(fresh: apsw.Connection) -> None:
            other.ask("q('pragma wal_checkpoint(truncate)')")
            lock(fresh)

        monkeypatch.setattr(guard, "_lock", late)
        assert pair.applier.checkpoint()
    pair.run("INSERT INTO t VALUES (1)")
    pair.ship()
    assert pair.equal()


class RecordedFile(apsw.VFSFile):
    steps: list[str]

    def __init__(self, steps: list[str], name: object, flags: list[int]) -> None:
        self.steps = steps
        self.kind = "log" if flags[0] & apsw.SQLITE_OPEN_WAL else "file"
        super().__init__("unix", name, flags)  # type: ignore[arg-type]

    def xWrite(self, data: bytes, offset: int) -> None:
        self.steps.append(f"write {self.kind}")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self.steps.append(f"sync {self.kind}")
        super().xSync(flags)

    def xTruncate(self, size: int) -> None:
        self.steps.append(f"cut {self.kind}")
        super().xTruncate(size)


class Recorder(apsw.VFS):
    """SQLite's own file layer, with a list of what it did."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        super().__init__("recorder", "unix", makedefault=True)

    def xOpen(self, name: object, flags: list[int]) -> apsw.VFSFile:
        return RecordedFile(self.steps, name, flags)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    yield made
    made.unregister()


def test_log_is_synced_before_the_file_is_written_and_the_file_before_the_log_is_cut(
    recorder: Recorder, make_pair: MakePair
) -> None:
    pair = make_pair()
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    pair.run(random_rows("t", 10, 900))
    pair.ship()
    recorder.steps.clear()
    assert pair.applier.checkpoint()
    assert [step for step, _ in itertools.groupby(recorder.steps) if step != "cut file"] == [
        "sync log",
        "write file",
        "sync file",
        "cut log",
    ]


def test_reader_in_another_process_sees_whole_transactions_only(pair: Pair) -> None:
    pair.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    pair.run("CREATE TABLE u(n)")
    pair.run("INSERT INTO u VALUES (0)")
    pair.ship()
    done: list[Transaction] = []
    for _ in range(1500):
        pair.run("BEGIN")
        pair.run("INSERT INTO t(x) VALUES (randomblob(60))")
        pair.run("UPDATE u SET n = n + 1")
        pair.run("COMMIT")
        done.append(pair.take())
    with other_process(pair.follower_path) as other:
        other.ask(
            "globals().update(seen=[0], bad=[], check=lambda: ("
            "q('begin'), n := q('select n from u')[0][0], c := q('select count(*) from t')[0][0],"
            " bad.append((n, c)) if n != c or n < seen[-1] else None, seen.append(n),"
            " bad.append('integrity') if q('pragma integrity_check') != [('ok',)] else None,"
            " q('commit')))"
        )
        other.ask(
            "globals().update(stop=[], thread=__import__('threading').Thread(target=lambda: ["
            "check() for _ in iter(lambda: len(stop), 1)]))"
        )
        other.ask(
            "globals().update(c=sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None,"
            " check_same_thread=False)) or thread.start()"
        )
        checkpoints = 0
        for number, transaction in enumerate(done):
            pair.applier.apply(transaction)
            if number % 100 == 99:
                checkpoints += pair.applier.checkpoint()
        other.ask("stop.append(1) or thread.join()")
        assert other.ask("bad") == "[]"
        rounds = int(other.ask("len(seen)"))
        assert rounds > 20
        assert other.ask("len(set(seen)) > 5") == "True"
    assert pair.applier.frames < 4000 or checkpoints
    assert pair.equal()


def test_writer_is_made_anew_with_the_guard(pair: Pair) -> None:
    pair.run("CREATE TABLE t(x)")
    pair.ship()
    writer = pair.applier._writer
    pair.applier.checkpoint()
    assert isinstance(pair.applier._writer, WalWriter) and pair.applier._writer is not writer
