"""What the tests of the log share: entries on demand, and logs on a simulated disk."""

from __future__ import annotations

import random

from paceline.core.entry import Entry, EntryKind, encode_entry, encode_local
from paceline.files import Files
from paceline.ids import Index, Position, Slot, Term
from paceline.log.journal import Log
from paceline.log.opening import RecoveryReport
from paceline.sim.disk import SimDisk

CLUSTER = b"cluster-of-tests"
DIRECTORY = "/data/log"


def make_entries(
    before: Position,
    count: int,
    *,
    term: int = 1,
    size: int = 40,
    salt: int = 0,
    kind: EntryKind = EntryKind.TXN,
) -> list[Entry]:
    """``count`` entries that continue ``before``; equal arguments, equal entries."""
    entries = []
    for _ in range(count):
        slot = Slot(Term(term), Index(before.index + 1), before.chain)
        body = random.Random(f"{term}/{slot.index}/{salt}").randbytes(size)
        entry = encode_entry(slot, kind, body, time_us=1_000_000 * slot.index)
        entries.append(entry)
        before = entry.position
    return entries


def local_of(entry: Entry, body: bytes = b"\x00SQL of it") -> bytes:
    return encode_local(EntryKind.REQUESTS, entry.term, entry.index, body, time_us=entry.time_us)


def new_disk(seed: int = 0) -> SimDisk:
    disk = SimDisk(random.Random(seed))
    disk.mkdir("/data")
    return disk


def open_log(files: Files, **options: object) -> Log:
    return open_with_report(files, **options)[0]


def open_with_report(files: Files, **options: object) -> tuple[Log, RecoveryReport]:
    settings: dict[str, object] = {
        "cluster": CLUSTER,
        "segment_bytes": 1000,
        "tail_cache_bytes": 0,
        **options,
    }
    return Log.open(files, DIRECTORY, **settings)  # type: ignore[arg-type]


def all_entries(log: Log) -> list[Entry]:
    return log.entries(log.base.index, bytes_max=1 << 30)


def check_whole(log: Log) -> None:
    """The log is one chain from its base, and says of itself what it holds."""
    last = log.base
    for entry in all_entries(log):
        assert entry.follows(last)
        last = entry.position
        assert log.position_at(entry.index) == last
    assert last == log.last
