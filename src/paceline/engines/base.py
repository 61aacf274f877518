"""The contract between Paceline and a storage engine.

Core, log, snapshot transfer, node and runtime know an engine only by this
file; it speaks neither SQL plans nor pages.  SQLite is the first engine.

Theory of operation.  The leader runs a *group* of requests in its own engine
and captures what changed as the body of log entries (``run_group``).  Followers
``apply`` those entries; ``undo`` takes them back, newest first.  Every group
stores its :class:`~paceline.ids.DatabasePosition` inside its own transaction,
so a database always says where in history it stands.

Threads.  The methods of the *state lane* (``open`` .. ``close``) are never
called concurrently: one thread at a time owns the state machine (writer on a
leader, applier on a follower).  A :class:`Pin` and ``query`` may be used from any
thread while the state lane goes on.

Errors.  A request that fails is an :class:`Outcome` with ``error``; everything
that the engine itself raises is fatal for the node unless it is named here:
``HashMismatch``/``Diverged`` (quarantine and re-sync), ``DiskFull`` (nothing
was changed; may be tried again later).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec
import xxhash

from paceline.core.entry import Entry
from paceline.errors import PacelineError
from paceline.ids import DatabasePosition, Index, Slot

__all__ = [
    "Engine",
    "Group",
    "GroupResult",
    "Outcome",
    "Pin",
    "QueryResult",
    "Value",
    "StatementResult",
    "TookTooLong",
    "UNIT_HASH_BYTES",
    "UnitsDigest",
    "WriteRequest",
    "join_local",
    "split_local",
    "unit_hash",
]

Value = None | int | float | str | bytes
"""SQLite's storage classes."""


def join_local(mark: bytes, requests: bytes) -> bytes:
    """Body of a REQUESTS or MARK record: one length byte, the capture mark, the requests."""
    return bytes((len(mark),)) + mark + requests


def split_local(body: bytes | memoryview) -> tuple[bytes, bytes]:
    """Undo :func:`join_local`."""
    end = 1 + body[0]
    return bytes(body[1:end]), bytes(body[end:])


UNIT_HASH_BYTES = 16


def unit_hash(unit: bytes | memoryview) -> bytes:
    """XXH3-128 of one unit of a snapshot, big endian: the same on every node."""
    return xxhash.xxh3_128_digest(unit)


class UnitsDigest:
    """``Pin.digest``, for whoever has the hashes of all units: feed them in order, then read ``value``.

    XXH3-128 over the unit size and the unit count (4 bytes each, little endian) and every unit's hash.
    """

    def __init__(self, unit_bytes: int, unit_count: int) -> None:
        self._state = xxhash.xxh3_128(unit_bytes.to_bytes(4, "little") + unit_count.to_bytes(4, "little"))
        self._missing = unit_count * UNIT_HASH_BYTES

    def update(self, hashes: bytes) -> None:
        self._state.update(hashes)
        self._missing -= len(hashes)

    @property
    def value(self) -> bytes:
        assert self._missing == 0, "the digest covers every unit exactly once"
        return self._state.digest()


class WriteRequest(msgspec.Struct, gc=False):
    """One client transaction: all ``statements`` or none.

    ``args`` of a statement is a list (positional) or a dict (named).
    ``deadline`` is in the engine's clock (``Engine.open(monotonic=...)``), seconds; None: no limit.
    """

    statements: list[tuple[str, list[Value] | dict[str, Value]]]
    durability: str
    request_id: bytes | None = None
    deadline: float | None = None
    client: str = ""


class StatementResult(msgspec.Struct, omit_defaults=True, gc=False):
    """``columns``/``rows`` only for statements that return rows (RETURNING, SELECT)."""

    last_insert_rowid: int = 0
    rows_affected: int = 0
    columns: list[str] | None = None
    rows: list[list[Value]] | None = None


class Outcome(msgspec.Struct, gc=False):
    """What became of one request: ``results`` or ``error``, never both.

    ``repeated_at``: the request id was applied before, in the transaction
    whose first entry has this index; ``results`` are the first run's (None when too large to keep).
    """

    results: list[StatementResult] | None = None
    error: PacelineError | None = None
    repeated_at: Index | None = None


class TookTooLong(Exception):
    """A group with ``give_up_at`` did not end in time; nothing of it happened."""


class Group(msgspec.Struct, gc=False):
    """What ``run_group`` is to run.  ``emit`` takes each ``TXN_PART`` as soon as it is made and may block.

    ``give_up_at`` (engine's clock): rather than run, or wait for a lock, past this moment, raise ``TookTooLong``.
    ``id_gap``: how many ids to leave out before the first change of a term, for those that lost writes were given.
    """

    slot: Slot
    requests: Sequence[WriteRequest]
    time_us: int
    emit: Callable[[Entry], None]
    give_up_at: float | None = None
    id_gap: int = 0


class GroupResult(msgspec.Struct, gc=False):
    """``entry`` is the TXN that completes the group, None when nothing changed (all failed, or only reads).

    ``outcomes`` has one item per request, in order.  ``local`` is the encoded
    REQUESTS record that belongs beside the entry in this node's log; its body is
    ``join_local(mark, requests)``.
    """

    entry: Entry | None
    outcomes: list[Outcome]
    local: bytes | None


class QueryResult(msgspec.Struct, gc=False):
    """Rows of one read, and the database position of exactly the snapshot that it saw."""

    columns: list[str]
    types: list[str | None]
    rows: list[list[Value]]
    position: DatabasePosition | None


class Pin(Protocol):
    """A consistent image of the whole database at one position, while writers go on.

    Units are numbered from 1 to ``unit_count`` and have ``unit_bytes`` bytes each.
    """

    position: DatabasePosition | None
    unit_bytes: int
    unit_count: int

    def read(self, first: int, count: int) -> list[bytes]: ...

    def hashes(self, first: int, count: int) -> bytes:
        """``unit_hash`` of each unit in the range, 16 bytes each, concatenated."""
        ...

    def digest(self) -> bytes:
        """16 bytes over unit size, unit count and every unit's hash: equal digest, equal database."""
        ...

    def close(self) -> None: ...


class Engine(Protocol):
    """One database.  See the module docstring for threads and errors."""

    path: str

    def open(self) -> DatabasePosition | None:
        """Open or create the database as a *follower* (foreign writers locked out); return where it stands."""
        ...

    def close(self) -> None:
        """Release everything; the database file is whole and up to date afterwards (checkpointed if possible)."""
        ...

    def lead(self, log_end: Index) -> DatabasePosition | None:
        """Become the writer; return the verified position.

        ``log_end``: last index of the log, for ``surplus`` after a crash: marks up to there are of older reigns.
        """
        ...

    def follow(self) -> DatabasePosition | None:
        """Stop being the writer; lock writers out again."""
        ...

    def run_group(self, group: Group) -> GroupResult:
        """Leader: run, commit and capture.  On return the database has the group; the log does not yet."""
        ...

    def apply(self, entries: Iterable[Entry]) -> DatabasePosition | None:
        """Follower: apply contiguous entries, ending at a transaction's end, as one atomic step for readers."""
        ...

    def undo(self, entries: Iterable[Entry]) -> DatabasePosition | None:
        """Take back whole transactions, given newest first (parts too), as one atomic step for readers."""
        ...

    def surplus(self, marks: Iterable[tuple[Index, bytes]]) -> list[Entry]:
        """Transactions in the database that no whole entry of the log explains, oldest first.

        ``marks``: the capture marks of the log's local records with their indexes, newest first, from the entry at
        which the database says it stands (the log's end when the log does not know that entry).

        Found after a crash of a leader: between the database's commit and the log, or in the middle of an entry
        of several commits.  Pseudo-entries fit for ``undo``.  Raises ``Diverged`` when the surplus can no longer be
        told apart.
        """
        ...

    def capture_mark(self) -> bytes:
        """An opaque note (at most 255 bytes) of what has been captured so far, kept in the log by a leader."""
        ...

    def checkpoint(self, *, force: bool = False) -> Index | None:
        """Move work into the database file when it is due.  Returns the first index of the last transaction that is
        now durable in the database itself, None when nothing was done.  Called only when the log is durable that far."""
        ...

    def checkpoint_due(self) -> bool: ...

    def position(self) -> DatabasePosition | None:
        """Where the state lane stands."""
        ...

    def pin(self) -> Pin:
        """Pin the state as it is now (state lane; the pin itself may then be used anywhere)."""
        ...

    def query(
        self,
        sql: str,
        args: list[Value] | dict[str, Value],
        *,
        deadline: float | None,
        rows_max: int,
        bytes_max: int,
    ) -> QueryResult:
        """Read on a snapshot, from any thread; refuses anything that writes."""
        ...

    def install(
        self, unit_bytes: int, unit_count: int, units: Iterable[tuple[int, bytes]]
    ) -> DatabasePosition | None:
        """Bring the database to an image: ``units`` are those that differ from what is here.

        Atomic for readers that have the file open.  Not durable until ``checkpoint(force=True)``.
        """
        ...
