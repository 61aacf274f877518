"""The note beside the database that tells whether somebody else wrote while the node was down.

Written atomically at a clean close, before and after each checkpoint, and when a
new log gets its salts.  It is a cheap test, not a proof: a foreign writer that added
frames to the very log of a killed node leaves no trace here, and is found by
the page hashes of the next transaction that touches those pages.  The answer
errs on the safe side, because a re-sync by page hashes costs little.

It also keeps what is needed to find a killed leader's surplus (``surplus``):
the mark of the last complete checkpoint (everything up to it is in the file),
and the mark at which the last reign began, until the node applies again as a
follower.
"""

from __future__ import annotations

import errno
import os
from typing import Final

import msgspec

from paceline.engines.sqlite.mark import Mark
from paceline.engines.sqlite.walformat import WAL_HEADER_BYTES, wal_header_salts
from paceline.errors import DiskFull
from paceline.files import Files, write_atomic

__all__ = ["NO_LOG", "Note", "foreign_write", "read_note", "write_note"]

NOTE_VERSION: Final = 1
NOTE_NAME: Final = "state"
NO_LOG: Final = bytes(8)
"""The salts of a log without frames."""


class Note(msgspec.Struct, frozen=True):
    """``salts``: of the log in use, zero when it had no frames yet (who begins it chooses new salts).

    ``size``/``mtime_ns``: of the file when the note was written.
    ``checkpointed``: encoded capture mark up to which everything is in the file, empty when unknown; whoever writes
    next may begin the log anew.
    ``attempted``: encoded mark of a checkpoint of ours that began and whose end was not noted, else empty.
    ``led_from``: encoded mark where a reign began that no apply has followed, else empty.  Durable in the log.
    ``led_at``: end of the node's log when that reign began; marks up to there are of older reigns.
    ``moving``: a checkpoint of ours began; the file may have changed, and the log may be empty.
    ``suspicion``: a foreign write was found and the node has not re-synced since, else empty.
    """

    salts: bytes
    size: int
    mtime_ns: int
    clean: bool
    checkpointed: bytes = b""
    attempted: bytes = b""
    led_from: bytes = b""
    led_at: int = 0
    suspicion: str = ""
    moving: bool = False
    version: int = NOTE_VERSION


def _path(database: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(database)), NOTE_NAME)


def write_note(
    files: Files,
    database: str,
    *,
    salts: bytes,
    clean: bool,
    checkpointed: bytes,
    attempted: bytes,
    led_from: bytes,
    led_at: int,
    suspicion: str,
    moving: bool,
) -> None:
    """Note the database file as it is now, durably; raises :class:`DiskFull` with the old note in place."""
    stat = os.stat(database)
    note = Note(
        salts=salts,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        clean=clean,
        checkpointed=checkpointed,
        attempted=attempted,
        led_from=led_from,
        led_at=led_at,
        suspicion=suspicion,
        moving=moving,
    )
    try:
        write_atomic(files, _path(database), msgspec.json.encode(note))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space for {_path(database)}", hint="free space on this disk") from error
        raise


def read_note(files: Files, database: str) -> Note | None:
    """The last note; None when there is none that can be read."""
    path = _path(database)
    if not files.exists(path):
        return None
    file = files.open(path)
    try:
        note = msgspec.json.decode(file.pread(file.size(), 0), type=Note)
    except msgspec.MsgspecError:
        return None
    finally:
        file.close()
    return note if note.version == NOTE_VERSION else None


def foreign_write(note: Note, database: str) -> str | None:
    """Why the files cannot be those that ``note`` speaks of, None when they can; call before opening them."""
    if note.suspicion:
        return note.suspicion
    if not os.path.exists(database):
        return "the database file is gone"
    stat = os.stat(database)
    touched = not note.moving and (stat.st_size, stat.st_mtime_ns) != (note.size, note.mtime_ns)
    header = _log_header(database)
    if not header:
        return "the database file was changed while the node was down" if touched else None
    if note.checkpointed and Mark.decode(note.checkpointed).salts == wal_header_salts(header):
        # SQLite does not sync the cut (or the removal) that ends a checkpoint: a power cut brings the old log back.
        # All of it is in the file, and no frame of a newer log was ever on the disk.
        return "the database file was changed while the node was down" if touched else None
    if note.clean:
        return "a write-ahead log appeared while the node was down"
    if note.salts == NO_LOG:
        # The log was begun after the note; as long as nobody moved frames into the file it is the only one since.
        return "the database file was changed while the node was down" if touched else None
    if wal_header_salts(header) != note.salts:
        return "the write-ahead log was started afresh while the node was down"
    return None


def _log_header(database: str) -> bytes:
    """The log's header, empty when there is no log.  No connection is open: closing the file is safe.

    A header alone is no log to SQLite either: a power cut took the frames, and whoever writes next chooses new salts.
    """
    try:
        with open(database + "-wal", "rb") as file:
            raw = file.read(WAL_HEADER_BYTES + 1)
    except FileNotFoundError:
        return b""
    return raw[:WAL_HEADER_BYTES] if len(raw) > WAL_HEADER_BYTES else b""
