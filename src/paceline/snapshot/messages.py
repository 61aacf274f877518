"""The messages of a snapshot transfer, and their frames.

A frame is a length (4 bytes, big endian) and one msgpack map with a ``type``;
``docs/formats/snapshot.md`` has the tables.  Fields may be added with
defaults; anything else is a new version.  The receiver asks with the highest
version it reads; the sender answers in the highest version both know.

    receiver                       sender
    SnapshotRequest         ->
                            <-     SnapshotOffer
    RangeHashes (pipelined) ->
                            <-     RangeUnits       one for each RangeHashes, in order
                            <-     SnapshotWait     any time: still alive, waiting for the commit
                            <-     SnapshotDone
    (either at any time: SnapshotFailed, then the connection ends)

Ranges are asked for in order, without gap or overlap: so the sender knows by
counting when the image is complete, and both compute the digest as they go.
"""

from __future__ import annotations

from typing import Final, Literal, TypeVar

import msgspec

from paceline.errors import PacelineError, ProtocolError, from_wire, to_wire
from paceline.ids import DatabasePosition
from paceline.limits import PEER_FRAME_BYTES_MAX

__all__ = [
    "SNAPSHOT_VERSION",
    "FrameDecoder",
    "Message",
    "Purpose",
    "RangeHashes",
    "RangeUnits",
    "SnapshotDone",
    "SnapshotFailed",
    "SnapshotOffer",
    "SnapshotRequest",
    "SnapshotWait",
    "encode_frame",
    "expect",
]

SNAPSHOT_VERSION: Final = 1
Purpose = Literal["join", "resync", "backup"]

_LENGTH_BYTES: Final = 4


class SnapshotRequest(msgspec.Struct, frozen=True, tag="request"):
    """``has`` and the unit fields describe the receiver's database, for the sender's status."""

    version: int
    purpose: Purpose
    has: DatabasePosition | None
    unit_bytes: int
    unit_count: int


class SnapshotOffer(msgspec.Struct, frozen=True, tag="offer"):
    """The image that the sender has pinned.  ``config``: the membership in force there, opaque here."""

    version: int
    snapshot: str
    position: str
    database: DatabasePosition | None
    unit_bytes: int
    unit_count: int
    config: bytes


class RangeHashes(msgspec.Struct, frozen=True, tag="hashes"):
    """Ask for a range.  ``hashes``: 16 bytes for each unit the receiver has; empty: it has none of them."""

    first: int
    count: int
    hashes: bytes


class RangeUnits(msgspec.Struct, frozen=True, tag="units"):
    """The differing units of a range, in order.

    ``which`` is a bitmap (bit 7 of byte 0 is unit ``first``), ``blob`` the
    units concatenated, as one zstd frame with content size and checksum;
    both empty when nothing differs.
    """

    first: int
    count: int
    which: bytes
    blob: bytes


class SnapshotWait(msgspec.Struct, frozen=True, tag="wait"):
    """The sender lives and waits, for what ``reason`` says."""

    reason: str


class SnapshotDone(msgspec.Struct, frozen=True, tag="done"):
    """Every range has been sent and ``position`` is committed; ``digest`` covers the whole image."""

    digest: bytes
    position: str


class SnapshotFailed(msgspec.Struct, frozen=True, tag="failed"):
    error: dict[str, object]

    @classmethod
    def of(cls, error: PacelineError) -> SnapshotFailed:
        return cls(to_wire(error))


Message = (
    SnapshotRequest | SnapshotOffer | RangeHashes | RangeUnits | SnapshotWait | SnapshotDone | SnapshotFailed
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)

M = TypeVar("M")


def encode_frame(message: Message) -> bytes:
    buffer = bytearray(_LENGTH_BYTES)
    _encoder.encode_into(message, buffer, _LENGTH_BYTES)
    size = len(buffer) - _LENGTH_BYTES
    assert size <= PEER_FRAME_BYTES_MAX
    buffer[:_LENGTH_BYTES] = size.to_bytes(_LENGTH_BYTES, "big")
    return bytes(buffer)


class FrameDecoder:
    """Bytes in, messages out; never holds more than one frame and what arrived with its end."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted = _LENGTH_BYTES

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_message(self) -> Message | None:
        """The next whole message, None when more bytes are needed; raises :class:`ProtocolError`."""
        if len(self._buffer) < self._wanted:
            return None
        size = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
        if size > PEER_FRAME_BYTES_MAX:
            raise ProtocolError(f"a snapshot frame of {size} bytes is over {PEER_FRAME_BYTES_MAX}")
        self._wanted = _LENGTH_BYTES + size
        if len(self._buffer) < self._wanted:
            return None
        body = bytes(memoryview(self._buffer)[_LENGTH_BYTES : self._wanted])
        del self._buffer[: self._wanted]
        self._wanted = _LENGTH_BYTES
        try:
            return _decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"not a snapshot message: {error}") from None


def expect(kind: type[M], message: Message) -> M:
    """``message`` as a ``kind``; raises what the other side reported, or :class:`ProtocolError`."""
    if isinstance(message, kind):
        return message
    if isinstance(message, SnapshotFailed):
        raise from_wire(message.error)
    raise ProtocolError(f"expected {kind.__name__} in a snapshot transfer, got {type(message).__name__}")
