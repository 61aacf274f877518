"""The file port: everything durable outside SQLite's own files goes through it.

Production uses :class:`RealFiles`; the simulator gives an implementation whose
crashes drop, tear and reorder whatever was not synced.  Code that uses the
port states its own ordering: nothing is durable before ``File.sync`` (data) or
``Files.sync_dir`` (create, rename, unlink) has returned.

A failed write or sync is final (the kernel may have dropped the data): the
caller must treat the file as lost and stop, never retry.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from typing import Protocol, TypeVar

__all__ = ["File", "Files", "RealFiles", "Steps", "descriptor_of", "perform", "write_atomic"]

T = TypeVar("T")
Steps = Generator["File", None, T]
"""Work that hands out a file when it must be synced, and goes on when it has been; a failure is thrown in."""
_IOV_MAX = 512


class File(Protocol):
    """An open file.  Offsets and sizes are bytes."""

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end of the file."""
        ...

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
        """Write all of ``buffers`` one after the other from ``offset``, or raise ``OSError``."""
        ...

    def truncate(self, size: int) -> None: ...

    def sync(self) -> None:
        """Make the data written so far durable (fdatasync)."""
        ...

    def size(self) -> int: ...

    def close(self) -> None: ...


class Files(Protocol):
    """Paths are absolute strings.  All raise ``OSError`` as the system does."""

    def open(self, path: str, *, create: bool = False) -> File: ...

    def exists(self, path: str) -> bool: ...

    def listdir(self, path: str) -> list[str]:
        """Names, sorted."""
        ...

    def mkdir(self, path: str) -> None:
        """Make the directory and its parents; fine when it is there."""
        ...

    def rename(self, source: str, target: str) -> None: ...

    def unlink(self, path: str) -> None: ...

    def sync_dir(self, path: str) -> None: ...

    def free_bytes(self, path: str) -> int:
        """Space left for this process on the file system of ``path``."""
        ...


def write_atomic(files: Files, path: str, data: bytes) -> None:
    """Replace ``path`` by ``data`` so that a crash leaves the old or the new file, whole."""
    scratch = path + ".new"
    file = files.open(scratch, create=True)
    try:
        file.truncate(0)
        file.pwritev([data], 0)
        file.sync()
    finally:
        file.close()
    files.rename(scratch, path)
    files.sync_dir(os.path.dirname(path))


def perform(steps: Steps[T]) -> T:
    """Run to the end, syncing in place."""
    try:
        file = next(steps)
        while True:
            try:
                file.sync()
            except BaseException as error:
                file = steps.throw(error)
            else:
                file = next(steps)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def descriptor_of(file: File) -> int | None:
    """The operating system's number of an open file; None when it is not one of the system's."""
    return file.descriptor if isinstance(file, _RealFile) else None


class _RealFile:
    def __init__(self, fd: int) -> None:
        self.descriptor = fd

    def pread(self, size: int, offset: int) -> bytes:
        data = os.pread(self.descriptor, size, offset)
        while data and len(data) < size:
            more = os.pread(self.descriptor, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
        for start in range(0, len(buffers), _IOV_MAX):
            batch = buffers[start : start + _IOV_MAX]
            total = sum(map(len, batch))
            written = os.pwritev(self.descriptor, batch, offset)
            if written < total:
                rest = memoryview(b"".join(batch))[written:]
                while rest:
                    count = os.pwrite(self.descriptor, rest, offset + total - len(rest))
                    rest = rest[count:]
            offset += total

    def truncate(self, size: int) -> None:
        os.ftruncate(self.descriptor, size)

    def sync(self) -> None:
        os.fdatasync(self.descriptor)

    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class RealFiles:
    """The operating system's files."""

    def open(self, path: str, *, create: bool = False) -> File:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return _RealFile(os.open(path, flags, 0o644))

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def mkdir(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def sync_dir(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, path: str) -> int:
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize
