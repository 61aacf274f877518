"""A small engine for the simulator: the whole contract, none of SQLite's cost.

It keeps the state of ``statements.py`` in memory and on a ``Files`` with SQLite's
promises under ``synchronous=NORMAL``: a commit appends one record to ``-wal`` and is not
synced, so a power cut takes a *suffix* of the commits and nothing else; a checkpoint syncs
``-wal``, replaces the image and starts a new ``-wal`` generation.

    image    u32 length | u32 crc | msgpack (generation, State)      (replaced atomically)
    -wal     u64 generation, then records u32 length | u32 crc (seeded by the crc before) | msgpack Commit

A body lists changes with the value before and after, so ``apply`` checks where it
stands (``HashMismatch``) and ``undo`` can take it back.  Units of a snapshot are slices of the image.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Final

import google_crc32c
import msgspec

from paceline.core.entry import Entry, EntryKind, encode_entry, encode_local
from paceline.engines.base import (
    Group,
    GroupResult,
    Outcome,
    QueryResult,
    StatementResult,
    UnitsDigest,
    Value,
    WriteRequest,
    join_local,
    unit_hash,
)
from paceline.errors import Corruption, DiskFull, Diverged, HashMismatch, SqlError
from paceline.files import File, Files, write_atomic
from paceline.ids import DatabasePosition, Index, Slot, Term
from paceline.sim.memory import Change, Commit, PackedPosition, State
from paceline.sim.statements import ADD, BAD, CREATE, ITEMS, REGISTERS, SET, WEIGH

__all__ = ["MemoryEngine", "MemoryPin"]

UNIT_BYTES: Final = 128
_FRAME: Final = struct.Struct(">II")
_GENERATION: Final = struct.Struct(">Q")
_encoder: Final = msgspec.msgpack.Encoder()


class Body(msgspec.Struct, frozen=True, array_like=True):
    """Of a whole transaction; ``before`` is where the database stood."""

    prev_chain: bytes
    changes: list[Change]
    before: PackedPosition | None


class _Image(msgspec.Struct, frozen=True, array_like=True):
    """The file: ``generation`` names the ``-wal`` that continues it."""

    generation: int
    state: State


_body_decoder: Final = msgspec.msgpack.Decoder(Body)
_image_decoder: Final = msgspec.msgpack.Decoder(_Image)


class MemoryPin:
    """An image of the state at one moment."""

    unit_bytes = UNIT_BYTES

    def __init__(self, state: State) -> None:
        self.position = state.database_position
        image = b"" if state == State() else _frame(_encoder.encode(_Image(0, state)), 0)
        self._image = image + bytes(-len(image) % UNIT_BYTES)
        self.unit_count = len(self._image) // UNIT_BYTES

    def read(self, first: int, count: int) -> list[bytes]:
        return [
            self._image[n * UNIT_BYTES : (n + 1) * UNIT_BYTES] for n in range(first - 1, first - 1 + count)
        ]

    def hashes(self, first: int, count: int) -> bytes:
        return b"".join(map(unit_hash, self.read(first, count)))

    def digest(self) -> bytes:
        digest = UnitsDigest(UNIT_BYTES, self.unit_count)
        digest.update(self.hashes(1, self.unit_count))
        return digest.value

    def close(self) -> None:
        pass


def _frame(body: bytes, seed: int) -> bytes:
    return _FRAME.pack(len(body), google_crc32c.extend(seed, body)) + body


class MemoryEngine:
    """Implements ``engines.base.Engine``.  ``ran`` hears of every group, for the oracle."""

    def __init__(
        self,
        files: Files,
        path: str,
        *,
        monotonic: Callable[[], float],
        part_bytes: int,
        checkpoint_commits: int,
        ran: Callable[[Entry, list[WriteRequest]], None],
    ) -> None:
        self.path = path
        self.state = State()
        self._files = files
        self._monotonic = monotonic
        self._part_bytes = part_bytes
        self._checkpoint_commits = checkpoint_commits
        self._ran = ran
        self._leads = False
        self._commits: list[Commit] = []
        self._wal: File | None = None
        self._end = 0
        self._crc = 0
        self._generation = 0

    # -- opening and closing ----------------------------------------------------------

    def open(self) -> DatabasePosition | None:
        self._generation, self.state = self._read_image()
        self._wal = self._files.open(self.path + "-wal", create=True)
        self._commits, self._crc, self._end = [], self._salt(), _GENERATION.size
        data = self._wal.pread(self._wal.size(), 0)
        if len(data) < self._end or _GENERATION.unpack_from(data)[0] != self._generation:
            self._wal.truncate(0)
            self._wal.pwritev([_GENERATION.pack(self._generation)], 0)
        else:
            self._recover(data)
        self._leads = False
        return self.position()

    def _salt(self) -> int:
        """Records of an older generation never fit behind the header of a newer one."""
        return int(google_crc32c.value(_GENERATION.pack(self._generation)))

    def _read_image(self) -> tuple[int, State]:
        if not self._files.exists(self.path):
            return 0, State()
        file = self._files.open(self.path)
        data = file.pread(file.size(), 0)
        file.close()
        return self._unpack_image(data) if data else (0, State())

    def _unpack_image(self, data: bytes) -> tuple[int, State]:
        size, crc = _FRAME.unpack_from(data)
        body = data[_FRAME.size : _FRAME.size + size]
        if len(body) != size or google_crc32c.value(body) != crc:
            raise Corruption(f"{self.path}: the image fails its checksum")
        image = _image_decoder.decode(body)
        return image.generation, image.state

    def _recover(self, data: bytes) -> None:
        while self._end + _FRAME.size <= len(data):
            size, crc = _FRAME.unpack_from(data, self._end)
            body = data[self._end + _FRAME.size : self._end + _FRAME.size + size]
            if len(body) != size or google_crc32c.extend(self._crc, body) != crc:
                break
            self._end += _FRAME.size + size
            self._crc = crc
            self._take(msgspec.msgpack.decode(body, type=Commit))

    def _take(self, commit: Commit) -> None:
        commit.perform(self.state)
        if commit.undoes:
            del self._commits[max(0, len(self._commits) - commit.undoes) :]
        else:
            self._commits.append(commit)

    def close(self) -> None:
        self._leads = False
        if self._wal is not None:
            self._wal.close()
            self._wal = None

    def lead(self, log_end: Index) -> DatabasePosition | None:
        assert not self._leads
        self._leads = True
        return self.position()

    def follow(self) -> DatabasePosition | None:
        assert self._leads
        self._leads = False
        return self.position()

    def position(self) -> DatabasePosition | None:
        return self.state.database_position

    # -- leading ----------------------------------------------------------------------

    def run_group(self, group: Group) -> GroupResult:
        assert self._leads
        changes: list[Change] = []
        outcomes = [self._run(request, group.slot.index, changes) for request in group.requests]
        if not changes:
            return GroupResult(None, outcomes, None)
        slot = group.slot
        commit = Commit(
            changes=changes,
            before=self.state.position,
            after=(slot.term, slot.index, slot.prev_chain),
            led=True,
            undoes=0,
        )
        self.state.position = commit.after
        try:
            self._write(commit)
        except DiskFull as error:
            commit.revert(self.state)
            return GroupResult(None, [Outcome(error=error) for _ in group.requests], None)
        self._commits.append(commit)
        entry = self._ship(group, _encoder.encode(Body(slot.prev_chain, changes, commit.before)))
        self._ran(entry, [r for r, o in zip(group.requests, outcomes, strict=True) if _took_effect(o)])
        local = encode_local(
            EntryKind.REQUESTS,
            entry.term,
            entry.index,
            join_local(self.capture_mark(), b"requests"),
            time_us=group.time_us,
        )
        return GroupResult(entry, outcomes, local)

    def _ship(self, group: Group, body: bytes) -> Entry:
        """One entry, or parts of bounded size and the entry that completes them."""
        slot: Slot = group.slot
        while len(body) > self._part_bytes:
            part = encode_entry(slot, EntryKind.TXN_PART, body[: self._part_bytes], time_us=group.time_us)
            group.emit(part)
            body, slot = body[self._part_bytes :], part.next_slot
        return encode_entry(slot, EntryKind.TXN, body, time_us=group.time_us)

    def _run(self, request: WriteRequest, index: Index, changes: list[Change]) -> Outcome:
        if request.deadline is not None and self._monotonic() > request.deadline:
            return Outcome(error=SqlError("interrupted", code=9, extended=9, name="SQLITE_INTERRUPT"))
        known = self.state.requests.get(request.request_id.hex()) if request.request_id else None
        if known is not None:
            return Outcome(results=[], repeated_at=Index(known))
        done: list[Change] = []
        for sql, args in request.statements:
            assert isinstance(args, list)
            if sql == BAD:
                for change in reversed(done):
                    change.revert(self.state)
                return Outcome(
                    error=SqlError("no such table: nowhere", code=1, extended=1, name="SQLITE_ERROR")
                )
            done += self._execute(sql, args)
        if request.request_id:
            done.append(self._did(Change("request", request.request_id.hex(), None, str(index))))
        changes += done
        return Outcome(results=[StatementResult(rows_affected=1)])

    def _execute(self, sql: str, args: list[Value]) -> list[Change]:
        match sql:
            case _ if sql == ADD:
                number = len(self.state.items)
                return [self._did(Change("item", str(number), None, str(args[0])))]
            case _ if sql == SET:
                key = str(args[0])
                return [self._did(Change("register", key, self.state.registers.get(key), str(args[1])))]
            case _ if sql == WEIGH:
                number = len(self.state.ballast)
                data = args[0]
                assert isinstance(data, bytes)
                return [self._did(Change("ballast", str(number), None, "x" * len(data)))]
            case _ if sql in CREATE:
                return []
        raise AssertionError(f"the simulator's engine does not know: {sql}")

    def _did(self, change: Change) -> Change:
        change.perform(self.state)
        return change

    # -- following --------------------------------------------------------------------

    def apply(self, entries: Iterable[Entry]) -> DatabasePosition | None:
        """All or nothing, as SQLite's engine publishes a batch once: a full disk in its middle takes all of it back."""
        assert not self._leads and self._wal is not None
        count, end, crc = len(self._commits), self._end, self._crc
        try:
            self._apply_all(entries)
        except DiskFull:
            while len(self._commits) > count:
                self._commits.pop().revert(self.state)
            self._wal.truncate(end)
            self._end, self._crc = end, crc
            raise
        return self.position()

    def _apply_all(self, entries: Iterable[Entry]) -> None:
        pending: list[Entry] = []
        for entry in entries:
            if entry.kind is EntryKind.TXN_PART:
                pending.append(entry)
            elif entry.kind is EntryKind.TXN:
                self._apply_one([*pending, entry])
                pending = []
            else:
                pending = []
        assert not pending, "a batch ends at a transaction's end"

    def _apply_one(self, parts: list[Entry]) -> None:
        first = parts[0]
        body = _body_decoder.decode(b"".join(bytes(part.body) for part in parts))
        for change in body.changes:
            if not change.fits(self.state):
                raise HashMismatch(f"{change.table} {change.key} is not what entry {first.index} found there")
            change.perform(self.state)
        commit = Commit(
            changes=body.changes,
            before=self.state.position,
            after=(first.term, first.index, body.prev_chain),
            led=False,
            undoes=0,
        )
        self.state.position = commit.after
        try:
            self._write(commit)
        except DiskFull:
            commit.revert(self.state)
            raise
        self._commits.append(commit)

    def undo(self, entries: Iterable[Entry]) -> DatabasePosition | None:
        """From the bodies: what is undone may have been checkpointed long ago."""
        assert not self._leads
        bodies = [_body_decoder.decode(body) for body in _whole_bodies(entries)]
        if not bodies:
            return self.position()
        changes = [change for body in reversed(bodies) for change in body.changes]
        commit = Commit(
            changes=changes,
            before=self.state.position,
            after=bodies[-1].before,
            led=False,
            undoes=len(bodies),
        )
        commit.perform(self.state)
        try:
            self._write(commit)
        except DiskFull:
            commit.revert(self.state)
            raise
        del self._commits[max(0, len(self._commits) - len(bodies)) :]
        return self.position()

    def surplus(self, marks: Iterable[tuple[Index, bytes]]) -> list[Entry]:
        _, mark = next(iter(marks), (0, None))
        if mark is None or (self._commits and not self._commits[-1].led):
            return []
        generation, count = struct.unpack(">QQ", mark)
        if generation > self._generation:
            raise Diverged("the mark is newer than the database")
        if generation < self._generation:
            count = 0
        entries: list[Entry] = []
        for commit in self._commits[count:]:
            assert commit.after is not None
            term, index, chain = commit.after
            slot = entries[-1].next_slot if entries else Slot(Term(term), Index(index), chain)
            body = _encoder.encode(Body(chain, commit.changes, commit.before))
            entries.append(encode_entry(slot, EntryKind.TXN, body, time_us=0))
        return entries

    def capture_mark(self) -> bytes:
        return struct.pack(">QQ", self._generation, len(self._commits))

    # -- durability and snapshots --------------------------------------------------------

    def _write(self, commit: Commit) -> None:
        assert self._wal is not None
        record = _frame(_encoder.encode(commit), self._crc)
        try:
            self._wal.pwritev([record], self._end)
        except OSError as error:
            raise DiskFull(f"the database cannot grow: {error}") from error
        self._crc = _FRAME.unpack_from(record)[1]
        self._end += len(record)

    def checkpoint_due(self) -> bool:
        return len(self._commits) >= self._checkpoint_commits

    def checkpoint(self, *, force: bool = False) -> Index | None:
        if not force and not self.checkpoint_due():
            return None
        assert self._wal is not None
        self._wal.sync()
        generation = self._generation + 1
        try:
            write_atomic(self._files, self.path, _frame(_encoder.encode(_Image(generation, self.state)), 0))
        except OSError as error:
            raise DiskFull(f"the database cannot grow: {error}") from error
        self._generation, self._commits = generation, []
        self._crc, self._end = self._salt(), _GENERATION.size
        self._wal.truncate(0)
        self._wal.pwritev([_GENERATION.pack(generation)], 0)
        return Index(self.state.position[1]) if self.state.position else None

    def pin(self) -> MemoryPin:
        return MemoryPin(self.state)

    def install(
        self, unit_bytes: int, unit_count: int, units: Iterable[tuple[int, bytes]]
    ) -> DatabasePosition | None:
        assert not self._leads and unit_bytes == UNIT_BYTES
        here = MemoryPin(self.state)
        image = dict(enumerate(here.read(1, here.unit_count), 1))
        image.update(units)
        data = b"".join(image[number] for number in range(1, unit_count + 1))
        self.state = self._unpack_image(data)[1] if data else State()
        return self.position()

    def query(
        self,
        sql: str,
        args: list[Value] | dict[str, Value],
        *,
        deadline: float | None,
        rows_max: int,
        bytes_max: int,
    ) -> QueryResult:
        rows: list[list[Value]]
        if sql == ITEMS:
            rows = [[value] for value in self.state.items]
        else:
            assert sql == REGISTERS
            rows = [[int(key), value] for key, value in sorted(self.state.registers.items())]
        return QueryResult(columns=["value"], types=[None], rows=rows, position=self.position())


def _whole_bodies(entries: Iterable[Entry]) -> list[bytes]:
    """Of whole transactions, given newest first; parts that nobody ended are passed over."""
    bodies: list[bytes] = []
    whole = False
    for entry in entries:
        if entry.kind is EntryKind.TXN:
            bodies.append(bytes(entry.body))
        elif entry.kind is EntryKind.TXN_PART and whole:
            bodies[-1] = bytes(entry.body) + bodies[-1]
        whole = entry.kind is EntryKind.TXN or (whole and entry.kind is EntryKind.TXN_PART)
    return bodies


def _took_effect(outcome: Outcome) -> bool:
    return outcome.error is None and outcome.repeated_at is None
