"""Plain descriptors on SQLite's files, which must not be closed while SQLite has them open.

POSIX gives a file's record locks to the process, not to the descriptor: when a
process closes *any* descriptor of a file, all its locks on that file vanish,
SQLite's among them, and another process gets the write lock.  So this registry
hands out one descriptor for each file and never closes it; ``forget`` does,
and is called only when no connection of this process has the database open.

A file that was replaced (other inode) gets a new descriptor; the old one is
kept until ``forget``, because a connection may still have the old file open.
"""

from __future__ import annotations

import os
import threading

from paceline.engines.sqlite.walformat import is_page_size
from paceline.errors import Corruption

__all__ = ["descriptor", "file_shape", "forget", "pread_all", "pwrite_all", "sync"]

_lock = threading.Lock()
_open: dict[str, list[tuple[int, int, int]]] = {}
"""Path -> (descriptor, device, inode), the newest last."""

SUFFIXES = ("", "-wal", "-shm")


def descriptor(path: str) -> int:
    """The descriptor of the file that ``path`` names now; ``OSError`` when there is none."""
    path = os.path.abspath(path)
    with _lock:
        known = _open.setdefault(path, [])
        now = os.stat(path)
        if known and known[-1][1:] == (now.st_dev, now.st_ino):
            return known[-1][0]
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        stat = os.fstat(fd)
        known.append((fd, stat.st_dev, stat.st_ino))
        return fd


def forget(database: str) -> None:
    """Close what is open on ``database``, its ``-wal`` and its ``-shm``.

    Only when no SQLite connection of this process has the database open.
    """
    database = os.path.abspath(database)
    with _lock:
        for suffix in SUFFIXES:
            for fd, _, _ in _open.pop(database + suffix, []):
                os.close(fd)


def pread_all(fd: int, size: int, offset: int) -> bytes:
    """``size`` bytes from ``offset``; fewer only at the end of the file."""
    data = os.pread(fd, size, offset)
    while data and len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def pwrite_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` or raise ``OSError``."""
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, memoryview(data)[written:], offset + written)


def sync(fd: int) -> None:
    """Make what was written durable (fdatasync)."""
    os.fdatasync(fd)


def file_shape(database: str) -> tuple[int, int]:
    """Page size and page count of the database file itself, whatever its log holds."""
    fd = descriptor(database)
    raw = pread_all(fd, 18, 0)
    size = int.from_bytes(raw[16:18], "big")
    page_size = 65536 if size == 1 else size
    if raw[:16] != b"SQLite format 3\0" or not is_page_size(page_size):
        raise Corruption(
            f"{database} is not a SQLite database", hint="restore it from a snapshot or a backup"
        )
    return page_size, os.fstat(fd).st_size // page_size
