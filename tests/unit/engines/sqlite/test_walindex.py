"""The guard keeps the lock, the index grows, leftovers go, publication is atomic."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import apsw
import numpy as np
import pytest
from pagepair import other_process

from paceline.engines.sqlite import plainfile, walindex
from paceline.engines.sqlite.connect import EngineOptions, create_database
from paceline.engines.sqlite.guard import Guard
from paceline.engines.sqlite.walformat import checksum
from paceline.engines.sqlite.walindex import WalIndex
from paceline.engines.sqlite.walwriter import WalWriter
from paceline.errors import AppendFailed, DiskFull, Unavailable

PAGE = 512


class Bench:
    """A guard and a writer of frames on a database with one table of one page."""

    def __init__(self, path: str) -> None:
        self.path = path
        create_database(path, EngineOptions(page_size=PAGE))
        connection = apsw.Connection(path)
        connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES (1)")
        connection.close()
        self.images = [Path(path).read_bytes()[at * PAGE : (at + 1) * PAGE] for at in range(2)]
        self.guard = Guard(path)
        self.guard.take()
        self.index = WalIndex(path)
        self.writer = WalWriter(path, self.index, PAGE)

    def append(self, count: int, page: int = 2) -> None:
        """One transaction of ``count`` frames of a page's own image."""
        rows = np.frombuffer(self.images[page - 1], np.uint8).reshape(1, PAGE).repeat(count, axis=0)
        append = self.writer.begin()
        append.add([page] * count, rows)
        append.commit(2)

    def close(self) -> None:
        self.index.close()
        self.guard.close(remove_log=True)
        plainfile.forget(self.path)


def recovered_frames(path: str) -> int:
    """Frames that SQLite's recovery finds good in a copy that has no index."""
    copy = path + ".copy"
    for suffix in ("", "-wal"):
        Path(copy + suffix).write_bytes(Path(path + suffix).read_bytes())
    connection = apsw.Connection(copy)
    connection.pragma("journal_mode")
    frames, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    connection.close()
    return frames


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(str(tmp_path / "a.db"))
    yield made
    made.close()


def test_other_process_never_gets_the_write_lock_while_the_index_grows(bench: Bench) -> None:
    with other_process(bench.path) as other:
        for boundary in (4062, 4062 + 4096, 4062 + 2 * 4096):
            bench.append(boundary - 2 - bench.writer.header.frames)
            for _ in range(4):
                bench.append(1)
                assert other.can_write() is False, bench.writer.header.frames
                assert other.ask("q('select x from t')") == "[(1,)]"
            assert bench.writer.header.frames == boundary + 2
        bench.guard.release()
        assert other.can_write()  # the probe is able to say yes
        assert other.ask("q('pragma integrity_check')") == "[('ok',)]"


def test_plain_descriptor_is_kept_until_the_file_is_forgotten(bench: Bench) -> None:
    fd = plainfile.descriptor(bench.path)
    assert plainfile.descriptor(os.path.relpath(bench.path)) == fd
    with other_process(bench.path) as other:
        assert other.can_write() is False
        # What the registry is there to prevent: closing another descriptor of the index drops the locks.
        os.close(os.open(bench.path + "-shm", os.O_RDONLY))
        assert other.can_write()


def test_replaced_file_gets_a_new_descriptor_and_the_old_one_stays(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    Path(path).write_bytes(b"old")
    old = plainfile.descriptor(path)
    os.rename(path, path + ".moved")
    Path(path).write_bytes(b"new")
    new = plainfile.descriptor(path)
    assert plainfile.pread_all(new, 3, 0) == b"new"
    assert plainfile.pread_all(old, 3, 0) == b"old"
    plainfile.forget(path)
    with pytest.raises(OSError):
        os.fstat(old)


def test_sqlite_reads_and_recovers_what_was_appended(bench: Bench) -> None:
    bench.append(5000)
    bench.append(3, page=1)
    connection = apsw.Connection(bench.path, flags=apsw.SQLITE_OPEN_READONLY)
    assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]
    connection.close()
    assert recovered_frames(bench.path) == 5003


@pytest.mark.parametrize("frames", [100, 4062, 4063, 5000])
def test_leftovers_of_a_killed_writer_are_cleared_under_a_new_guard(bench: Bench, frames: int) -> None:
    bench.append(frames)
    # As a writer leaves it that was killed between index entries and header: a full block of entries beyond mxFrame.
    room = 4062 + 4096 - frames
    bench.index.reserve(frames + room)
    bench.index.append(frames, [2] * room)
    bench.index.close()
    bench.index = WalIndex(bench.path)
    bench.writer = WalWriter(bench.path, bench.index, PAGE)
    for _ in range(3):
        bench.append(2)
    total = frames + 6
    assert bench.index.pages(0, total).tolist() == [2] * total
    number, entries = _last_block(total)
    slots = np.frombuffer(bench.index._block(number).slots, np.uint16)
    assert sorted(slots[slots > 0].tolist()) == list(range(1, entries + 1))
    with other_process(bench.path) as other:
        assert other.ask("q('select x from t')") == "[(1,)]"


def _last_block(frames: int) -> tuple[int, int]:
    return (0, frames) if frames <= 4062 else (1, frames - 4062)


def test_second_copy_of_the_header_is_written_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []
    move = ctypes.memmove
    base = bench.index._header_address()

    def spy(target: int, source: bytes, count: int) -> None:
        order.append(target - base)
        move(target, source, count)

    monkeypatch.setattr(walindex.ctypes, "memmove", spy)
    bench.append(1)
    assert order == [48, 0]


def test_reader_between_the_copies_waits_and_never_sees_a_mixture(bench: Bench) -> None:
    bench.append(1)
    base = bench.index._header_address()
    before = ctypes.string_at(base, 48)
    bench.append(1)
    after = ctypes.string_at(base, 48)
    ctypes.memmove(base, before, 48)
    assert bench.index.try_header() is None
    ctypes.memmove(base, after, 48)
    header = bench.index.try_header()
    assert header is not None and header.frames == 2


def test_full_disk_while_the_index_grows_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.append(4060)
    size = os.path.getsize(bench.path + "-shm")

    def full(fd: int, data: bytes, offset: int) -> None:
        os.pwrite(fd, data[:1000], offset)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(walindex, "pwrite_all", full)
        with pytest.raises(DiskFull):
            bench.append(3)
    assert os.path.getsize(bench.path + "-shm") == size
    assert bench.index.header().frames == 4060
    bench.append(3)
    assert bench.index.header().frames == 4063


def test_full_disk_while_frames_are_written_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.append(3)
    before = bench.index.header()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("paceline.engines.sqlite.walwriter.pwrite_all", full)
        with pytest.raises(DiskFull):
            bench.append(1)
    assert bench.index.header() == before
    bench.append(1)
    assert bench.index.header().frames == 4


@pytest.mark.parametrize("broken", ["WalIndex.append", "WalIndex.publish", "pwrite_all"])
def test_any_other_failure_in_an_append_is_fatal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    bench.append(1)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(f"paceline.engines.sqlite.walwriter.{broken}", fail)
        with pytest.raises(AppendFailed):
            bench.append(1)


def test_new_log_syncs_its_header_before_the_first_frame(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, int]] = []
    write, sync = os.pwrite, os.fdatasync

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        steps.append(("write", offset))
        return write(fd, data, offset)

    def fdatasync(fd: int) -> None:
        steps.append(("sync", 0))
        sync(fd)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    assert bench.index.header().frames == 0
    bench.append(1)
    bench.append(1)
    assert steps == [("write", 0), ("sync", 0), ("write", 32), ("write", 32 + 24 + PAGE)]


def test_dropped_append_leaves_no_trace_for_readers_and_recovery(bench: Bench) -> None:
    bench.append(2)
    append = bench.writer.begin()
    rows = np.frombuffer(bench.images[1], np.uint8).reshape(1, PAGE)
    append.add([2], rows)
    append.add([2], rows)
    assert bench.index.header().frames == 2
    assert recovered_frames(bench.path) == 2
    bench.append(1)
    with other_process(bench.path) as other:
        assert other.ask("q('pragma integrity_check')") == "[('ok',)]"
    assert bench.index.header().frames == 3


def test_lock_page_is_refused(bench: Bench) -> None:
    append = bench.writer.begin()
    with pytest.raises(AssertionError):
        append.add([(1 << 30) // PAGE + 1], np.zeros((1, PAGE), np.uint8))


def test_guard_says_who_is_in_the_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.engines.sqlite.guard.BUSY_MS", 1)
    other = Guard(bench.path)
    with pytest.raises(Unavailable, match="write lock"):
        other.take()
    assert not other.held


def test_guard_is_thrown_away_at_each_release_and_the_new_one_is_opened_first(bench: Bench) -> None:
    bench.append(3)
    first = bench.guard._connection
    assert bench.guard.checkpoint()
    assert bench.guard._connection is not first
    with pytest.raises(apsw.ConnectionClosedError):
        first.execute("SELECT 1")  # type: ignore[union-attr]
    # Had the old one been closed first, the log's files would have been deleted and made anew.
    assert plainfile.descriptor(bench.path + "-shm") == bench.index._fd


def test_log_of_a_big_endian_machine_is_continued(bench: Bench) -> None:
    """Its magic number says so, and all frames must use the same order."""
    bench.append(2)
    wal = plainfile.descriptor(bench.path + "-wal")
    raw = bytearray(plainfile.pread_all(wal, 32 + 2 * (24 + PAGE), 0))
    raw[3] |= 1
    state = checksum(bytes(raw[:24]), (0, 0), big_endian=True)
    raw[24:32] = state[0].to_bytes(4, "big") + state[1].to_bytes(4, "big")
    for frame in range(2):
        at = 32 + frame * (24 + PAGE)
        state = checksum(bytes(raw[at : at + 8]), state, big_endian=True)
        state = checksum(bytes(raw[at + 24 : at + 24 + PAGE]), state, big_endian=True)
        raw[at + 16 : at + 24] = state[0].to_bytes(4, "big") + state[1].to_bytes(4, "big")
    plainfile.pwrite_all(wal, bytes(raw), 0)
    header = replace(bench.writer.header, big_endian=True, checksum=state)
    bench.index.publish(header)
    bench.writer = WalWriter(bench.path, bench.index, PAGE)
    bench.append(3)
    assert recovered_frames(bench.path) == 5
