"""A process's view of its simulated disk: a sync takes time when it happens on a lane.

The data becomes durable at the *end* of that time; a process that dies within it has synced nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from paceline.files import File, Files
from paceline.sim.strands import pause

__all__ = ["LaneFiles"]


class _LaneFile:
    def __init__(self, file: File, sync_us: Callable[[], int]) -> None:
        self._file = file
        self._sync_us = sync_us
        self.pread = file.pread
        self.pwritev = file.pwritev
        self.truncate = file.truncate
        self.size = file.size
        self.close = file.close

    def sync(self) -> None:
        pause(self._sync_us())
        self._file.sync()


class LaneFiles:
    """``Files`` over a mount; ``sync_us`` draws how long a sync takes."""

    def __init__(self, mount: Files, sync_us: Callable[[], int]) -> None:
        self._mount = mount
        self._sync_us = sync_us
        self.exists = mount.exists
        self.listdir = mount.listdir
        self.mkdir = mount.mkdir
        self.rename = mount.rename
        self.unlink = mount.unlink
        self.free_bytes = mount.free_bytes

    def open(self, path: str, *, create: bool = False) -> File:
        return _LaneFile(self._mount.open(path, create=create), self._sync_us)

    def sync_dir(self, path: str) -> None:
        pause(self._sync_us())
        self._mount.sync_dir(path)
