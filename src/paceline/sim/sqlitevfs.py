"""SQLite and the engine's own writes on a ``Workplace``: a VFS in front of ``unix``, and three replaced functions.

The VFS only looks at what changes a file (write, cut, sync, delete); reads, locks and shared memory are those of
``unix``.  What the engine writes behind SQLite's back goes through ``plainfile``, whose write and sync are
replaced where they are used.  For the length of a run, because a VFS and a module belong to the whole process.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

import apsw

from paceline.engines.sqlite import plainfile
from paceline.sim.disk import PowerCut
from paceline.sim.options import SqliteOptions
from paceline.sim.workplace import Workplace

__all__ = ["Machine"]

_ENGINE: Final = "paceline.engines.sqlite"


class Machine:
    """All workplaces of a run, and how SQLite and the engine get to them."""

    def __init__(self) -> None:
        self._places: dict[str, Workplace] = {}

    def add(self, place: Workplace) -> None:
        self._places[place.directory] = place

    def place_of(self, path: str | None) -> Workplace | None:
        """Whose file this is; None for a temporary file, or one that is real only."""
        place = self._places.get(os.path.dirname(path)) if path else None
        return place if place is not None and path and place.keeps(path) else None

    @contextmanager
    def running(self, options: SqliteOptions) -> Iterator[None]:
        """Every connection that is opened meanwhile is on this machine; the engine's limits are the seed's."""
        vfs = _Vfs(self)
        replaced = {
            "walwriter.pwrite_all": self._pwrite_all,
            "walwriter.sync": self._sync,
            "capture.PART_RAW_BYTES": options.part_raw_bytes,
            "applier.APPLY_PAGES_MAX": options.apply_pages_max,
            "engine.CHECKPOINT_FRAMES": options.checkpoint_frames,
            "engine._RETRY_FRAMES": options.checkpoint_frames // 4,
        }
        try:
            with ExitStack() as stack:
                for name, value in replaced.items():
                    stack.enter_context(patch(f"{_ENGINE}.{name}", value))
                yield
        finally:
            vfs.unregister()

    def _pwrite_all(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        place, path = self._of_descriptor(fd)
        place.wrote(path, bytes(data), offset)
        plainfile.pwrite_all(fd, data, offset)
        place.touch(path)

    def _sync(self, fd: int) -> None:
        place, path = self._of_descriptor(fd)
        place.sync(path, directory=False)

    def _of_descriptor(self, fd: int) -> tuple[Workplace, str]:
        path = os.readlink(f"/proc/self/fd/{fd}")
        place = self.place_of(path)
        if place is None:
            raise PowerCut(f"{path} is a file of a process that is gone")
        return place, path


class _Vfs(apsw.VFS):
    def __init__(self, machine: Machine) -> None:
        super().__init__("paceline-sim", "unix", makedefault=True)
        self._machine = machine

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        place = self._machine.place_of(path)
        if place is None:
            return apsw.VFSFile("unix", name, flags)
        if flags[0] & apsw.SQLITE_OPEN_CREATE and not os.path.exists(path):
            place.create(path)
        return _File(name, path, flags, place)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        place = self._machine.place_of(filename)
        if place is not None:
            place.unlinked(filename, directory=syncdir)
        super().xDelete(filename, False)


class _File(apsw.VFSFile):
    def __init__(self, name: Any, path: str, flags: list[int], place: Workplace) -> None:
        super().__init__("unix", name, flags)
        self._path = path
        self._place = place
        # The first sync of a log or journal that was opened to be made syncs its directory too: what ``unix`` does.
        self._syncs_name = bool(flags[0] & apsw.SQLITE_OPEN_CREATE) and not (
            flags[0] & apsw.SQLITE_OPEN_MAIN_DB
        )

    def xWrite(self, data: bytes, offset: int) -> None:
        try:
            self._place.wrote(self._path, data, offset)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise apsw.exception_for(apsw.SQLITE_FULL if full else apsw.SQLITE_IOERR_WRITE) from error
        super().xWrite(data, offset)
        self._place.touch(self._path)

    def xTruncate(self, newsize: int) -> None:
        self._place.truncated(self._path, newsize)
        super().xTruncate(newsize)
        self._place.touch(self._path)

    def xSync(self, flags: int) -> None:
        try:
            self._place.sync(self._path, directory=self._syncs_name)
        except OSError as error:
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC) from error
        self._syncs_name = False
