"""Entries that were taken out of the log stay readable, or the damage is named."""

from __future__ import annotations

import pytest
from logtools import make_entries, new_disk

from paceline.core.entry import Entry
from paceline.errors import BadEntry, UsageError
from paceline.ids import GENESIS, Index, Term
from paceline.log.custody import Custody
from paceline.sim.disk import SimDisk

DIRECTORY = "/data/custody"
TOLD = {Index(6): frozenset({"async", "any 1"})}


def kept() -> tuple[SimDisk, Custody, str, list[Entry]]:
    disk = new_disk()
    entries = make_entries(make_entries(GENESIS, 4)[-1].position, 3)
    custody = Custody(disk, DIRECTORY)
    id = custody.keep(
        "rewind é",
        entries,
        {Index(6): b"sql"},
        acknowledged=TOLD,
        time_us=99,
        term_now=Term(7),
    )
    return disk, custody, id, entries


def test_kept_range_is_listed_and_loaded() -> None:
    _, custody, id, entries = kept()
    [item] = custody.list()
    assert (item.id, item.reason, item.count, item.first_index) == (id, "rewind é", 3, 5)
    assert (item.last, item.time_us, item.term_now, item.problem) == (entries[-1].position, 99, 7, "")
    content = custody.load(id)
    assert (content.item, content.entries, content.locals) == (item, entries, {6: b"sql"})
    assert content.acknowledged == {6: frozenset({"async", "any 1"})}


def test_nothing_kept_is_an_empty_list() -> None:
    assert Custody(new_disk(), DIRECTORY).list() == []


def test_kept_range_survives_a_power_cut() -> None:
    disk, _, id, entries = kept()
    disk.crash("none")
    assert Custody(disk.mount(), DIRECTORY).load(id).entries == entries


def test_same_range_is_kept_once_and_other_histories_beside_it() -> None:
    _, custody, id, entries = kept()
    assert custody.keep("again", entries, {}, acknowledged={}, time_us=100, term_now=Term(8)) == id
    assert [item.reason for item in custody.list()] == ["rewind é"]
    other = make_entries(make_entries(GENESIS, 4)[-1].position, 3, salt=1)
    assert custody.keep("other", other, {}, acknowledged={}, time_us=100, term_now=Term(8)) != id
    assert len(custody.list()) == 2


def test_range_with_a_gap_is_refused() -> None:
    _, custody, _, entries = kept()
    with pytest.raises(BadEntry):
        custody.keep("gap", [entries[0], entries[2]], {}, acknowledged={}, time_us=1, term_now=Term(1))


def test_every_damaged_byte_is_named_and_keeping_again_repairs_it() -> None:
    disk, custody, id, entries = kept()
    path = f"{DIRECTORY}/{id}.lost"
    whole = disk.read_file(path)
    for at in range(len(whole)):
        disk.flip_bit(path, at, at % 8)
        with pytest.raises(BadEntry, match="damaged"):
            custody.load(id)
        custody.list()
        disk.flip_bit(path, at, at % 8)
    for size in range(0, len(whole), 7):
        disk.write_file(path, whole[:size])
        with pytest.raises(BadEntry):
            custody.load(id)
    assert custody.list()[0].id == id
    assert (
        custody.keep("rewind é", entries, {Index(6): b"sql"}, acknowledged=TOLD, time_us=99, term_now=Term(7))
        == id
    )
    assert disk.read_file(path) == whole


def test_kept_again_after_a_kill_is_durable() -> None:
    disk, _, id, entries = kept()
    twin = new_disk()
    twin.mkdir(DIRECTORY)
    file = twin.open(f"{DIRECTORY}/{id}.lost", create=True)
    file.pwritev([disk.read_file(f"{DIRECTORY}/{id}.lost")], 0)
    twin.kill()
    Custody(twin.mount(), DIRECTORY).keep("x", entries, {}, acknowledged={}, time_us=1, term_now=Term(1))
    twin.crash("none")
    assert Custody(twin.mount(), DIRECTORY).load(id).entries == entries


@pytest.mark.parametrize("id", ["nothing", "../vote", "00000000000001-00000000000002-0011223344556677"])
def test_unknown_id_is_a_usage_error(id: str) -> None:
    with pytest.raises(UsageError):
        kept()[1].load(id)


def test_discarded_range_is_out_of_sight_and_still_there() -> None:
    _, custody, id, entries = kept()
    custody.discard(id)
    custody.discard(id)  # may be repeated
    assert custody.list() == []
    [item] = custody.list(discarded=True)
    assert item.discarded and item.id == id
    content = custody.load(id)
    assert content.entries == entries and content.item.discarded
    with pytest.raises(UsageError, match="no lost writes"):
        custody.discard(id.replace("5", "6", 1))
    with pytest.raises(UsageError, match="no lost writes"):
        custody.discard("../escape")


def test_discarding_is_durable_and_no_crash_loses_the_range() -> None:
    disk, custody, id, entries = kept()
    custody.discard(id)
    disk.crash("none")
    after = Custody(disk.mount(), DIRECTORY)
    assert after.list() == [] and after.load(id).entries == entries


def test_range_that_is_lost_again_after_it_was_discarded_is_listed_again() -> None:
    _, custody, id, entries = kept()
    custody.discard(id)
    custody.keep("again", entries, {}, acknowledged={}, time_us=100, term_now=Term(8))
    [item] = custody.list(discarded=True)
    assert not item.discarded and item.reason == "again"
    custody.discard(id)
    assert custody.list() == []
