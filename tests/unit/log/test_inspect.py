"""Looking at a log changes nothing and survives a node at work."""

from __future__ import annotations

import pytest
from logtools import DIRECTORY, all_entries, local_of, make_entries, new_disk, open_log

from paceline.core.entry import EntryKind
from paceline.errors import BadEntry
from paceline.ids import GENESIS
from paceline.log.inspect import records, verify
from paceline.sim.disk import SimDisk


def filled() -> SimDisk:
    disk = new_disk()
    log = open_log(disk)
    for _ in range(4):
        entries = make_entries(log.last, 4, size=60)
        log.stage(entries, [local_of(entries[0])])
        log.flush()
    return disk


def test_records_come_in_order_with_their_places() -> None:
    disk = filled()
    found = list(records(DIRECTORY, files=disk))
    entries = all_entries(open_log(disk))
    assert [record.entry for record in found if record.entry.kind < 0x40] == entries
    assert sum(record.entry.kind is EntryKind.REQUESTS for record in found) == 4
    for record in found:
        data = disk.read_file(f"{DIRECTORY}/{record.segment}")
        assert data[record.offset : record.offset + len(record.entry.record)] == record.entry.record


def test_verify_of_a_whole_log_is_ok() -> None:
    disk = filled()
    report = verify(DIRECTORY, files=disk)
    assert report.ok
    assert (report.entries, report.base, report.torn_bytes, report.problem) == (16, GENESIS, 0, "")
    assert report.last == open_log(disk).last
    assert {segment.verdict for segment in report.segments} == {"keep"}


def test_torn_end_is_tolerated_and_left_alone() -> None:
    disk = filled()
    name = disk.listdir(DIRECTORY)[-1]
    content = disk.read_file(f"{DIRECTORY}/{name}") + b"\0\0\1\0half"
    disk.write_file(f"{DIRECTORY}/{name}", content)
    assert len([r for r in records(DIRECTORY, files=disk) if r.entry.kind < 0x40]) == 16
    report = verify(DIRECTORY, files=disk)
    assert (report.ok, report.torn_bytes) == (True, 8)
    assert disk.read_file(f"{DIRECTORY}/{name}") == content


def test_damage_is_named() -> None:
    disk = filled()
    name = disk.listdir(DIRECTORY)[0]
    disk.flip_bit(f"{DIRECTORY}/{name}", 300, 2)
    report = verify(DIRECTORY, files=disk)
    assert not report.ok
    assert name in report.problem
    assert "offset" in report.segments[0].detail
    with pytest.raises(BadEntry, match=name):
        list(records(DIRECTORY, files=disk))


def test_empty_directory_is_not_ok() -> None:
    disk = new_disk()
    disk.mkdir(DIRECTORY)
    assert not verify(DIRECTORY, files=disk).ok


def test_segment_that_the_node_drops_meanwhile_is_skipped() -> None:
    disk = filled()
    names = disk.listdir(DIRECTORY)
    walk = records(DIRECTORY, files=disk)
    next(walk)
    disk.unlink(f"{DIRECTORY}/{names[1]}")
    assert {record.segment for record in walk} == {names[0], *names[2:]}
