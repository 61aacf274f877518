"""Files of format 1 stay readable: golden bytes, written once and never regenerated."""

from __future__ import annotations

from pathlib import Path

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

from paceline.core.hardstate import HardState
from paceline.ids import GENESIS, Index, NodeId, Term
from paceline.log.custody import Custody
from paceline.log.segment import segment_name
from paceline.log.vote import VoteFile
from paceline.sim.disk import SimDisk

GOLDEN = Path(__file__).parents[2] / "golden" / "v1"
SEGMENT = f"{DIRECTORY}/{segment_name(Index(1))}"
STATE = HardState(Term(9), NodeId("node-2"), Index(123), NodeId("node-1"))


def golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


def write_everything() -> dict[str, bytes]:
    """What this version writes."""
    disk = new_disk()
    log = open_log(disk)
    first = make_entries(GENESIS, 2)
    log.stage(first, [local_of(first[1])])
    log.flush()
    log.stage(make_entries(log.last, 1, term=2))
    log.flush()
    vote = VoteFile.create(disk, "/data/vote", HardState(Term(0), None))
    vote.save(STATE)
    id = Custody(disk, "/data/custody").keep(
        "rewind", first, {Index(2): b"sql"}, acknowledged={}, time_us=5, term_now=Term(3)
    )
    slots = disk.read_file("/data/vote")
    assert slots[:4096] == slots[4096:]
    assert not any(slots[124:4096])
    return {
        "segment": disk.read_file(SEGMENT),
        "vote-slot": slots[:124],
        "custody": disk.read_file(f"/data/custody/{id}.lost"),
    }


def test_this_version_writes_the_golden_bytes() -> None:
    for name, content in write_everything().items():
        assert content.hex() == golden(name).hex(), name


def test_golden_segment_is_readable() -> None:
    disk = new_disk()
    disk.mkdir(DIRECTORY)
    disk.write_file(SEGMENT, golden("segment"))
    log, report = open_with_report(disk)
    check_whole(log)
    assert not report.actions
    assert [entry.term for entry in all_entries(log)] == [1, 1, 2]
    assert log.local(Index(2)) == b"\x00SQL of it"


def test_golden_vote_is_readable() -> None:
    disk = new_disk()
    disk.write_file("/data/vote", golden("vote-slot").ljust(4096, b"\0") * 2)
    assert VoteFile.open(disk, "/data/vote").state == STATE


def test_golden_custody_is_readable() -> None:
    disk: SimDisk = new_disk()
    disk.mkdir("/data/custody")
    entries = make_entries(GENESIS, 2)
    id = f"{1:014d}-{2:014d}-{entries[-1].chain[:8].hex()}"
    disk.write_file(f"/data/custody/{id}.lost", golden("custody"))
    content = Custody(disk, "/data/custody").load(id)
    assert content.entries == entries
    assert content.locals == {2: b"sql"}
