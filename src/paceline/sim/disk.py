"""A disk that forgets: the ``Files`` port in memory, with every legal outcome of a power cut.

The model.  Each file has *durable* bytes, *visible* bytes and the list of
changes between the two (writes, truncations); each directory has the list of
creations, renames and unlinks that were not synced.  ``File.sync`` makes a
file's content durable and ``sync_dir`` a directory's names; neither does the
other's work.  A crash keeps, as its mode says:

    none      nothing that was not synced
    all       everything
    prefix    of each file and directory the first so many changes, the last write torn
    subset    any of the changes, in order; of a write any of its 512-byte sectors,
              its new size with or without its data

A sector is written whole or not at all; what a file gained and never wrote is
zero.  Directories themselves are durable when made.

Faults: a sync may fail (its changes are then *dropped* from what can become
durable, and the next sync succeeds: what kernels do), a quota may be reached
in the middle of a write, bits may rot, a read may return a flipped bit once.

``crash_at_op(n)`` cuts the power at the n-th changing operation from now, which
itself may be kept or lost; a loop over n meets every crash point.  After a
crash or a kill, files and mounts of the earlier boot raise :class:`PowerCut`.
Everything is drawn from the given random source: equal seeds, equal crashes.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from paceline.files import File, Files
from paceline.sim.crashmodel import (
    CRASH_MODES,
    CrashMode,
    Inode,
    Link,
    NameChange,
    Names,
    Truncate,
    Unlink,
    Write,
    apply,
    apply_name,
    settle,
    survivors,
)

__all__ = ["CRASH_MODES", "CrashMode", "DiskOptions", "PowerCut", "SimDisk"]

Op = Literal["open", "write", "truncate", "sync", "rename", "unlink", "sync_dir", "read"]


class PowerCut(BaseException):
    """The machine is gone.  Not an ``Exception``: no handler of the code under test may survive it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOptions:
    quota_bytes: int | None = None
    sector_bytes: int = 512


@dataclass(slots=True)
class _Fault:
    op: Op
    error: int | None
    suffix: str
    skip: int


class SimDisk:
    """See the module docstring.  Also a ``Files`` itself, for code that needs no guard between boots."""

    def __init__(self, rng: random.Random, *, options: DiskOptions | None = None) -> None:
        self.rng = rng
        self.options = options or DiskOptions()
        self.ops = 0
        """Changing operations so far."""
        self.boot = 0
        self._names: Names = {}
        self._durable_names: Names = {}
        self._name_changes: dict[str, list[NameChange]] = {}
        self._directories: set[str] = {"/"}
        self._faults: list[_Fault] = []
        self._cut_at: int | None = None
        self._dark = False

    # What a test does to the disk.

    def mount(self) -> Files:
        """A view that dies with the present boot: give one to each incarnation of a node."""
        return _Mount(self)

    def crash_at_op(self, n: int) -> None:
        """Cut the power at the ``n``-th changing operation from now (the first is 1)."""
        self._cut_at = self.ops + n

    def crash(self, mode: CrashMode) -> None:
        """Lose the power: what remains is one legal state; the next boot sees only that."""
        for inode in self._all_inodes():
            settle(inode, mode, self.rng, self.options.sector_bytes)
        for directory in sorted(self._name_changes):
            for change in survivors(self._name_changes[directory], mode, self.rng):
                apply_name(self._durable_names, change)
        self._name_changes = {}
        self._names = dict(self._durable_names)
        self._next_boot()

    def kill(self) -> None:
        """Only the process dies: everything visible stays so, and is no more durable than before."""
        self._next_boot()

    def snapshot(self, rng: random.Random) -> SimDisk:
        """A copy with its own future; the boot goes on in neither's files of the other."""
        twin = SimDisk(rng, options=self.options)
        copies = {
            id(inode): Inode(bytearray(inode.durable), bytearray(inode.visible), list(inode.pending))
            for inode in self._all_inodes()
        }
        twin._names = {path: copies[id(inode)] for path, inode in self._names.items()}
        twin._durable_names = {path: copies[id(inode)] for path, inode in self._durable_names.items()}
        twin._name_changes = {
            directory: [
                Link(change.path, copies[id(change.inode)], change.source)
                if isinstance(change, Link)
                else change
                for change in changes
            ]
            for directory, changes in self._name_changes.items()
        }
        twin._directories = set(self._directories)
        twin.ops, twin.boot, twin._dark = self.ops, self.boot, self._dark
        return twin

    def fail(self, op: Op, error: int | None, *, suffix: str = "", skip: int = 0) -> None:
        """Let the next ``op`` on a path ending in ``suffix`` fail with ``error``, after ``skip`` good ones.

        For ``read`` with ``error`` None one bit of the answer is flipped instead.
        """
        self._faults.append(_Fault(op, error, suffix, skip))

    def calm(self) -> None:
        """No fault or power cut is waiting any more."""
        self._faults.clear()
        if not self._dark:
            self._cut_at = None

    def flip_bit(self, path: str, offset: int, bit: int) -> None:
        """Rot on the medium."""
        inode = self._inode(path)
        for data in (inode.durable, inode.visible):
            if offset < len(data):
                data[offset] ^= 1 << bit

    def read_file(self, path: str) -> bytes:
        """What is visible, for a test to look at."""
        return bytes(self._inode(path).visible)

    def durable_file(self, path: str) -> bytes:
        """What a power cut would leave of a file if nothing unsynced survived."""
        inode = self._durable_names.get(path)
        return bytes(inode.durable) if inode is not None else b""

    def durable_files(self, directory: str) -> dict[str, bytearray]:
        """The same for all files of a directory by name, in order (not copies: only look)."""
        prefix = directory + "/"
        paths = sorted(path for path in self._durable_names if path.startswith(prefix))
        return {path.removeprefix(prefix): self._durable_names[path].durable for path in paths}

    def visible_files(self, directory: str) -> dict[str, bytes]:
        """What is visible in a directory, by path, in order: for whoever lays it out elsewhere."""
        prefix = directory + "/"
        return {
            path: bytes(self._names[path].visible) for path in sorted(self._names) if path.startswith(prefix)
        }

    @property
    def dark(self) -> bool:
        """The power went at an operation, and whoever used the disk has not been told yet, or did not understand."""
        return self._dark

    def write_file(self, path: str, data: bytes) -> None:
        """Put a durable file there, as a test's starting point."""
        inode = Inode(bytearray(data), bytearray(data))
        self._names[path] = self._durable_names[path] = inode

    # The Files port.

    def open(self, path: str, *, create: bool = False) -> File:
        self._check("open", path)
        inode = self._names.get(path)
        if inode is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            self._need_directory(os.path.dirname(path))
            inode = Inode()
            self._change_name(Link(path, inode), os.path.dirname(path))
        return _SimFile(self, path, inode)

    def exists(self, path: str) -> bool:
        self._alive()
        return path in self._names or path in self._directories

    def listdir(self, path: str) -> list[str]:
        self._alive()
        self._need_directory(path)
        inside = [name for name in (*self._names, *self._directories) if os.path.dirname(name) == path]
        return sorted(os.path.basename(name) for name in inside if name != path)

    def mkdir(self, path: str) -> None:
        self._alive()
        while path not in self._directories:
            self._directories.add(path)
            path = os.path.dirname(path)

    def rename(self, source: str, target: str) -> None:
        self._check("rename", source)
        directory = os.path.dirname(target)
        assert os.path.dirname(source) == directory, "renames stay in their directory"
        self._change_name(Link(target, self._inode(source), source), directory)

    def unlink(self, path: str) -> None:
        self._check("unlink", path)
        self._inode(path)
        self._change_name(Unlink(path), os.path.dirname(path))

    def sync_dir(self, path: str) -> None:
        self._check("sync_dir", path)
        self._need_directory(path)
        self._count_op()
        for change in self._name_changes.pop(path, []):
            apply_name(self._durable_names, change)

    def free_bytes(self, path: str) -> int:
        self._alive()
        quota = self.options.quota_bytes
        return (1 << 50) if quota is None else max(0, quota - self.used_bytes)

    @property
    def used_bytes(self) -> int:
        return sum(len(inode.visible) for inode in self._names.values())

    # What files do.

    def _write(self, path: str, inode: Inode, data: bytes, offset: int) -> None:
        self._check("write", path)
        growth = offset + len(data) - len(inode.visible)
        room = self.free_bytes(path)
        if growth > room:
            part = data[: max(0, len(data) - (growth - room))]
            self._change(inode, Write(offset, part))
            raise OSError(errno.ENOSPC, "no space left on the simulated disk", path)
        self._change(inode, Write(offset, data))

    def _truncate(self, path: str, inode: Inode, size: int) -> None:
        self._check("truncate", path)
        self._change(inode, Truncate(size))

    def _sync(self, path: str, inode: Inode) -> None:
        try:
            self._check("sync", path)
        except OSError:
            inode.pending.clear()  # and what is visible stays visible
            raise
        self._count_op()
        for change in inode.pending:
            apply(inode.durable, change)
        inode.pending.clear()

    def _read(self, path: str, inode: Inode, size: int, offset: int) -> bytes:
        flip = self._check("read", path)
        data = bytearray(inode.visible[offset : offset + size])
        if flip and data:
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        return bytes(data)

    def _change(self, inode: Inode, change: Write | Truncate) -> None:
        apply(inode.visible, change)
        inode.pending.append(change)
        self._count_op()

    def _change_name(self, change: NameChange, directory: str) -> None:
        apply_name(self._names, change)
        self._name_changes.setdefault(directory, []).append(change)
        self._count_op()

    # Faults and crashes.

    def _alive(self) -> None:
        if self._dark:
            raise PowerCut("the power is off")

    def _count_op(self) -> None:
        """Called when the operation is under way: a change is pending already, a sync has not begun."""
        self.ops += 1
        if self.ops == self._cut_at:
            self._dark = True
            raise PowerCut(f"power cut at operation {self.ops}")

    def _check(self, op: Op, path: str) -> bool:
        """Raise if a fault waits for this operation; True when the read is to be flipped."""
        self._alive()
        for fault in self._faults:
            if fault.op == op and path.endswith(fault.suffix):
                if fault.skip:
                    fault.skip -= 1
                    continue
                self._faults.remove(fault)
                if fault.error is None:
                    return True
                raise OSError(fault.error, os.strerror(fault.error), path)
        return False

    def _next_boot(self) -> None:
        self.boot += 1
        self._cut_at, self._dark = None, False

    def _all_inodes(self) -> list[Inode]:
        """Each inode once, in an order that depends on nothing but history."""
        found: dict[int, Inode] = {}
        for names in (self._names, self._durable_names):
            found.update((id(inode), inode) for inode in names.values())
        for changes in self._name_changes.values():
            found.update((id(change.inode), change.inode) for change in changes if isinstance(change, Link))
        return list(found.values())

    def _inode(self, path: str) -> Inode:
        try:
            return self._names[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", path) from None

    def _need_directory(self, path: str) -> None:
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "no such directory", path)


class _SimFile:
    """An open file of one boot."""

    def __init__(self, disk: SimDisk, path: str, inode: Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._boot = disk.boot
        self._closed = False

    def _guard(self) -> None:
        if self._disk.boot != self._boot:
            raise PowerCut(f"{self._path} was opened before the crash")
        assert not self._closed, f"{self._path} is closed"
        self._disk._alive()

    def pread(self, size: int, offset: int) -> bytes:
        self._guard()
        return self._disk._read(self._path, self._inode, size, offset)

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
        self._guard()
        self._disk._write(self._path, self._inode, b"".join(buffers), offset)

    def truncate(self, size: int) -> None:
        self._guard()
        self._disk._truncate(self._path, self._inode, size)

    def sync(self) -> None:
        self._guard()
        self._disk._sync(self._path, self._inode)

    def size(self) -> int:
        self._guard()
        return len(self._inode.visible)

    def close(self) -> None:
        self._closed = True  # also after a crash: the kernel closed it


class _Mount:
    """The disk as one incarnation of a node sees it."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk_of_boot = disk
        self._boot = disk.boot

    @property
    def _disk(self) -> SimDisk:
        if self._disk_of_boot.boot != self._boot:
            raise PowerCut("mounted before the crash")
        return self._disk_of_boot

    def open(self, path: str, *, create: bool = False) -> File:
        return self._disk.open(path, create=create)

    def exists(self, path: str) -> bool:
        return self._disk.exists(path)

    def listdir(self, path: str) -> list[str]:
        return self._disk.listdir(path)

    def mkdir(self, path: str) -> None:
        self._disk.mkdir(path)

    def rename(self, source: str, target: str) -> None:
        self._disk.rename(source, target)

    def unlink(self, path: str) -> None:
        self._disk.unlink(path)

    def sync_dir(self, path: str) -> None:
        self._disk.sync_dir(path)

    def free_bytes(self, path: str) -> int:
        return self._disk.free_bytes(path)
