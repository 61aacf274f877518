"""From log entries to page deltas, in both directions.

Only TXN and TXN_PART touch the database.  Parts count when the TXN of the same
term follows them without a gap; any other entry voids them.  So parts wait, encoded,
until their TXN is there.  A transaction too large to wait in memory is handed out as it
comes: whoever gives its entries has seen that its TXN follows (the log knows all
kinds); should it not, the error ends the apply before anything was published.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from paceline.core.entry import Entry, EntryKind
from paceline.engines.sqlite.formats.page import PageDelta, decode
from paceline.errors import BadEntry
from paceline.ids import Index
from paceline.limits import APPLY_BYTES_MAX

__all__ = ["Forward", "backward"]

_KINDS = (EntryKind.TXN, EntryKind.TXN_PART)


class Forward:
    """Iterates over the deltas of whole transactions, oldest first.

    ``first_index`` is that of the first entry of the last transaction handed out, None before any.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = entries
        self.first_index: Index | None = None

    def __iter__(self) -> Iterator[PageDelta]:
        parts: list[Entry] = []
        held_bytes, streamed = 0, None
        for entry in self._entries:
            if streamed is not None:
                if entry.kind not in _KINDS or not _continues(streamed, entry):
                    raise BadEntry(f"the transaction at entry {self.first_index} has no end")
                yield _decode(entry)
                streamed = entry if entry.kind is EntryKind.TXN_PART else None
                continue
            if entry.kind not in _KINDS or (parts and not _continues(parts[-1], entry)):
                parts.clear()
                held_bytes = 0
            if entry.kind not in _KINDS:
                continue
            parts.append(entry)
            held_bytes += len(entry.body)
            if entry.kind is EntryKind.TXN or held_bytes > APPLY_BYTES_MAX:
                self.first_index = parts[0].index
                yield from map(_decode, parts)
                streamed = entry if entry.kind is EntryKind.TXN_PART else None
                parts.clear()
                held_bytes = 0
        assert not parts and streamed is None, "entries to apply end at a transaction's end"


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
