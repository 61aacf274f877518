"""Pins hold an image while everything moves on; install brings a database to one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
import xxhash
from pagepair import Pair, digest, other_process, random_rows

from paceline.engines.base import unit_hash
from paceline.engines.sqlite import plainfile
from paceline.engines.sqlite.applier import Applier
from paceline.engines.sqlite.capture import Capture
from paceline.engines.sqlite.pin import SnapshotPin
from paceline.errors import Corruption, HashMismatch, Unavailable


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path / "pair")
    made.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    made.run(random_rows("t", 100, 500))
    made.ship()
    yield made
    made.close()


def image_of(pin: SnapshotPin) -> bytes:
    return b"".join(pin.read(1, pin.unit_count))


@pytest.mark.parametrize("checkpoint_before", [False, True])
@pytest.mark.parametrize("side", ["leader", "follower"])
def test_pin_keeps_its_image_while_writers_checkpoints_and_new_logs_go_on(
    pair: Pair, side: str, checkpoint_before: bool
) -> None:
    if checkpoint_before:
        assert pair.capture.checkpoint() and pair.applier.checkpoint()
    pin = SnapshotPin(pair.leader_path if side == "leader" else pair.follower_path, None)
    image, whole = image_of(pin), pin.digest()
    results: list[bool] = []
    for number in range(4):
        pair.run("UPDATE t SET x = randomblob(600)")
        pair.run("DELETE FROM t WHERE id % 7 = ?", (number,))
        pair.run("VACUUM")
        pair.ship()
        pair.capture.checkpoint()
        pair.applier.checkpoint()
        thread = threading.Thread(
            target=lambda: results.append(image_of(pin) == image and pin.digest() == whole)
        )
        thread.start()
        thread.join()
    assert results == [True] * 4
    pin.close()
    assert pair.capture.checkpoint() and pair.applier.checkpoint()
    assert pair.equal()


def test_pin_on_a_log_that_is_wholly_in_the_file_survives_its_restart(pair: Pair) -> None:
    """SQLite lets a writer restart such a log under the pin; its frames are then others."""
    pair.sql.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    pin = SnapshotPin(pair.leader_path, None)
    image = image_of(pin)
    salts = pair.capture._index.header().salts
    for _ in range(3):
        pair.run("UPDATE t SET x = randomblob(600)")
    assert pair.capture._index.header().salts != salts
    assert image_of(pin) == image
    pin.close()


def test_pin_gives_the_hashes_and_digest_of_the_contract(pair: Pair) -> None:
    pin = SnapshotPin(pair.leader_path, None)
    units = pin.read(1, pin.unit_count)
    hashes = b"".join(map(unit_hash, units))
    assert pin.hashes(1, pin.unit_count) == hashes
    assert pin.hashes(3, 2) == hashes[32:64]
    shape = pin.unit_bytes.to_bytes(4, "little") + pin.unit_count.to_bytes(4, "little")
    assert pin.digest() == xxhash.xxh3_128_digest(shape + hashes)
    with pytest.raises(ValueError):
        pin.read(pin.unit_count, 2)
    pin.close()
    pair.run("UPDATE t SET x = 1 WHERE id = 1")
    assert digest(pair.leader_path) != digest(pair.follower_path)


def install_from(pair: Pair, target: Applier, *, everything: bool) -> None:
    pin = SnapshotPin(pair.leader_path, None)
    try:
        own = SnapshotPin(target.path, None)
        have = own.read(1, own.unit_count) if own.unit_bytes == pin.unit_bytes else []
        own.close()
        units = [
            (page, unit)
            for page, unit in enumerate(pin.read(1, pin.unit_count), 1)
            if everything or page > len(have) or have[page - 1] != unit
        ]
        target.install(pin.unit_bytes, pin.unit_count, reversed(units))
    finally:
        pin.close()


@pytest.mark.parametrize("everything", [False, True])
def test_install_brings_a_diverged_follower_back_under_its_readers(pair: Pair, everything: bool) -> None:
    pair.run("DELETE FROM t WHERE id > 50")
    pair.run("VACUUM")
    pair.take()  # never arrives
    pair.run("UPDATE t SET x = 2")
    with pytest.raises(HashMismatch):
        pair.applier.apply(pair.take())
    with other_process(pair.follower_path) as other:
        other.ask("q('begin')")
        assert other.ask("q('select count(*) from t')") == "[(100,)]"
        install_from(pair, pair.applier, everything=everything)
        assert other.ask("q('select count(*) from t')") == "[(100,)]"
        other.ask("q('commit')")
        assert other.ask("q('select count(*), max(x) from t')") == "[(50, 2)]"
    assert pair.equal()
    pair.run("UPDATE t SET x = 3")
    pair.ship()
    assert pair.files_equal()


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_install_into_an_empty_database_takes_the_page_size(tmp_path: Path, page_size: int) -> None:
    pair = Pair(tmp_path / "pair", page_size=page_size)
    pair.run("CREATE TABLE t(x)")
    pair.run(random_rows("t", 30, 2000))
    target = Applier(str(tmp_path / "target.db"))
    target.open()
    install_from(pair, target, everything=True)
    assert digest(target.path) == digest(pair.leader_path)
    assert target.page_size == page_size
    target.close()
    pair.close()
    plainfile.forget(target.path)


def test_apply_to_an_empty_database_takes_the_page_size_unless_it_is_open(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "pair", page_size=1024)
    assert pair.applier.page_size == 4096
    pair.run("CREATE TABLE t(x)")
    transaction = pair.take()
    with other_process(pair.follower_path) as other:
        other.ask("q('begin')")
        other.ask("q('select * from sqlite_master')")
        with pytest.raises(Unavailable, match="has it open"):
            pair.applier.apply(transaction)
    pair.applier.apply(transaction)
    assert pair.equal() and pair.applier.page_size == 1024
    pair.close()


def test_other_page_size_never_replaces_a_database_with_content(pair: Pair) -> None:
    before = digest(pair.follower_path)
    with pytest.raises(HashMismatch, match="page size"):
        pair.applier.install(8192, 1, [(1, bytes(8192))])
    assert digest(pair.follower_path) == before


@pytest.mark.parametrize(
    ("units", "reason"),
    [
        ([(1, bytes(4095))], "unit 1"),
        ([(0, bytes(4096))], "unit 0"),
        ([(9999, bytes(4096))], "unit 9999"),
        ([], "lacks page"),
    ],
)
def test_incomplete_or_damaged_snapshot_is_not_installed(
    pair: Pair, units: list[tuple[int, bytes]], reason: str
) -> None:
    before = digest(pair.follower_path)
    with pytest.raises(Corruption, match=reason):
        pair.applier.install(4096, 200, units)
    assert digest(pair.follower_path) == before


@pytest.mark.parametrize("page_size", [65536, 4096])
def test_lock_page_is_never_written_and_reads_as_zeros(tmp_path: Path, page_size: int) -> None:
    """A sparse database that ends just below 1 GiB grows across the page that holds the lock byte."""
    lock = (1 << 30) // page_size + 1
    pages = lock - 3
    pair = Pair(tmp_path / "pair", page_size=page_size, before=("CREATE TABLE t(x)",))
    pair.close()
    for path in (pair.leader_path, pair.follower_path):
        os.truncate(path, pages * page_size)
        with open(path, "r+b") as file:
            file.seek(28)
            file.write(pages.to_bytes(4, "big"))
        Path(path).with_name("state").unlink(missing_ok=True)
    sql = apsw.Connection(pair.leader_path)
    capture = Capture(pair.leader_path)
    capture.attach(sql, None)
    applier = Applier(pair.follower_path)
    applier.open()
    blob = os.urandom(6 * page_size)
    sql.execute("INSERT INTO t VALUES (?)", (blob,))
    deltas = list(capture.changed())
    capture.advance()
    touched = [int(page) for delta in deltas for page in delta.pages]
    assert lock not in touched and {lock - 1, lock + 1} <= set(touched)
    assert deltas[-1].page_count_after > lock
    applier.apply(deltas)
    with other_process(pair.follower_path) as other:
        assert other.ask("q('select length(x) from t')") == f"[({len(blob)},)]"
    pins = [SnapshotPin(path, None) for path in (pair.leader_path, pair.follower_path)]
    assert pins[0].unit_count == pins[1].unit_count
    tails = [pin.read(lock - 4, pin.unit_count - lock + 5) for pin in pins]
    assert tails[0] == tails[1] and tails[0][4] == bytes(page_size)
    for pin in pins:
        pin.close()
    # A snapshot has the lock page as a unit; it must not reach the log.
    first = tails[0][0]
    applier.install(page_size, applier.page_count, [(lock, bytes(page_size)), (lock - 4, first)])
    applier.undo([])
    assert applier.checkpoint() and capture.checkpoint()
    applier.close()
    capture.detach()
    sql.close()
    for path in (pair.leader_path, pair.follower_path):
        plainfile.forget(path)
