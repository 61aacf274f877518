"""Exactly once: which request ids were applied, and what they answered.

A request id is remembered inside the transaction that applied it, so the
memory is replicated, travels with snapshots and is rewound with the log like
any data.  One row per group, made only for groups that had ids:
``(first_index, at, body)`` with body = msgpack ``[[id, results | nil], ...]``.
``at`` is no time of day, which may be set forward by an hour: it counts the
seconds of all reigns, each going on from the newest row.

A leader reads the table when its reign starts and keeps a dict beside it; the
dict changes only when the transaction has committed.  Bounded by count and by
age: each group removes a few old rows.  Failed requests are not remembered:
they changed nothing and may be sent again.

An id that was forgotten must not run a second time.  *Counted* ids (``ids.counted_id``, as Paceline's
clients draw them) say which session they belong to and which one of it they are; a second table keeps, for each session, the
highest counter that was forgotten.  A counted id that is not known and not above that is *expired*: it is
refused.  It may never have run; nobody can tell any more.  The table keeps the
sessions that last had ids forgotten.  Of other ids nothing is known once they are forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import apsw
import msgspec

from paceline.engines.base import StatementResult
from paceline.engines.sqlite.control import control
from paceline.errors import Corruption
from paceline.ids import Index, split_counted
from paceline.limits import DEDUP_COUNT, DEDUP_RESULT_BYTES_MAX, DEDUP_SECONDS, DEDUP_SESSIONS

__all__ = ["FIND_SQL", "REQUESTS_TABLE", "Dedup", "remembered_ids"]

REQUESTS_TABLE: Final = "_paceline_requests"
SESSIONS_TABLE: Final = "_paceline_sessions"
FORGET_ROWS_MAX: Final = 4
"""Old rows removed per group: more than it adds, few enough not to be felt."""

_CREATE: Final = control(
    f"CREATE TABLE {REQUESTS_TABLE}(first_index INTEGER PRIMARY KEY, at INTEGER NOT NULL, body BLOB NOT NULL)"
)
_INSERT: Final = control(f"INSERT OR REPLACE INTO {REQUESTS_TABLE} VALUES (?, ?, ?)")
_DELETE: Final = control(f"DELETE FROM {REQUESTS_TABLE} WHERE first_index = ?")
_SELECT: Final = control(f"SELECT first_index, at, body FROM {REQUESTS_TABLE} ORDER BY first_index")
_PRESENT: Final = control("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?")
_CREATE_SESSIONS: Final = control(
    f"CREATE TABLE {SESSIONS_TABLE}(session BLOB PRIMARY KEY, forgotten INTEGER NOT NULL, at INTEGER NOT NULL)"
    " WITHOUT ROWID"
)
_SET_SESSION: Final = control(f"INSERT OR REPLACE INTO {SESSIONS_TABLE} VALUES (?, ?, ?)")
_DELETE_SESSION: Final = control(f"DELETE FROM {SESSIONS_TABLE} WHERE session = ?")
_SELECT_SESSIONS: Final = control(f"SELECT session, forgotten FROM {SESSIONS_TABLE} ORDER BY at, session")

_Body = list[tuple[bytes, bytes | None]]
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_body: Final = msgspec.msgpack.Decoder(_Body).decode
_decode_results: Final = msgspec.msgpack.Decoder(list[dict[str, Any]]).decode


FIND_SQL: Final = f"SELECT first_index, body FROM {REQUESTS_TABLE} WHERE instr(body, ?1) > 0"
"""Rows that may have a request id; ``remembered_ids`` tells."""


def remembered_ids(body: bytes) -> list[bytes]:
    """Request ids in one row's body."""
    return [bytes(identity) for identity, _ in msgspec.msgpack.decode(body)]


class _Row(msgspec.Struct, gc=False):
    """One remembered group."""

    first_index: Index
    at: int
    ids: list[bytes]


class Dedup:
    """The memory of one reign.  ``count_max``, ``seconds_max`` and ``sessions_max`` bound it."""

    def __init__(
        self,
        connection: apsw.Connection,
        *,
        monotonic: Callable[[], float],
        count_max: int = DEDUP_COUNT,
        seconds_max: int = DEDUP_SECONDS,
        sessions_max: int = DEDUP_SESSIONS,
    ) -> None:
        self._execute = connection.cursor().execute
        self._count_max = count_max
        self._seconds_max = seconds_max
        self._sessions_max = sessions_max
        self._known: dict[bytes, tuple[Index, bytes | None]] = {}
        self._rows: deque[_Row] = deque()
        self._group: dict[bytes, bytes | None] = {}
        self._written: _Row | None = None
        self._forgotten = 0
        self._sessions: dict[bytes, int] = {}
        """Session -> highest counter that was forgotten; who last had ids forgotten stands last."""
        self._marks: dict[bytes, int] = {}
        self._dropped: list[bytes] = []
        self._present = bool(self._execute(_PRESENT, (REQUESTS_TABLE,)).fetchall())
        if self._present:
            self._load()
        self._sessions_present = bool(self._execute(_PRESENT, (SESSIONS_TABLE,)).fetchall())
        if self._sessions_present:
            self._sessions.update(self._execute(_SELECT_SESSIONS))
        self._monotonic = monotonic
        self._reign_began = monotonic() - (self._rows[-1].at if self._rows else 0)

    def __len__(self) -> int:
        return len(self._known)

    def _load(self) -> None:
        for first_index, at, body in self._execute(_SELECT):
            try:
                items = _decode_body(body)
            except msgspec.MsgspecError as error:
                raise Corruption(f"{REQUESTS_TABLE}: the row of index {first_index} is damaged") from error
            self._rows.append(_Row(Index(first_index), at, [key for key, _ in items]))
            self._known.update((key, (Index(first_index), results)) for key, results in items)

    def find(
        self, request_id: bytes, group_index: Index
    ) -> tuple[Index, list[StatementResult] | None] | None:
        """The first run of ``request_id``: where it is in the log and what it answered."""
        if request_id in self._group:
            index, results = group_index, self._group[request_id]
        elif request_id in self._known:
            index, results = self._known[request_id]
        else:
            return None
        return index, None if results is None else [
            StatementResult(**item) for item in _decode_results(results)
        ]

    def expired(self, request_id: bytes) -> bool:
        """Whether an id that ``find`` does not know may have been applied and forgotten."""
        if not self._sessions or (counted := split_counted(request_id)) is None:
            return False
        session, count = counted
        return count <= self._sessions.get(session, -1)

    def remember(self, request_id: bytes, results: list[StatementResult]) -> None:
        """``request_id`` succeeded in the group that is running."""
        encoded = _encode(results)
        self._group[request_id] = encoded if len(encoded) <= DEDUP_RESULT_BYTES_MAX else None

    def begin(self) -> None:
        """A group starts, or starts anew: nothing of it is remembered yet."""
        self._group.clear()
        self._written = None
        self._forgotten = 0
        self._marks = {}
        self._dropped = []

    def write(self, first_index: Index) -> None:
        """Put the group's ids into its own transaction, and remove what is too old or too many."""
        if not self._group:
            return
        at = int(self._monotonic() - self._reign_began)
        if not self._present:
            self._execute(_CREATE)
        items = self._same_entry(first_index) | self._group
        self._execute(_INSERT, (first_index, at, _encode(list(items.items()))))
        self._written = _Row(first_index, at, list(items))
        too_many = len(self._known) + len(self._group) > self._count_max
        for row in islice(self._rows, FORGET_ROWS_MAX):  # several at once: then the next groups need not
            needed = not too_many and row.at >= at - self._seconds_max
            if needed or row.first_index == first_index:
                break
            self._execute(_DELETE, (row.first_index,))
            self._forgotten += 1
            self._mark(row.ids)
        if self._marks:
            self._write_marks(at)

    def _mark(self, forgotten: list[bytes]) -> None:
        """These ids go: note how far their sessions are forgotten."""
        for request_id in forgotten:
            counted = split_counted(request_id)
            if counted is not None:
                session, count = counted
                known = self._marks.get(session, self._sessions.get(session, -1))
                self._marks[session] = max(known, count)

    def _write_marks(self, at: int) -> None:
        if not self._sessions_present:
            self._execute(_CREATE_SESSIONS)
        for session, count in self._marks.items():
            self._execute(_SET_SESSION, (session, count, at))
        fresh = sum(session not in self._sessions for session in self._marks)
        excess = len(self._sessions) + fresh - self._sessions_max
        if excess > 0:
            oldest = (session for session in self._sessions if session not in self._marks)
            self._dropped = list(islice(oldest, excess))
            for session in self._dropped:
                self._execute(_DELETE_SESSION, (session,))

    def _same_entry(self, first_index: Index) -> dict[bytes, bytes | None]:
        """What earlier transactions of the same entry remembered (requests that ran singly)."""
        if not self._rows or self._rows[-1].first_index != first_index:
            return {}
        return {key: self._known[key][1] for key in self._rows[-1].ids}

    def committed(self) -> None:
        """The transaction of the last ``write`` has committed: let the dict follow the table."""
        if self._written is None:
            return
        self._present = True
        for _ in range(self._forgotten):
            for key in self._rows.popleft().ids:
                self._known.pop(key, None)
        if self._marks:
            self._sessions_present = True
            for session in (*self._dropped, *self._marks):
                self._sessions.pop(session, None)
            self._sessions.update(self._marks)
        index = self._written.first_index
        self._known.update((key, (index, results)) for key, results in self._group.items())
        if self._rows and self._rows[-1].first_index == index:
            self._rows.pop()
        self._rows.append(self._written)
        self.begin()
