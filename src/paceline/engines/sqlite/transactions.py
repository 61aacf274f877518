"""From log entries to page deltas, in both directions.

Only TXN and TXN_PART touch the database.  Parts count when the TXN of the same
term follows them without a gap; any other entry voids them.  Parts stay encoded
until their TXN is there, so an unfinished transaction costs no more memory
than its records, and is never looked into.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from paceline.core.entry import Entry, EntryKind
from paceline.engines.sqlite.formats.page import PageDelta, decode
from paceline.errors import BadEntry
from paceline.ids import Index

__all__ = ["Forward", "backward"]


class Forward:
    """Iterates over the deltas of whole transactions, oldest first.

    ``first_index`` is that of the first entry of the last transaction handed out, None before any.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = entries
        self.first_index: Index | None = None

    def __iter__(self) -> Iterator[PageDelta]:
        parts: list[Entry] = []
        for entry in self._entries:
            if entry.kind not in (EntryKind.TXN, EntryKind.TXN_PART):
                parts.clear()
                continue
            if parts and not _continues(parts[-1], entry):
                parts.clear()
            parts.append(entry)
            if entry.kind is EntryKind.TXN:
                self.first_index = parts[0].index
                yield from map(_decode, parts)
                parts.clear()
        assert not parts, "entries to apply end at a transaction's end"


def backward(entries: Iterable[Entry]) -> Iterator[PageDelta]:
    """Deltas to take back, for entries given newest first; parts without their TXN never were applied."""
    newer: Entry | None = None
    for entry in entries:
        if entry.kind is EntryKind.TXN or (
            entry.kind is EntryKind.TXN_PART and newer is not None and _continues(entry, newer)
        ):
            newer = entry
            yield _decode(entry)
        else:
            newer = None


def _continues(older: Entry, newer: Entry) -> bool:
    return newer.index == older.index + 1 and newer.term == older.term


def _decode(entry: Entry) -> PageDelta:
    delta = decode(entry.body, entry.flags)
    if delta.last != (entry.kind is EntryKind.TXN):
        raise BadEntry(f"entry {entry.position.short}: its kind contradicts its body")
    return delta
