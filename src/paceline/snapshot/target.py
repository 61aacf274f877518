"""Where a receiver puts an image: the contract, and what both kinds of target share.

A target answers for what it holds *now*, from the bytes themselves, never from
memory of a former session: so any half of any older image is a valid start,
and every byte is compared before it counts.  ``ImageFile`` builds a whole new
file; ``UnitsFile`` collects what differs from a database that stays in place.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from paceline.engines.base import UnitsDigest
from paceline.errors import DiskFull
from paceline.files import File, Files
from paceline.snapshot.shape import Range, Shape

__all__ = ["Target", "digest_of", "no_space", "space_guard", "sync_or_discard"]


class Target(Protocol):
    """Blocking; one thread at a time."""

    def begin(self, shape: Shape) -> None:
        """Prepare for an image of this shape, keeping what is here; raises ``DiskFull`` in time."""
        ...

    def hashes(self, part: Range) -> bytes:
        """``unit_hash`` of each unit that stands here, zeros for a missing one; empty: all are missing."""
        ...

    def write(self, units: Sequence[tuple[int, bytes]]) -> None:
        """Take units of one range, in ascending order."""
        ...

    def finish(self) -> None:
        """Make exactly the image of ``begin`` durable."""
        ...

    def close(self) -> None: ...


def digest_of(target: Target, shape: Shape) -> bytes:
    """The image's digest as the target's bytes have it.  No unit may be missing for it to be right."""
    digest = UnitsDigest(shape.unit_bytes, shape.unit_count)
    for part in shape.ranges():
        found = target.hashes(part)
        digest.update(found or bytes(16 * part.count))
    return digest.value


def no_space(path: str, needed: int, free: int | None = None) -> DiskFull:
    there = "" if free is None else f", {free} are free"
    return DiskFull(
        f"no space for a snapshot of {needed} bytes at {path}{there}",
        hint="free some space; the transfer goes on by itself",
    )


@contextmanager
def space_guard(path: str, needed: int) -> Iterator[None]:
    """Turn 'no space left' and 'quota exceeded' into :class:`DiskFull`; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(path, needed) from error
        raise


def sync_or_discard(files: Files, path: str, file: File) -> None:
    """Make ``file`` and its name durable.

    After a failed sync the kernel may show bytes that the disk never got; their hashes would prove nothing to
    the next attempt.  So the file goes, and the error (final, as ever) passes.
    """
    try:
        file.sync()
    except OSError:
        files.unlink(path)
        raise
    files.sync_dir(os.path.dirname(path))
