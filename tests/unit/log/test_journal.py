"""The log as its callers see it."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest
from logtools import (
    DIRECTORY,
    all_entries,
    check_whole,
    local_of,
    make_entries,
    new_disk,
    open_log,
    open_with_report,
)

from paceline.core.entry import EntryKind, encode_local
from paceline.core.hardstate import HardState
from paceline.errors import BadEntry, Corruption, DiskFull, Diverged, LogFailed
from paceline.files import Files, Steps
from paceline.ids import GENESIS, Index, NodeId, Position, Term
from paceline.log.journal import Log, space_low
from paceline.log.segment import SEGMENT_HEADER_BYTES, segment_name
from paceline.log.vote import VoteFile
from paceline.sim.disk import DiskOptions, SimDisk


def filled(count: int = 20, **options: object) -> tuple[SimDisk, Log]:
    disk = new_disk()
    log = open_log(disk, **options)
    log.stage(make_entries(GENESIS, count, size=60))
    log.flush()
    return disk, log


def during_flush(log: Log, what: Callable[[], None]) -> None:
    """Run ``what`` (the loop thread) after the lane has performed its plan and before it says so."""
    perform = log._writer.perform

    def slow(plan: object) -> Steps[None]:
        try:
            yield from perform(plan)  # type: ignore[arg-type]
        finally:
            what()

    log._writer.perform = slow  # type: ignore[method-assign,assignment]
    try:
        log.flush()
    finally:
        log._writer.perform = perform  # type: ignore[method-assign]


def test_new_log_is_empty_and_says_that_it_was_created() -> None:
    log, report = open_with_report(new_disk())
    assert report.created
    assert log.base == log.last == log.durable == GENESIS
    assert (log.first_index, log.segments, log.bytes) == (1, 1, SEGMENT_HEADER_BYTES)
    assert not log.pending
    assert newest_local(log) is None
    assert log.entries(Index(0), bytes_max=100) == []


def test_staged_entries_are_visible_at_once_and_durable_after_flush() -> None:
    log = open_log(new_disk())
    entries = make_entries(GENESIS, 3)
    log.stage(entries)
    assert log.last == entries[-1].position
    assert log.durable == GENESIS
    assert log.pending
    assert log.staged_bytes > sum(len(entry.record) for entry in entries)
    assert log.entries(Index(0), bytes_max=1 << 20) == entries
    assert log.flush() == log.durable == log.last
    assert log.staged_bytes == 0
    assert not log.pending


def test_entries_are_the_same_from_cache_and_from_files() -> None:
    disk, log = filled(30, tail_cache_bytes=1 << 20)
    cached = all_entries(log)
    cold = open_log(disk)
    assert all_entries(cold) == cached
    assert [cold.entry(Index(i)) for i in range(32)] == [None, *cached, None]
    assert [cold.kind_at(Index(i)) for i in (0, 1, 31)] == [None, EntryKind.TXN, None]
    assert cold.position_at(Index(0)) == GENESIS
    assert cold.position_at(Index(31)) is None
    check_whole(cold)


@pytest.mark.parametrize("cache", [0, 500, 1 << 20])
@pytest.mark.parametrize("bytes_max", [0, 1, 115, 116, 117, 400, 5000])
def test_entries_obey_the_byte_limit_but_give_at_least_one(cache: int, bytes_max: int) -> None:
    _, log = filled(30, tail_cache_bytes=cache)
    log.stage(make_entries(log.last, 3, size=60))
    for after in range(33):
        entries = log.entries(Index(after), bytes_max=bytes_max)
        assert [entry.index for entry in entries] == list(range(after + 1, after + 1 + len(entries)))
        size = sum(len(entry.record) for entry in entries)
        assert len(entries) == 1 or size <= bytes_max
        assert after + len(entries) == 33 or size + 116 > bytes_max


def test_segments_roll_at_their_size_and_are_named_by_their_first_index() -> None:
    disk, log = filled(30)
    names = disk.listdir(DIRECTORY)
    assert len(names) == log.segments > 2
    assert names == [segment_name(info.first) for info in log.segment_infos]
    assert all(info.bytes <= 1000 for info in log.segment_infos)
    assert log.bytes == sum(len(disk.read_file(f"{DIRECTORY}/{name}")) for name in names)
    assert log.segment_infos[-1].newest_us == 30_000_000


def test_entry_larger_than_a_segment_has_one_of_its_own() -> None:
    disk = new_disk()
    log = open_log(disk)
    log.stage(make_entries(GENESIS, 1, size=5000))
    log.stage(make_entries(log.last, 1, size=5000))
    log.stage(make_entries(log.last, 1, size=10))
    log.flush()
    assert log.segments == 3
    check_whole(open_log(disk))


def test_entry_that_does_not_continue_the_log_is_refused() -> None:
    _, log = filled(3)
    other = make_entries(GENESIS, 5, salt=1)
    with pytest.raises(Diverged):
        log.stage(other[3:])
    with pytest.raises(Diverged):
        log.stage(make_entries(log.last, 2)[1:])
    assert not log.pending


def newest_local(log: Log) -> tuple[Index, bytes] | None:
    return next(log.locals_back(log.last.index), None)


def test_local_records_stand_beside_their_entries() -> None:
    disk = new_disk()
    log = open_log(disk)
    entries = make_entries(GENESIS, 3)
    log.stage(entries, [local_of(entries[2], b"three"), local_of(entries[0], b"one")])
    for _ in range(2):
        assert [log.local(Index(i)) for i in range(5)] == [None, b"one", None, b"three", None]
        assert newest_local(log) == (3, b"three")
        log.flush()
        log = open_log(disk)
    log.truncate(Index(2))
    assert newest_local(log) == (1, b"one")
    assert log.local(Index(3)) is None


def test_local_record_stays_in_the_segment_of_its_entry() -> None:
    disk = new_disk()
    log = open_log(disk)
    for _ in range(12):
        entries = make_entries(log.last, 1, size=100)
        log.stage(entries, [local_of(entries[0], b"x" * 150)])
    log.flush()
    log = open_log(disk)
    assert log.segments > 3
    assert [log.local(Index(i)) for i in range(1, 13)] == [b"x" * 150] * 12


def test_loose_local_record_is_the_most_recent_until_its_entry_goes() -> None:
    disk = new_disk()
    log = open_log(disk)
    entries = make_entries(GENESIS, 3)
    log.stage(entries[:2], [local_of(entries[1], b"two")])
    log.stage([], [encode_local(EntryKind.MARK, Term(1), Index(2), b"mark", time_us=1)])
    log.stage(entries[2:])
    log.flush()
    log.truncate(Index(2))
    log.flush()
    for _ in range(2):
        assert newest_local(log) == (2, b"mark")
        assert log.local(Index(2)) == b"two"
        assert [*log.locals_back(Index(2))] == [(2, b"mark"), (2, b"two")] and not [
            *log.locals_back(Index(1))
        ]
        log = open_log(disk)
    log.truncate(Index(1))
    assert newest_local(log) is None


def test_local_record_of_an_unknown_entry_is_a_programmer_error() -> None:
    log = open_log(new_disk())
    with pytest.raises(AssertionError):
        log.stage([], [local_of(make_entries(GENESIS, 1)[0])])


@pytest.mark.parametrize("after", range(21))
def test_truncated_log_goes_on_from_the_cut(after: int) -> None:
    disk, log = filled(20)
    old = all_entries(log)
    log.truncate(Index(after))
    assert log.last == log.durable == log.position_at(Index(after))
    assert all_entries(log) == old[:after]
    log.stage(make_entries(log.last, 10, term=2, size=60))
    log.flush()
    again = open_log(disk)
    assert all_entries(again) == all_entries(log)
    assert (again.last, again.bytes, again.segments) == (log.last, log.bytes, log.segments)
    check_whole(again)


def test_segment_that_was_removed_and_made_anew_is_read_anew() -> None:
    disk, _ = filled(20)
    log = open_log(disk)
    first = log.segment_infos[-1].first
    assert log.entry(first) is not None
    log.truncate(Index(first - 3))
    log.stage(make_entries(log.last, 10, term=2, size=60))
    log.flush()
    log.stage(make_entries(log.last, 1, term=2))
    assert first in [info.first for info in log.segment_infos]
    assert log._tail.first > first
    assert log.entry(first) is not None
    check_whole(log)


def test_truncated_entries_that_were_never_flushed_do_not_reach_the_disk() -> None:
    disk, log = filled(5, segment_bytes=1 << 20)
    size = log.bytes
    log.stage(make_entries(log.last, 5, size=300))
    log.truncate(Index(5))
    log.flush()
    assert len(disk.read_file(f"{DIRECTORY}/{segment_name(Index(1))}")) <= size + 56


def test_truncation_during_a_flush_bounds_what_is_durable() -> None:
    disk, log = filled(5)
    log.stage(make_entries(log.last, 10, size=60))
    during_flush(log, lambda: log.truncate(Index(7)))
    assert log.durable == log.last == log.position_at(Index(7))
    log.stage(make_entries(log.last, 2, term=2))
    assert log.flush() == log.last
    assert all_entries(open_log(disk)) == all_entries(log)


def test_reset_during_a_flush_leaves_nothing_durable_until_its_own() -> None:
    disk, log = filled(5)
    base = Position(Term(7), Index(100), b"b" * 16)
    log.stage(make_entries(log.last, 2))
    during_flush(log, lambda: log.reset(base))
    assert log.durable == GENESIS
    assert log.flush() == base == log.durable == log.last == log.base
    log.stage(make_entries(base, 2, term=8))
    log.flush()
    again = open_log(disk)
    assert (again.base, all_entries(again)) == (base, all_entries(log))
    assert disk.listdir(DIRECTORY) == [segment_name(Index(101))]


def test_reset_to_an_index_that_a_segment_has_replaces_that_segment() -> None:
    disk, log = filled(20)
    second = log.segment_infos[1].first
    base = Position(Term(9), Index(second - 1), b"n" * 16)
    log.reset(base)
    log.stage(make_entries(base, 3, term=9))
    log.flush()
    again = open_log(disk)
    assert again.base == base
    assert all_entries(again) == all_entries(log) != []
    assert again.segments == 1


def test_drop_before_removes_whole_segments_and_never_the_last() -> None:
    disk, log = filled(30)
    infos = log.segment_infos
    log.drop_before(Index(infos[1].last - 1))
    assert log.base.index == infos[0].last
    log.drop_before(Index(1000))
    log.flush()
    assert log.segments == 1
    assert log.first_index == infos[-1].first
    again = open_log(disk)
    assert all_entries(again) == all_entries(log)
    assert again.base == log.base
    assert log.position_at(Index(1)) is None
    with pytest.raises(AssertionError):
        log.entries(Index(0), bytes_max=1)


def test_drop_before_keeps_what_is_not_durable() -> None:
    log = open_log(new_disk())
    log.stage(make_entries(GENESIS, 30, size=60))
    log.drop_before(Index(30))
    assert log.base == GENESIS


def test_vote_needs_no_entries() -> None:
    disk = new_disk()
    vote = VoteFile.create(disk, "/data/vote", HardState(Term(0), None))
    log = open_log(disk, vote=vote)
    log.stage_hard_state(HardState(Term(3), NodeId("a")))
    assert log.pending
    log.flush()
    assert VoteFile.open(disk, "/data/vote").state == HardState(Term(3), NodeId("a"))


def test_full_disk_leaves_nothing_half_written_and_goes_on_when_there_is_space() -> None:
    for quota in range(700, 3500, 61):
        disk, log = filled(5)
        before = log.durable
        disk.options = DiskOptions(quota_bytes=quota)
        log.stage(make_entries(log.last, 20, size=60))
        try:
            log.flush()
        except DiskFull:
            assert before.index <= log.durable.index < log.last.index
            twin = disk.snapshot(random.Random(1))
            twin.crash("none")
            assert open_log(twin).last == log.durable
            twin = disk.snapshot(random.Random(1))
            twin.crash("all")
            survivor, report = open_with_report(twin)
            assert survivor.last == log.durable
            assert report.cut_bytes == 0
            assert log.pending
        else:
            assert quota > 2500
        disk.options = DiskOptions()
        log.stage(make_entries(log.last, 2))
        assert log.flush() == log.last
        assert all_entries(open_log(disk)) == all_entries(log)
        assert log.last.index == 27


def test_full_disk_in_sync_counts_as_full_disk() -> None:
    disk, log = filled(5)
    disk.fail("sync", errno.ENOSPC)
    log.stage(make_entries(log.last, 1))
    with pytest.raises(DiskFull):
        log.flush()
    assert log.flush() == log.last
    disk.crash("none")
    assert open_log(disk).last == log.last


def test_entries_refused_by_a_full_disk_can_be_truncated_while_it_is_full() -> None:
    disk, log = filled(5)
    disk.options = DiskOptions(quota_bytes=disk.used_bytes + 100)
    log.stage(make_entries(log.last, 20, size=60))
    with pytest.raises(DiskFull):
        log.flush()
    log.truncate(log.durable.index)
    assert log.flush() == log.last
    disk.options = DiskOptions()
    log.stage(make_entries(log.last, 3, term=2))
    log.flush()
    assert all_entries(open_log(disk)) == all_entries(log)


def test_truncation_during_a_flush_that_fails_takes_its_entries_out_of_the_plan() -> None:
    disk, log = filled(5)
    disk.options = DiskOptions(quota_bytes=disk.used_bytes + 100)
    log.stage(make_entries(log.last, 20, size=60))
    with pytest.raises(DiskFull):
        during_flush(log, lambda: log.truncate(Index(3)))
    assert log.durable == log.last == log.position_at(Index(3))
    assert log.flush() == log.last
    disk.options = DiskOptions()
    log.stage(make_entries(log.last, 20, term=2, size=60))
    log.flush()
    assert all_entries(open_log(disk)) == all_entries(log)


def test_reset_during_a_flush_that_fails_takes_everything_out_of_the_plan() -> None:
    disk, log = filled(5)
    base = Position(Term(7), Index(100), b"b" * 16)
    disk.options = DiskOptions(quota_bytes=disk.used_bytes + 100)
    log.stage(make_entries(log.last, 20, size=60))
    with pytest.raises(DiskFull):
        during_flush(log, lambda: log.reset(base))
    assert (log.durable, log.staged_bytes) == (GENESIS, 0)
    assert log.flush() == base
    again = open_log(disk)
    assert (again.base, again.last, again.segments) == (base, base, 1)


def test_log_that_was_reset_can_be_truncated_before_the_flush() -> None:
    disk, log = filled(20)
    base = Position(Term(7), Index(2), b"b" * 16)
    log.reset(base)
    log.stage(make_entries(base, 30, term=7, size=60))
    log.truncate(Index(10))
    log.stage(make_entries(log.last, 5, term=8, size=60))
    assert log.flush() == log.last
    again = open_log(disk)
    assert (again.base, all_entries(again)) == (base, all_entries(log))
    assert len(all_entries(log)) == 13


def test_old_segments_are_dropped_while_the_disk_is_full() -> None:
    disk, log = filled(30)
    disk.options = DiskOptions(quota_bytes=disk.used_bytes)
    log.stage(make_entries(log.last, 3, size=60))
    with pytest.raises(DiskFull):
        log.flush()
    log.drop_before(Index(20))
    assert log.flush() == log.last


@pytest.mark.parametrize("op", ["write", "sync", "rename", "sync_dir"])
def test_failed_write_or_sync_is_final(op: str) -> None:
    disk, log = filled(5, segment_bytes=700)
    log.stage(make_entries(log.last, 20, size=60))
    disk.fail(op, errno.EIO)  # type: ignore[arg-type]
    with pytest.raises(LogFailed):
        log.flush()
    with pytest.raises(LogFailed):
        log.flush()
    assert log.durable.index < log.last.index


def test_data_dropped_by_a_failed_sync_is_written_again_after_a_restart() -> None:
    """The kernel keeps showing what it failed to write, and the next sync succeeds."""
    disk, log = filled(3)
    entries = make_entries(log.last, 2)
    log.stage(entries)
    disk.fail("sync", errno.EIO)
    with pytest.raises(LogFailed):
        log.flush()
    disk.kill()
    again = open_log(disk.mount())
    assert again.durable == entries[-1].position
    disk.crash("none")
    assert open_log(disk.mount()).last == entries[-1].position


def test_cut_dropped_by_a_failed_sync_is_made_again_after_a_restart() -> None:
    """Else what was cut comes back behind the entries that were written in its place, and later segments follow it."""
    disk, log = filled(6, segment_bytes=2_000)
    log.truncate(Index(2))
    disk.fail("sync", errno.EIO)
    with pytest.raises(LogFailed):
        log.flush()
    disk.kill()
    again, report = open_with_report(disk.mount(), segment_bytes=300)
    assert again.last.index == 2 and not report.actions
    again.stage(make_entries(again.last, 3, size=30))
    again.flush()
    assert again.segments > 1
    disk.crash("none")
    assert open_log(disk.mount()).last == again.last


def test_flush_that_is_broken_off_by_a_bug_stops_the_log() -> None:
    disk = new_disk()
    vote = VoteFile.create(disk, "/data/vote", HardState(Term(5), None))
    log = open_log(disk, vote=vote)
    log.stage_hard_state(HardState(Term(4), None))
    with pytest.raises(AssertionError):
        log.flush()
    with pytest.raises(LogFailed):
        log.flush()


def test_rot_after_writing_is_never_served() -> None:
    disk, _ = filled(5, segment_bytes=1 << 20)
    log = open_log(disk)
    offset, length = log._table.place(Index(3))
    for at in range(offset, offset + length):
        disk.flip_bit(f"{DIRECTORY}/{segment_name(Index(1))}", at, at % 8)
        with pytest.raises(BadEntry, match=r"offset \d+, index 3"):
            log.entries(Index(0), bytes_max=1 << 20)
        disk.flip_bit(f"{DIRECTORY}/{segment_name(Index(1))}", at, at % 8)
    assert len(all_entries(log)) == 5


def test_read_of_another_entry_than_the_index_says_is_never_served() -> None:
    disk, _ = filled(3, segment_bytes=1 << 20)
    log = open_log(disk)
    path = f"{DIRECTORY}/{segment_name(Index(1))}"
    offset, _ = log._table.place(Index(3))
    other = make_entries(log.base, 3, size=60, salt=1)[2]
    disk.write_file(path, disk.read_file(path)[:offset] + other.record)
    with pytest.raises(BadEntry, match="another entry"):
        log.entry(Index(3))


def test_node_that_had_a_log_refuses_an_empty_directory() -> None:
    with pytest.raises(Corruption, match="no segments"):
        open_log(new_disk(), must_exist=True)


def test_log_of_another_cluster_is_refused_and_not_touched() -> None:
    disk, _ = filled()
    before = {name: disk.read_file(f"{DIRECTORY}/{name}") for name in disk.listdir(DIRECTORY)}
    with pytest.raises(Corruption, match="another cluster"):
        open_log(disk, cluster=b"o" * 16)
    assert before == {name: disk.read_file(f"{DIRECTORY}/{name}") for name in disk.listdir(DIRECTORY)}


def test_space_is_low_below_the_reserve() -> None:
    disk = new_disk()
    assert not space_low(disk, "/data")
    disk.options = DiskOptions(quota_bytes=1000)
    assert space_low(disk, "/data")


def test_cache_holds_its_bytes_and_everything_that_is_not_durable() -> None:
    _, log = filled(10, tail_cache_bytes=250)
    log.stage(make_entries(log.last, 10, size=60))
    assert log._tail.first == 11
    log.flush()
    log.stage(make_entries(log.last, 1, size=60))
    assert log._tail.first == 20


@pytest.mark.parametrize("seed", range(60))
def test_random_life_of_a_log_matches_a_plain_list(seed: int) -> None:
    """Any order of changes, flushes, full disks, restarts and power cuts, against a list of entries."""
    rng = random.Random(seed)
    disk = SimDisk(random.Random(seed))
    files: Files = disk.mount()
    files.mkdir("/data")
    options = {"segment_bytes": rng.choice((400, 1000, 5000)), "tail_cache_bytes": rng.choice((0, 600))}
    log = open_log(files, **options)
    base, model, durable, term = GENESIS, list(make_entries(GENESIS, 0)), 0, 1
    for step in range(80):
        disk.options = DiskOptions(quota_bytes=disk.used_bytes + 500 if rng.random() < 0.1 else None)
        match rng.choice(
            ("stage",) * 5 + ("flush",) * 4 + ("truncate", "truncate", "drop", "reset", "crash")
        ):
            case "stage":
                entries = make_entries(
                    log.last, rng.randint(1, 4), term=term, size=rng.randint(0, 300), salt=step
                )
                log.stage(entries, [local_of(e, b"L%d" % e.index) for e in entries if rng.random() < 0.4])
                model += entries
            case "flush":
                try:
                    log.flush()
                except DiskFull:
                    pass
                else:
                    durable = len(model)
                    assert log.durable == log.last
            case "truncate":
                keep = rng.randint(0, len(model))
                term += 1
                log.truncate(Index(base.index + keep))
                del model[keep:]
                durable = min(durable, keep)
            case "drop":
                log.drop_before(Index(log.base.index + rng.randint(0, 20)))
                gone = log.base.index - base.index
                if gone:
                    base, model, durable = model[gone - 1].position, model[gone:], durable - gone
            case "reset" if rng.random() < 0.3:
                disk.options = DiskOptions()
                log.flush()
                term += 1
                base = Position(Term(term), Index(log.last.index + rng.randint(0, 5)), rng.randbytes(16))
                log.reset(base)
                log.flush()
                model, durable = [], 0
            case "crash":
                disk.crash(rng.choice(("none", "all", "prefix", "subset")))
                files = disk.mount()
                disk.options = DiskOptions()
                was, log = log, open_log(files, **options)
                assert log.base.index <= base.index
                found = {entry.index: entry.chain for entry in all_entries(log)}
                for entry in model[:durable]:
                    assert found[entry.index] == entry.chain
                assert was.base.index >= log.base.index
                base, model = log.base, all_entries(log)
                durable = len(model)
        assert log.base == base
        assert log.last == (model[-1].position if model else base)
        assert all_entries(log) == model
        for entry in model:
            assert log.local(entry.index) in (None, b"L%d" % entry.index)
        check_whole(log)
