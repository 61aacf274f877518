"""The end of the log in memory: what is not durable yet, and what followers that keep up will ask for.

Entries are contiguous from ``first`` to the end of the log.  Only durable ones
may be evicted, so that nobody ever reads from a file what is still being written.
"""

from __future__ import annotations

from paceline.core.entry import Entry
from paceline.ids import Index

__all__ = ["Tail"]


class Tail:
    """Loop thread only."""

    __slots__ = ("_bytes", "_bytes_max", "_entries", "_locals", "first")

    def __init__(self, first: Index, bytes_max: int) -> None:
        self.first = first
        self._bytes_max = bytes_max
        self._bytes = 0
        self._entries: dict[int, Entry] = {}
        self._locals: dict[int, bytes] = {}

    def append(self, entry: Entry, local: bytes | None) -> None:
        self._entries[entry.index] = entry
        self._bytes += len(entry.record)
        if local is not None:
            self._locals[entry.index] = local

    def __getitem__(self, index: int) -> Entry:
        return self._entries[index]

    def local(self, index: Index) -> bytes | None:
        """The local record of an entry that is not durable yet (later: perhaps)."""
        return self._locals.get(index)

    def take(self, index: int, last: Index, room: int, found: list[Entry]) -> None:
        """Add the entries ``index .. last`` to ``found`` while they fit; at least one in all."""
        entries = self._entries
        while index <= last:
            entry = entries[index]
            room -= len(entry.record)
            if room < 0 and found:
                return
            found.append(entry)
            index += 1

    def evict(self, durable: Index) -> None:
        while self._bytes > self._bytes_max and self.first <= durable:
            self._bytes -= len(self._entries.pop(self.first).record)
            self.first = Index(self.first + 1)
        while self._locals and (oldest := next(iter(self._locals))) <= durable:
            del self._locals[oldest]

    def truncate(self, after: Index) -> None:
        for index in range(self.first + len(self._entries) - 1, max(after, self.first - 1), -1):
            self._bytes -= len(self._entries.pop(index).record)
            self._locals.pop(index, None)
        self.first = Index(min(self.first, after + 1))

    def drop(self, base: Index) -> None:
        """Forget what is at or below ``base``."""
        while self._entries and self.first <= base:
            self._bytes -= len(self._entries.pop(self.first).record)
            self._locals.pop(self.first, None)
            self.first = Index(self.first + 1)
        self.first = Index(max(self.first, base + 1))

    def clear(self, first: Index) -> None:
        self._entries.clear()
        self._locals.clear()
        self._bytes, self.first = 0, first
