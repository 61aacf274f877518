"""Taking a deposed leader's database back to where history forked, without a copy and without a restart.

Two things may stand in its database that the cluster's history does not have:

- *stranded* groups: executed, but the reign was over before their entries came into the log.  Nobody was
  ever told of them; the engine finds them as the surplus over its log, as it does after a crash.
- entries of its log that the new leader does not have (``Batch.rewind_to``).

The order is the safety: (1) custody, synced; (2) undo in the database, one atomic step for whoever reads the file,
synced; (3) the core truncates the log when the leader's entries come again; (4) follow.  A crash between any two
leaves a database that is a place in the log, or a surplus that the next start undoes; everything repeats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from paceline.core.entry import Entry, EntryKind, decode_entry
from paceline.engines.base import split_local
from paceline.errors import Corruption, DiskFull
from paceline.ids import Index
from paceline.node.locate import end_of, idle_end

if TYPE_CHECKING:
    from paceline.node.node import Node

__all__ = ["Rewinding"]

_DISK_FULL_RETRY_MS = 1_000
_CHANGES = (EntryKind.TXN, EntryKind.TXN_PART)


class Rewinding:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._stranded: list[Entry] = []
        self._stranded_notes: dict[Index, bytes] = {}
        self._fork: Index | None = None
        self._undone_to: Index | None = None
        """So far the database was taken back, not durably yet: a full disk broke the rewind off behind the undo."""
        self._waits = False
        self.count = 0
        """Rewinds of this process."""

    @property
    def stranded(self) -> bool:
        """Whether the database has a group that never came into the log."""
        return bool(self._stranded)

    def strand(self, entries: Sequence[Entry], local: Sequence[bytes]) -> None:
        """These were executed, and no longer belong to this reign."""
        self._stranded += entries
        for record in local:
            note = decode_entry(bytes(record))
            self._stranded_notes[note.index] = bytes(note.body)

    def want(self, fork: Index) -> None:
        """The leader's history has nothing of what is here after ``fork``."""
        self._fork = fork

    def start(self) -> bool:
        """The state lane is free and the engine follows: take back what must go, if anything."""
        if self._waits:
            return True
        if self._stranded:
            self._undo_stranded()
            return True
        fork, self._fork = self._fork, None
        if fork is None:
            return False
        node = self._node
        if node.leads_or_will:
            return False  # elected meanwhile: what is here is the history now
        if fork >= node.applied and self._undone_to is None:
            node.replica.rewound()
            node.drain()
            node.pump_soon()
            return True
        entries = node.log.entries(fork, bytes_max=1 << 40)
        executed = any(entry.kind is EntryKind.TXN and entry.index <= node.applied for entry in entries)
        if executed or self._undone_to is not None:
            self._undo_logged(fork, entries)
            return True
        self._stand_at(fork)  # only entries that touch no database were passed
        node.pump_soon()
        return True

    def _stand_at(self, fork: Index) -> bool:
        """Note how far the database is now; quarantine when it is beyond the fork all the same."""
        node = self._node
        end = end_of(node.log, node.engine.position(), node.anchor)
        if end is None or end > fork:
            node.quarantine(Corruption(f"after the rewind to {fork} the database stands elsewhere"))
            return False
        node.set_applied(min(fork, idle_end(node.log, end)))
        node.replica.rewound()
        node.drain()
        return True

    def _undo_stranded(self) -> None:
        node = self._node
        entries, notes = self._stranded, self._stranded_notes
        acknowledged = {entry.index: frozenset[str]() for entry in entries}
        back = node.log.locals_back(node.log.last.index)

        def marks() -> Iterator[tuple[Index, bytes]]:
            while (found := node.ports.ask(lambda: next(back, None))) is not None:
                yield found[0], split_local(found[1])[0]

        def work() -> None:
            node.custody.keep(
                "executed when the reign was over, never logged, acknowledged to nobody",
                entries,
                notes,
                acknowledged=acknowledged,
                time_us=node.ports.wall_us(),
                term_now=node.replica.term,
            )
            surplus = node.engine.surplus(marks())
            if surplus:
                node.engine.undo(reversed(surplus))
            node.engine.checkpoint(
                force=True
            )  # also after a full disk broke off an earlier attempt behind the undo

        def done(_: None) -> None:
            self._stranded, self._stranded_notes = [], {}
            node.ports.event("surplus-undone", entries=len(entries))

        node.run_state(work, done, self._failed)

    def _undo_logged(self, fork: Index, entries: list[Entry]) -> None:
        node, began_ms = self._node, self._node.ports.now_ms()
        notes, acknowledged = node.notes_of(entries), node.acknowledged(entries)
        whole = node.log.entries(self._before_transaction(fork), bytes_max=1 << 40)
        executed = [entry for entry in whole if entry.index <= node.applied and entry.kind in _CHANGES]

        def work() -> None:
            node.custody.keep(
                "not in the leader's log",
                entries,
                notes,
                acknowledged=acknowledged,
                time_us=node.ports.wall_us(),
                term_now=node.replica.term,
            )
            if executed:
                node.engine.undo(reversed(executed))
                self._undone_to = self._before_transaction(fork)
            node.engine.checkpoint(force=True)  # durable before the log forgets what would undo it again

        def done(_: None) -> None:
            self._undone_to = None
            self.count += 1
            if self._stand_at(fork):
                node.ports.event(
                    "rewound",
                    first=entries[0].position.short,
                    last=entries[-1].position.short,
                    took_ms=node.ports.now_ms() - began_ms,
                )

        def failed(error: BaseException) -> None:
            self._fork = fork
            if self._undone_to is not None:  # whatever comes next: this is where the database stands
                node.set_applied(min(self._undone_to, node.applied))
            self._failed(error)

        node.run_state(work, done, failed)

    def _before_transaction(self, fork: Index) -> Index:
        """Where the undo ends: history may fork between the parts of a transaction, which is undone as a whole."""
        log = self._node.log
        while fork > log.base.index and log.kind_at(fork) is EntryKind.TXN_PART:
            fork = Index(fork - 1)
        return fork

    def installed(self) -> None:
        """A snapshot has replaced the database."""
        self._stranded, self._stranded_notes, self._fork, self._undone_to = [], {}, None, None

    def _failed(self, error: BaseException) -> None:
        node = self._node
        if isinstance(error, Corruption):
            self._stranded, self._stranded_notes, self._fork, self._undone_to = [], {}, None, None
            node.quarantine(error)
        elif isinstance(error, DiskFull):
            node.ports.event("disk-full", message=error.message)
            self._waits = True
            node.ports.later(_DISK_FULL_RETRY_MS, self._again)
        else:
            node.ports.fatal(error)

    def _again(self) -> None:
        self._waits = False
        self._node.pump()
