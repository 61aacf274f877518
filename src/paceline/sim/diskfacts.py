"""What a disk would still have if the power went now and nothing unsynced survived.

The checkers ask here, never the node: an acknowledgement is right when the *disks* hold the entry.
"""

from __future__ import annotations

import struct
from typing import Final

from paceline.log.segment import first_index_of
from paceline.sim.disk import SimDisk

__all__ = ["begins_after", "durable_vote", "holds"]

_SLOT: Final = struct.Struct(">8sHHIQQQ40s")


def holds(disk: SimDisk, directory: str, record: bytes) -> bool:
    """Whether some file of the directory durably contains this record (newest file first)."""
    files = disk.durable_files(directory)
    return any(data.find(record) >= 0 for data in reversed(files.values()))


def begins_after(disk: SimDisk, directory: str, index: int) -> bool:
    """Whether the log begins behind ``index``: what came before is in the database."""
    firsts = [first for name in disk.durable_files(directory) if (first := first_index_of(name)) is not None]
    return bool(firsts) and min(firsts) > index


def durable_vote(disk: SimDisk, path: str) -> tuple[int, str | None]:
    """(term, voted for) that this disk would give back: the better one of the two slots."""
    data = disk.durable_file(path)
    best: tuple[int, int, str | None] = (0, 0, None)
    if not data:
        return 0, None
    for at in (0, 4096):
        _, _, length, _, sequence, term, _, name = _SLOT.unpack_from(data, at)
        voted = name[:length].decode() if length else None
        best = max(best, (sequence, term, voted), key=lambda slot: slot[0])
    return best[1], best[2]
