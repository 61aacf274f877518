"""A place in the history of one write-ahead log: where capture stands.

Frame numbers mean nothing without the salts, which change whenever SQLite
starts the log afresh.  The mark also carries what is needed to go on from it
after a crash: the size of the database, SQLite's count of commits (so that
commits which somebody else checkpointed away are noticed) and the checksum of
the frame (so that a log that only looks the same is noticed).

It is kept in the node's log as opaque bytes:

    offset size field (little endian)
    0      8    salts, as they stand in ``-wal``
    8      4    frame (0: before the first)
    12     4    pages of the database
    16     4    SQLite's commit counter
    20     8    running checksum after the frame (zero when the frame is 0)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from paceline.engines.sqlite.walformat import IndexHeader
from paceline.errors import Corruption

__all__ = ["Mark"]

_MARK: Final = struct.Struct("<8sIIIII")


@dataclass(frozen=True, slots=True)
class Mark:
    """See the module docstring; ``decode(encode())`` is the identity."""

    salts: bytes
    frame: int
    page_count: int
    change: int
    checksum: tuple[int, int]

    @classmethod
    def at(cls, header: IndexHeader, page_count: int) -> Mark:
        """Everything that ``header`` shows is behind this mark; the database had ``page_count`` pages."""
        checksum = header.checksum if header.frames else (0, 0)
        return cls(header.salts, header.frames, page_count, header.change, checksum)

    def encode(self) -> bytes:
        return _MARK.pack(self.salts, self.frame, self.page_count, self.change, *self.checksum)

    @classmethod
    def decode(cls, raw: bytes) -> Mark:
        """Raises :class:`Corruption` on anything but a mark."""
        if len(raw) != _MARK.size:
            raise Corruption(f"a capture mark has {_MARK.size} bytes, not {len(raw)}")
        salts, frame, pages, change, c0, c1 = _MARK.unpack(raw)
        return cls(salts, frame, pages, change, (c0, c1))
