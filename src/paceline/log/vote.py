"""The vote file: the hard state, kept so that one bad sector cannot bring back an older vote.

Two slots, 4096 bytes apart, hold the *same* state.  ``save`` writes and syncs
one, then the other.  So a torn write leaves the other slot whole with the
state before it, which nobody was told to forget yet; and a sector that rots
later leaves the other slot whole with the same state, not with an older one
(which merely alternating slots would bring back: a second vote in one term).

    slot (at 0 and at 4096)
    offset size field
    0      8    magic "PLINEVOT"
    8      2    format version (1; big endian, as all)
    10     2    length of the name voted for (0: nobody)
    12     2    length of the name of the leader last followed (0: nobody)
    14     2    zero
    16     8    sequence number: rises with every save
    24     8    term
    32     8    commit index, a lower bound
    40     40   name voted for, zero-filled
    80     40   name of the leader last followed, zero-filled
    120    4    CRC32C of bytes 0..120

A missing or unreadable file never means 'term 0': the node may have voted.
"""

from __future__ import annotations

import os
import struct
from typing import Final

import google_crc32c

from paceline.core.hardstate import HardState
from paceline.errors import LogFailed, VoteLost
from paceline.files import File, Files, write_atomic
from paceline.ids import Index, NodeId, Term

__all__ = ["WAY_BACK", "VoteFile"]

_SLOT: Final = struct.Struct(">8sHHHHQQQ40s40s")
_CRC: Final = struct.Struct(">I")
_MAGIC: Final = b"PLINEVOT"
_VERSION: Final = 1
_SLOT_STRIDE: Final = 4096
_SLOT_BYTES: Final = _SLOT.size + _CRC.size
_FILE_BYTES: Final = 2 * _SLOT_STRIDE
WAY_BACK: Final = (
    "this node may have voted and must not vote again: move its data directory away and let it join "
    "as a new node, or restore the vote file of this very node if it is a later one"
)


def _encode(sequence: int, state: HardState) -> bytes:
    vote, leader = (state.voted_for or "").encode(), (state.leader or "").encode()
    head = _SLOT.pack(
        _MAGIC, _VERSION, len(vote), len(leader), 0, sequence, state.term, state.commit, vote, leader
    )
    return head + _CRC.pack(google_crc32c.value(head))


def _decode(slot: bytes, path: str) -> tuple[int, HardState] | None:
    """(sequence, state), None when the slot is damaged; raises when it is newer than this code."""
    if len(slot) < _SLOT_BYTES:
        return None
    head = slot[: _SLOT.size]
    magic, version, vote_length, leader_length, _, sequence, term, commit, vote, leader = _SLOT.unpack(head)
    if magic != _MAGIC or _CRC.unpack_from(slot, _SLOT.size)[0] != google_crc32c.value(head):
        return None
    if version != _VERSION:
        raise VoteLost(f"vote file {path} has unknown format {version}", hint="upgrade this node")
    return sequence, HardState(
        Term(term), _name(vote, vote_length), Index(commit), _name(leader, leader_length)
    )


def _name(field: bytes, length: int) -> NodeId | None:
    return NodeId(field[:length].decode()) if length else None


class VoteFile:
    """``state`` is what is durable.  ``save`` runs on the log lane, one call at a time."""

    def __init__(self, file: File, path: str, sequence: int, state: HardState) -> None:
        self._file = file
        self._path = path
        self._sequence = sequence
        self._failed = False
        self.state = state

    @classmethod
    def create(cls, files: Files, path: str, state: HardState) -> VoteFile:
        """Make the file of a new node (only ever of a new one); durable on return."""
        if files.exists(path):
            raise VoteLost(f"vote file {path} is already there", hint="open it; a node is created once")
        slot = _encode(1, state)
        padding = bytes(_SLOT_STRIDE - _SLOT_BYTES)
        write_atomic(files, path, slot + padding + slot + padding)
        return cls(files.open(path), path, 1, state)

    @classmethod
    def open(cls, files: Files, path: str) -> VoteFile:
        """Open the file of a node that was created before; raises :class:`VoteLost`."""
        try:
            file = files.open(path)
        except FileNotFoundError:
            raise VoteLost(f"vote file {path} is missing", hint=WAY_BACK) from None
        slots = [_decode(file.pread(_SLOT_BYTES, at), path) for at in (0, _SLOT_STRIDE)]
        valid = [slot for slot in slots if slot is not None]
        if not valid:
            file.close()
            raise VoteLost(f"vote file {path} is damaged: both slots fail their checks", hint=WAY_BACK)
        sequence, state = max(valid, key=lambda slot: slot[0])
        vote = cls(file, path, sequence, state)
        # The newest slot may be visible and yet not durable (killed before its sync).
        best = slots.index((sequence, state))
        vote._write(best)
        vote._write(1 - best)
        files.sync_dir(os.path.dirname(path))
        return vote

    def save(self, state: HardState) -> None:
        """Durable on return.  A failure is final: raises :class:`LogFailed`, ever after."""
        if self._failed:
            raise LogFailed(f"vote file {self._path} failed before", hint="restart this node")
        assert self.state.may_become(state), f"{self.state} must not become {state}"
        if state == self.state:
            return
        self._sequence += 1
        before, self.state = self.state, state
        try:
            self._write(0)
            self._write(1)
        except LogFailed:
            self._failed, self.state = True, before
            raise

    def _write(self, slot: int) -> None:
        try:
            self._file.pwritev([_encode(self._sequence, self.state)], slot * _SLOT_STRIDE)
            self._file.sync()
        except OSError as error:
            raise LogFailed(
                f"vote file {self._path} cannot be written: {error}",
                hint="check the disk, then restart this node",
            ) from error

    def close(self) -> None:
        self._file.close()
