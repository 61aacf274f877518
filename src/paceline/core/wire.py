"""Peer messages as bytes.

A frame is ``u32 length | payload`` (length of the payload, big endian).  The
payload starts with ``u16 header length``, then the message as a msgpack array
(tag first), then, for an append, the records of its entries as they stand in
the log.  Decoding checks every record's CRC.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from paceline.core.entry import LOCAL_KINDS_FROM, decode_entries
from paceline.core.messages import (
    Append,
    AppendResponse,
    Heartbeat,
    Message,
    ReadIndex,
    ReadIndexResponse,
    SnapshotNeeded,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from paceline.errors import BadEntry, ProtocolError
from paceline.limits import PEER_FRAME_BYTES_MAX

__all__ = ["decode_message", "encode_message"]

_PREFIX: Final = struct.Struct(">IH")
_HEADER_LENGTH: Final = struct.Struct(">H")
_encoder: Final = msgspec.msgpack.Encoder()


class _AppendHeader(msgspec.Struct, frozen=True, tag=3, array_like=True):
    term: int
    prev_term: int
    prev_index: int
    prev_chain: bytes
    commit: int


_decoder: Final[msgspec.msgpack.Decoder[_AppendHeader | Message]] = msgspec.msgpack.Decoder(
    _AppendHeader
    | VoteRequest
    | VoteResponse
    | AppendResponse
    | Heartbeat
    | SnapshotNeeded
    | TimeoutNow
    | ReadIndex
    | ReadIndexResponse
)


def encode_message(message: Message) -> list[bytes]:
    """Buffers of one frame, in order; records are not copied."""
    if isinstance(message, Append):
        header = _encoder.encode(
            _AppendHeader(
                message.term, message.prev_term, message.prev_index, message.prev_chain, message.commit
            )
        )
        records = [entry.record for entry in message.entries]
        length = 2 + len(header) + sum(map(len, records))
        assert length <= PEER_FRAME_BYTES_MAX
        return [_PREFIX.pack(length, len(header)) + header, *records]
    header = _encoder.encode(message)
    return [_PREFIX.pack(2 + len(header), len(header)) + header]


def decode_message(payload: bytes) -> Message:
    """Undo :func:`encode_message` (without the length); raises ``ProtocolError`` or ``BadEntry``."""
    if len(payload) < 2:
        raise ProtocolError("peer frame without a header")
    end = 2 + _HEADER_LENGTH.unpack_from(payload)[0]
    try:
        message = _decoder.decode(payload[2:end])
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"peer frame is not a message: {error}") from None
    if not isinstance(message, _AppendHeader):
        if end != len(payload):
            raise ProtocolError("bytes after a peer message")
        return message
    if len(message.prev_chain) != 16:
        raise ProtocolError("append with a malformed chain hash")
    try:
        entries = decode_entries(payload[end:])
    except BadEntry as error:
        raise ProtocolError(f"append with a damaged record: {error.message}") from None
    if any(entry.kind >= LOCAL_KINDS_FROM for entry in entries):
        raise ProtocolError("append with a local record")
    return Append(
        term=message.term,  # type: ignore[arg-type]
        prev_term=message.prev_term,  # type: ignore[arg-type]
        prev_index=message.prev_index,  # type: ignore[arg-type]
        prev_chain=message.prev_chain,
        commit=message.commit,  # type: ignore[arg-type]
        entries=tuple(entries),
    )
