"""A tiny engine over units in memory, and a conversation without a network."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from paceline.engines.base import UnitsDigest, unit_hash
from paceline.files import Files
from paceline.ids import DatabasePosition, Index, Position, Term
from paceline.snapshot.layout import Layout
from paceline.snapshot.messages import RangeUnits, SnapshotOffer, SnapshotRequest
from paceline.snapshot.plan import Plan
from paceline.snapshot.receiver import ReceivingSession
from paceline.snapshot.sender import SendingSession

END = Position(Term(3), Index(70), bytes(range(16)))
STANDS = DatabasePosition(Term(3), Index(68), bytes(16))
COMPANIONS = ("-wal", "-shm", "-journal")


def layout(root: str) -> Layout:
    return Layout(directory=f"{root}/snapshot", database=f"{root}/db/main.db", companions=COMPANIONS)


def some_units(count: int, unit_bytes: int = 64, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(unit_bytes) for _ in range(count)]


class FakePin:
    def __init__(self, units: list[bytes], unit_bytes: int = 64) -> None:
        self.units = list(units)
        self.unit_bytes = unit_bytes
        self.unit_count = len(units)
        self.position: DatabasePosition | None = STANDS
        self.closed = False
        self.reads = 0

    def read(self, first: int, count: int) -> list[bytes]:
        assert not self.closed, "a closed pin was read"
        self.reads += 1
        return self.units[first - 1 : first - 1 + count]

    def hashes(self, first: int, count: int) -> bytes:
        assert first + count - 1 <= self.unit_count
        return b"".join(map(unit_hash, self.units[first - 1 : first - 1 + count]))

    def digest(self) -> bytes:
        digest = UnitsDigest(self.unit_bytes, self.unit_count)
        digest.update(b"".join(map(unit_hash, self.units)))
        return digest.value

    def close(self) -> None:
        self.closed = True


class FakeNode:
    """``Actions`` over units in memory that survive every crash; each call may be interrupted by ``before``."""

    def __init__(self, pin: FakePin, before: Callable[[str], None] = lambda _: None) -> None:
        self.units = dict(enumerate(pin.units, 1))
        self.unit_bytes = pin.unit_bytes
        self.lost_kept = False
        self.log_end: Position | None = None
        self.config = b"old"
        self._before = before

    def keep_lost(self, plan: Plan) -> None:
        self._before("custody")
        self.lost_kept = True

    def install_units(self, unit_bytes: int, unit_count: int, units: Iterable[tuple[int, bytes]]) -> None:
        new = dict(self.units) if unit_bytes == self.unit_bytes else {}
        new.update(units)
        self._before("install")
        self.units = {n: new[n] for n in range(1, unit_count + 1)}
        self.unit_bytes = unit_bytes

    def database_digest(self) -> bytes:
        return FakePin([self.units[n] for n in sorted(self.units)], self.unit_bytes).digest()

    def reset_log(self, plan: Plan) -> None:
        assert self.lost_kept, "custody comes before the log loses anything"
        self._before("log")
        self.log_end = plan.end

    def write_config(self, plan: Plan) -> None:
        self._before("config")
        self.config = plan.config


class Talk:
    """One transfer, message by message, between a sender's pin and a receiver's target."""

    def __init__(self, request: SnapshotRequest, pin: FakePin, target: object) -> None:
        self.sender = SendingSession(request, pin, position=END, config=b"members", snapshot="s1")
        self.offer: SnapshotOffer = self.sender.offer
        self.receiver = ReceivingSession(self.offer, target)  # type: ignore[arg-type]
        self.change: Callable[[RangeUnits], RangeUnits] = lambda units: units
        self.receiver.begin()

    def ranges(self, limit: int = 1_000_000) -> None:
        """Carry up to ``limit`` ranges across."""
        while not self.receiver.complete and limit:
            asked = self.receiver.ask()
            self.receiver.take(self.change(self.sender.answer(asked)))
            limit -= 1

    def finish(self) -> bytes:
        return self.receiver.finish(self.sender.done())

    def run(self) -> bytes:
        self.ranges()
        return self.finish()


def content(files: Files, path: str) -> bytes:
    file = files.open(path)
    try:
        return file.pread(file.size(), 0)
    finally:
        file.close()


def put(files: Files, path: str, data: bytes) -> None:
    file = files.open(path, create=True)
    try:
        file.pwritev([data], 0)
        file.sync()
    finally:
        file.close()
    files.sync_dir(path.rpartition("/")[0])
