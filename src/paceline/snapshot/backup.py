"""Receiving into one plain file, for ``paceline backup FILE``.

The image grows in ``FILE.partial`` and gets its name only when it is whole,
durable and has the sender's digest.  A backup that breaks goes on where it was
when it is started again.  An existing FILE is never overwritten.
"""

from __future__ import annotations

import os

from paceline.errors import UsageError
from paceline.files import Files
from paceline.snapshot.imagefile import ImageFile
from paceline.snapshot.messages import SNAPSHOT_VERSION, SnapshotRequest

__all__ = ["BackupFile"]


class BackupFile:
    def __init__(self, files: Files, path: str, *, companions: tuple[str, ...]) -> None:
        """``companions``: as in ``Layout``; they would spoil the file that is placed beside them."""
        for name in (path, *(path + suffix for suffix in companions)):
            if files.exists(name):
                raise UsageError(f"{name} exists", hint="choose another file; a backup overwrites nothing")
        if not files.exists(os.path.dirname(path)):
            raise UsageError(f"there is no directory {os.path.dirname(path)}")
        self._files = files
        self.path = path
        self.target = ImageFile(files, path + ".partial")

    def request(self) -> SnapshotRequest:
        return SnapshotRequest(SNAPSHOT_VERSION, "backup", None, 0, 0)

    def publish(self) -> None:
        """Give the finished image its name.  Blocking."""
        self.target.close()
        self._files.rename(self.target.path, self.path)
        self._files.sync_dir(os.path.dirname(self.path))

    def close(self) -> None:
        self.target.close()
