"""Torn, flipped, zeroed, missing and foreign bytes: cut where never durable, otherwise named and refused."""

from __future__ import annotations

import random

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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

from paceline.core.entry import HEADER_BYTES, Entry, EntryKind, encode_entry
from paceline.errors import BadEntry, Corruption
from paceline.ids import GENESIS, Index
from paceline.log.scan import walk
from paceline.log.segment import SEGMENT_HEADER_BYTES, segment_name
from paceline.sim.disk import SimDisk

FIRST = f"{DIRECTORY}/{segment_name(Index(1))}"


def three_flushes(*, last_size: int = 50) -> tuple[SimDisk, list[Entry], int]:
    """A log of one segment, its entries, and the offset where the last write began."""
    disk = new_disk()
    log = open_log(disk, segment_bytes=1 << 20)
    for size in (30, 40):
        entries = make_entries(log.last, 2, size=size)
        log.stage(entries, [local_of(entries[0])])
        log.flush()
    begin = log.bytes
    log.stage(make_entries(log.last, 1, size=last_size))
    log.flush()
    return disk, all_entries(log), begin


def reopened(content: bytes) -> tuple[list[Entry], int]:
    """The entries of a log with this file, and the bytes that were cut."""
    disk = new_disk()
    disk.mkdir(DIRECTORY)
    disk.write_file(FIRST, content)
    log, report = open_with_report(disk)
    check_whole(log)
    return all_entries(log), report.cut_bytes


def test_every_sector_cut_of_the_last_record_leaves_the_entries_before_it() -> None:
    disk, entries, begin = three_flushes(last_size=6000)
    content = disk.read_file(FIRST)
    for size in range(begin + HEADER_BYTES + 1, len(content)):
        if size % 512 in (0, 1, 511):
            kept, cut = reopened(content[:size])
            assert kept == entries[:-1]
            assert cut == size - begin - HEADER_BYTES  # the mark of that write is whole, and stays
            kept, _ = reopened(content[:size] + bytes(len(content) - size))
            assert kept == entries[:-1]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_byte_cut_of_the_file_leaves_a_prefix(data: st.DataObject) -> None:
    content, entries, ends = FILE
    size = data.draw(st.integers(SEGMENT_HEADER_BYTES, len(content)))
    kept, _ = reopened(content[:size] + bytes(data.draw(st.integers(0, 600))))
    assert kept == [entry for entry, end in zip(entries, ends, strict=True) if end <= size]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_garbage_behind_the_last_record_is_cut(data: st.DataObject) -> None:
    content, entries, _ = FILE
    kept, _ = reopened(content + data.draw(st.binary(min_size=1, max_size=900)))
    assert kept == entries


def _file() -> tuple[bytes, list[Entry], list[int]]:
    disk, entries, _ = three_flushes()
    content = disk.read_file(FIRST)
    return content, entries, [offset + len(e.record) for offset, e in walk(content) if e.kind < 0x40]


FILE = _file()


def test_bit_flip_at_every_byte_is_refused_or_cuts_only_the_last_write() -> None:
    disk, entries, begin = three_flushes()
    content = disk.read_file(FIRST)
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        if at < begin:
            with pytest.raises(Corruption) as caught:
                reopened(bytes(flipped))
            assert FIRST in str(caught.value)
            assert caught.value.hint
            assert isinstance(caught.value, BadEntry) == (at >= SEGMENT_HEADER_BYTES)
        elif at < begin + HEADER_BYTES:  # the mark of the last write: an entry follows it
            with pytest.raises(BadEntry):
                reopened(bytes(flipped))
        else:
            assert reopened(bytes(flipped))[0] == entries[:-1]


def test_zeroed_sectors_are_cut_in_the_last_write_and_refused_where_durable() -> None:
    disk = new_disk()
    log = open_log(disk, segment_bytes=1 << 20)
    log.stage(make_entries(log.last, 5, size=1500))
    log.flush()
    content = disk.read_file(FIRST)
    holed = content[:2048] + bytes(512) + content[2560:]
    kept, cut = reopened(holed)
    assert [entry.index for entry in kept] == [1]
    assert cut > 5000
    log.stage(make_entries(log.last, 1))
    log.flush()
    vouched = holed + disk.read_file(FIRST)[len(content) :]
    with pytest.raises(BadEntry, match=r"damaged where it was durable: offset \d+, index 2"):
        reopened(vouched)


def test_flip_in_the_last_write_with_whole_records_behind_it_is_refused() -> None:
    disk = new_disk()
    log = open_log(disk, segment_bytes=1 << 20)
    log.stage(make_entries(log.last, 5, size=700))
    log.flush()
    for at in range(SEGMENT_HEADER_BYTES + HEADER_BYTES, 3170, 13):
        content = bytearray(disk.read_file(FIRST))
        content[at] ^= 4
        with pytest.raises(BadEntry):
            reopened(bytes(content))


def test_old_record_inside_the_body_of_a_torn_one_is_not_taken_for_a_later_record() -> None:
    disk, entries, _ = three_flushes()
    content = disk.read_file(FIRST)
    slot = entries[-1].next_slot
    carrier = encode_entry(slot, EntryKind.TXN, entries[1].record + bytes(900), time_us=1)
    assert reopened(content + carrier.record[:-100]) == (entries, len(carrier.record) - 100)


def test_local_record_without_its_entry_is_cut() -> None:
    disk, entries, _ = three_flushes()
    follower = make_entries(entries[-1].position, 1)[0]
    kept, cut = reopened(disk.read_file(FIRST) + local_of(follower))
    assert kept == entries
    assert cut == len(local_of(follower))


def test_valid_records_that_do_not_continue_the_chain_are_refused() -> None:
    disk, entries, _ = three_flushes()
    other = make_entries(make_entries(GENESIS, len(entries), salt=3)[-1].position, 1)
    with pytest.raises(BadEntry, match="breaks the chain"):
        reopened(disk.read_file(FIRST) + other[0].record)


def test_record_of_a_newer_version_is_refused_and_never_cut() -> None:
    disk, entries, _ = three_flushes()
    record = bytearray(make_entries(entries[-1].position, 1)[0].record)
    record[8] = 2
    record[4:8] = google_crc32c.value(bytes(record[8:])).to_bytes(4, "big")
    with pytest.raises(BadEntry, match="unknown record") as caught:
        reopened(disk.read_file(FIRST) + bytes(record))
    assert "newer" in str(caught.value.hint)


def several_segments() -> tuple[SimDisk, list[str]]:
    disk = new_disk()
    log = open_log(disk)
    log.stage(make_entries(GENESIS, 30, size=60))
    log.flush()
    names = [f"{DIRECTORY}/{name}" for name in disk.listdir(DIRECTORY)]
    assert len(names) >= 4
    return disk, names


def refused(disk: SimDisk, reason: str) -> Corruption:
    before = {name: disk.read_file(f"{DIRECTORY}/{name}") for name in disk.listdir(DIRECTORY)}
    with pytest.raises(Corruption, match=reason) as caught:
        open_log(disk)
    after = {name: disk.read_file(f"{DIRECTORY}/{name}") for name in disk.listdir(DIRECTORY)}
    assert before == after, "a refused log is not touched"
    assert caught.value.hint
    return caught.value


def test_missing_segment_is_a_gap_and_refused() -> None:
    disk, names = several_segments()
    disk.unlink(names[1])
    refused(disk, "entries are missing")


def test_segment_that_ends_early_is_refused_when_others_follow() -> None:
    disk, names = several_segments()
    content = disk.read_file(names[1])
    disk.write_file(names[1], content[:-1])
    refused(disk, "not whole, though later")
    disk.write_file(names[1], content[:-116])
    refused(disk, "entries are missing")


def test_segment_copied_under_another_name_is_refused() -> None:
    disk, names = several_segments()
    disk.write_file(f"{DIRECTORY}/{segment_name(Index(77))}", disk.read_file(names[-1]))
    refused(disk, "not its first index")


def test_segment_of_another_history_is_refused() -> None:
    disk, names = several_segments()
    other = open_log(ours := new_disk())
    other.stage(make_entries(GENESIS, 30, size=60, salt=5))
    other.flush()
    disk.write_file(names[-1], ours.read_file(names[-1]))
    refused(disk, "another history")


def test_segment_that_starts_inside_the_one_before_is_refused() -> None:
    disk, _ = several_segments()
    other = open_log(ours := new_disk(), segment_bytes=500)
    other.stage(make_entries(GENESIS, 30, size=60))
    other.flush()
    extra = next(name for name in ours.listdir(DIRECTORY) if name not in disk.listdir(DIRECTORY))
    disk.write_file(f"{DIRECTORY}/{extra}", ours.read_file(f"{DIRECTORY}/{extra}"))
    refused(disk, "starts inside")


def test_unfinished_last_segment_is_removed_and_its_predecessor_stays_strict() -> None:
    disk, names = several_segments()
    entries = all_entries(open_log(disk))
    path = f"{DIRECTORY}/{segment_name(Index(31))}"
    disk.write_file(path, disk.read_file(names[0])[:40])
    log, report = open_with_report(disk)
    assert all_entries(log) == entries
    assert "its creation did not finish" in report.actions[0]
    disk.write_file(path, b"")
    disk.write_file(names[-1], disk.read_file(names[-1])[:-1])
    refused(disk, "not whole, though later")


def test_damaged_header_is_refused_even_of_the_last_or_only_segment() -> None:
    disk, names = several_segments()
    disk.flip_bit(names[-1], 20, 1)
    refused(disk, "damaged header")
    disk, _, _ = three_flushes()
    disk.write_file(FIRST, b"")
    refused(disk, "damaged header")


def test_unfinished_scratch_file_is_removed() -> None:
    disk, _ = several_segments()
    disk.write_file(f"{DIRECTORY}/{segment_name(Index(31))}.new", b"junk")
    disk.write_file(f"{DIRECTORY}/README", b"not ours")
    open_log(disk)
    assert all(not name.endswith(".new") for name in disk.listdir(DIRECTORY))
    assert disk.exists(f"{DIRECTORY}/README")


def test_what_was_cut_does_not_come_back() -> None:
    disk, entries, begin = three_flushes(last_size=2000)
    disk.write_file(FIRST, disk.read_file(FIRST)[: begin + 1000])
    open_log(disk)
    for mode in ("none", "all", "subset"):
        twin = disk.snapshot(random.Random(1))
        twin.crash(mode)  # type: ignore[arg-type]
        log, report = open_with_report(twin)
        assert report.cut_bytes == 0
        assert all_entries(log) == entries[:-1]
