"""What a power cut may leave of changes that were not synced.  Pure, but for the given random source.

The rules are those in ``disk.py``'s docstring; this file knows no paths' meaning,
no faults and no boots.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

__all__ = [
    "CRASH_MODES",
    "CrashMode",
    "Inode",
    "Link",
    "NameChange",
    "Names",
    "Truncate",
    "Unlink",
    "Write",
    "apply",
    "apply_name",
    "settle",
    "survivors",
]

CrashMode = Literal["none", "all", "prefix", "subset"]
CRASH_MODES: Final[tuple[CrashMode, ...]] = ("none", "all", "prefix", "subset")


@dataclass(frozen=True, slots=True)
class Write:
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    size: int


@dataclass(eq=False, slots=True)
class Inode:
    durable: bytearray = field(default_factory=bytearray)
    visible: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncate] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Link:
    """The name ``path`` came to mean ``inode``; ``source`` is the name that a rename took away."""

    path: str
    inode: Inode
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Unlink:
    path: str


_T = TypeVar("_T")
Names = dict[str, Inode]
NameChange = Link | Unlink


def apply(data: bytearray, change: Write | Truncate) -> None:
    if isinstance(change, Truncate):
        if change.size < len(data):
            del data[change.size :]
        else:
            data.extend(bytes(change.size - len(data)))
    else:
        end = change.offset + len(change.data)
        if end > len(data):
            data.extend(bytes(end - len(data)))
        data[change.offset : end] = change.data


def apply_name(names: Names, change: NameChange) -> None:
    if isinstance(change, Unlink):
        names.pop(change.path, None)
        return
    if change.source is not None and names.get(change.source) is change.inode:
        del names[change.source]
    names[change.path] = change.inode


def survivors(changes: Sequence[_T], mode: CrashMode, rng: random.Random) -> list[_T]:
    """Which of the pending changes the crash keeps, in their order."""
    match mode:
        case "none":
            return []
        case "all":
            return list(changes)
        case "prefix":
            return list(changes[: rng.randint(0, len(changes))])
        case "subset":
            return [change for change in changes if rng.random() < 0.6]


def settle(inode: Inode, mode: CrashMode, rng: random.Random, sector_bytes: int) -> None:
    """Make the file what the crash leaves of it."""
    kept = survivors(inode.pending, mode, rng)
    for number, change in enumerate(kept):
        torn = mode == "subset" or (mode == "prefix" and number == len(kept) - 1)
        if isinstance(change, Write) and torn:
            _tear(inode.durable, change, mode, rng, sector_bytes)
        else:
            apply(inode.durable, change)
    inode.pending.clear()
    inode.visible = bytearray(inode.durable)


def _tear(data: bytearray, write: Write, mode: CrashMode, rng: random.Random, sector_bytes: int) -> None:
    """Keep some sectors of the write: the first so many, or any; perhaps with the whole new size."""
    sectors = _sectors(write, sector_bytes)
    if mode == "prefix":
        sectors = sectors[: rng.randint(0, len(sectors))]
    else:
        share = rng.choice((0.0, 0.5, 0.9, 1.0))
        sectors = [sector for sector in sectors if rng.random() < share]
    if rng.random() < 0.5:
        data.extend(bytes(max(0, write.offset + len(write.data) - len(data))))
    for sector in sectors:
        apply(data, sector)


def _sectors(write: Write, sector_bytes: int) -> list[Write]:
    pieces, start, end = [], write.offset, write.offset + len(write.data)
    while start < end:
        stop = min(end, start - start % sector_bytes + sector_bytes)
        pieces.append(Write(start, write.data[start - write.offset : stop - write.offset]))
        start = stop
    return pieces
