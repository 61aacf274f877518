"""A real directory in which one simulated node's SQLite works, while the simulated disk decides what survives.

SQLite needs real files: it locks them, and the engine maps its index and reads frames behind its back.  So every
change of a database's files goes to the ``SimDisk`` first (which counts it, refuses it, makes it durable at a sync,
loses or tears it in a crash) and then to the real file.  While a process lives both are the same bytes; when it
dies its real files go, and the next start lays out what the simulated disk has.  ``-shm`` is the exception: it is
real only, and gone with the process.

Time of change: the engine compares a file's mtime with its note, so it is part of the simulation.  It counts changes,
and a power cut that took bytes from the file takes it back to the last sync.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import apsw

from paceline.engines.sqlite import plainfile
from paceline.files import File, Files
from paceline.sim.disk import PowerCut, SimDisk
from paceline.sim.strands import pause

__all__ = ["PlaceFiles", "Workplace"]

_EPOCH_NS: Final = 1_700_000_000_000_000_000


class Workplace:
    """``directory`` of one node; outlives the incarnations of its process.

    ``sync_us`` draws how long a sync takes.
    """

    def __init__(self, disk: SimDisk, directory: str, sync_us: Callable[[], int]) -> None:
        self.directory = directory
        self._disk = disk
        self._sync_us = sync_us
        self._files: Files = disk.mount()
        self._open: dict[str, File] = {}
        self._alive = False
        self._changes = 0
        self._changed: dict[str, int] = {}
        self._durably_changed: dict[str, int] = {}

    # -- life and death ---------------------------------------------------------------------

    def begin(self) -> None:
        """A process starts: lay out the files that the simulated disk has."""
        self._files = self._disk.mount()
        self._alive = True
        os.makedirs(self.directory, exist_ok=True)
        for path, data in self._disk.visible_files(self.directory).items():
            if self.keeps(path):
                with open(path, "wb") as file:
                    file.write(data)
                self._stamp(path, self._changed.get(path, 0))

    def stop(self) -> None:
        """The process dies now: what it still tries is refused."""
        self._alive = False

    def clear(self, before: dict[str, bytes]) -> None:
        """It is dead and the simulated disk has settled; ``before`` is what was visible until then."""
        self.stop()
        for connection in self._connections():
            with suppress(apsw.Error, PowerCut):
                connection.close(True)
        self._open.clear()
        plainfile.forget(os.path.join(self.directory, "main.db"))
        if os.path.isdir(self.directory):
            for name in os.listdir(self.directory):
                os.unlink(os.path.join(self.directory, name))
        now = self._disk.visible_files(self.directory)
        for path in list(self._changed):
            if now.get(path) != before.get(path):
                self._changed[path] = self._durably_changed.get(path, 0)

    def _connections(self) -> list[apsw.Connection]:
        """Those of the dead process.  Who is busy belongs to another one, suspended in a sync."""
        found = []
        for connection in apsw.connections():
            with suppress(apsw.ThreadingViolationError):
                if os.path.dirname(connection.filename) == self.directory:
                    found.append(connection)
        return found

    def visible(self) -> dict[str, bytes]:
        return self._disk.visible_files(self.directory)

    def keeps(self, path: str) -> bool:
        """Whether this file exists here and on the simulated disk: the database and what belongs to it."""
        directory, name = os.path.split(path)
        return directory == self.directory and name.startswith("main.db") and not name.endswith("-shm")

    # -- what is done to a file -----------------------------------------------------------------

    def create(self, path: str) -> None:
        self._file(path, create=True)

    def wrote(self, path: str, data: bytes, offset: int) -> None:
        """Before the real write; ``OSError`` when the simulated disk refuses it."""
        self._file(path).pwritev([data], offset)

    def truncated(self, path: str, size: int) -> None:
        self._file(path).truncate(size)

    def sync(self, path: str, *, directory: bool) -> None:
        """``directory``: the file's name too."""
        self._check()
        pause(self._sync_us())
        self._file(path).sync()
        self._durably_changed[path] = self._changed.get(path, 0)
        if directory:
            self._files.sync_dir(self.directory)

    def touch(self, path: str) -> None:
        """After the real write."""
        if path.endswith("main.db"):
            self._changes += 1
            self._changed[path] = self._changes
            self._stamp(path, self._changes)

    def unlinked(self, path: str, *, directory: bool) -> None:
        self._check()
        self._open.pop(path, None)
        if self._files.exists(path):
            self._files.unlink(path)
        if directory:
            self._files.sync_dir(self.directory)

    def renamed(self, source: str, target: str) -> None:
        """Open files of both names are other files from now on."""
        self._open.pop(source, None)
        self._open.pop(target, None)
        self.touch(target)

    def _stamp(self, path: str, changes: int) -> None:
        if path.endswith("main.db"):
            os.utime(path, ns=(_EPOCH_NS + changes, _EPOCH_NS + changes))

    def _check(self) -> None:
        if not self._alive:
            raise PowerCut("the process is gone")

    def _file(self, path: str, *, create: bool = False) -> File:
        self._check()
        file = self._open.get(path)
        if file is None:
            file = self._open[path] = self._files.open(path, create=create)
        return file


class PlaceFiles:
    """The process's ``Files``, with the files that ``place`` keeps in both worlds."""

    def __init__(self, inner: Files, place: Workplace) -> None:
        self._inner = inner
        self._place = place
        self.sync_dir = inner.sync_dir
        self.free_bytes = inner.free_bytes

    def open(self, path: str, *, create: bool = False) -> File:
        file = self._inner.open(path, create=create)
        if not self._place.keeps(path):
            return file
        if create and not os.path.exists(path):
            with open(path, "wb"):
                pass
        return _TwinFile(file, path, self._place)

    def exists(self, path: str) -> bool:
        return self._inner.exists(path) or (self._beside(path) and os.path.exists(path))

    def listdir(self, path: str) -> list[str]:
        names = set(self._inner.listdir(path))
        if path == self._place.directory:
            names.update(os.listdir(path))
        return sorted(names)

    def mkdir(self, path: str) -> None:
        self._inner.mkdir(path)
        if path == self._place.directory:
            os.makedirs(path, exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        self._inner.rename(source, target)
        if self._place.keeps(source):
            os.rename(source, target)
            self._place.renamed(source, target)

    def unlink(self, path: str) -> None:
        if self._place.keeps(path):
            self._place.unlinked(path, directory=False)
            os.unlink(path)
        elif self._beside(path):
            os.unlink(path)
        else:
            self._inner.unlink(path)

    def _beside(self, path: str) -> bool:
        """The index of a write-ahead log, which is real only."""
        return os.path.dirname(path) == self._place.directory and path.endswith("-shm")


class _TwinFile:
    """A file opened through ``Files``: read from the simulated disk, written to both."""

    def __init__(self, file: File, path: str, place: Workplace) -> None:
        self._file = file
        self._path = path
        self._place = place
        self.pread = file.pread
        self.sync = file.sync
        self.size = file.size
        self.close = file.close

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
        data = b"".join(buffers)
        self._file.pwritev([data], offset)
        with open(self._path, "r+b", buffering=0) as real:
            real.seek(offset)
            real.write(data)
        self._place.touch(self._path)

    def truncate(self, size: int) -> None:
        self._file.truncate(size)
        os.truncate(self._path, size)
        self._place.touch(self._path)
