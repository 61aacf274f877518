"""The native protocol: frames and messages, without input or output.

Both sides use this module.  It turns messages into frames and bytes into
messages; it never knows a socket, a clock or a service.  The byte layout is
specified in ``docs/reference/native-protocol.md``.

A frame is a length (u32, big endian) and a MessagePack array: first the tag of
the message, then its fields in the order they have below.  Missing trailing
fields take their defaults and unknown trailing fields are ignored, so a
version may add fields at the end.  A connection opens with ``Hello`` and
``Welcome``; after that the client numbers its requests as it likes, and
replies carry those numbers in any order.

Bytes that are not the protocol raise ``ProtocolError`` and nothing else; no
memory is set aside for a length before its bytes have arrived.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Final

import msgspec

from paceline.client.results import Receipt, StatementResult
from paceline.errors import ProtocolError, TooLarge, UsageError
from paceline.limits import (
    CLIENT_FRAME_BYTES_BEFORE_HELLO,
    CLIENT_FRAME_BYTES_MAX,
    MIB,
    REQUEST_ID_BYTES_MAX,
    TIMEOUT_MS_MAX,
)

__all__ = [
    "HEADER_BYTES",
    "MAGIC",
    "VERSIONS",
    "Admin",
    "Event",
    "Execute",
    "Failure",
    "FrameReader",
    "Hello",
    "Info",
    "Leader",
    "Message",
    "Outcome",
    "Ping",
    "Pong",
    "Query",
    "ReadLevel",
    "Reply",
    "Request",
    "Rows",
    "Status",
    "Subscribe",
    "Welcome",
    "Written",
    "decode_hello",
    "decode_reply",
    "decode_request",
    "encode_frame",
]

MAGIC: Final = "paceline"
VERSIONS: Final = (1,)
"""Versions that this code speaks, the preferred one first."""

_LENGTH: Final = struct.Struct(">I")
HEADER_BYTES: Final = _LENGTH.size

Number = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
Timeout = Annotated[int, msgspec.Meta(ge=1, le=TIMEOUT_MS_MAX)]
RequestId = Annotated[bytes, msgspec.Meta(min_length=1, max_length=REQUEST_ID_BYTES_MAX)]
ReadLevel = str
"""A text of ``reading.parse_read``; the server checks it, so that a wrong one costs the request, not the connection."""
Args = list[Any] | dict[str, Any]
"""Values are checked by the server, not here: MessagePack cannot tell a type checker 'text or BLOB'."""


Body = bytes | bytearray | memoryview


class Message(msgspec.Struct, array_like=True, gc=False):
    """Base of all messages."""


# what a client sends


class Hello(Message, tag=0):
    """The first frame.  ``versions``: those that the client speaks, the preferred one first."""

    magic: str
    versions: Annotated[list[int], msgspec.Meta(max_length=64)]
    client: Annotated[str, msgspec.Meta(max_length=200)] = ""


class Execute(Message, tag=1):
    """Run ``statements`` as one transaction.  ``durability`` None: the cluster's default."""

    number: Number
    statements: list[tuple[str, Args]]
    durability: str | None = None
    request_id: RequestId | None = None
    timeout_ms: Timeout | None = None


class Query(Message, tag=2):
    number: Number
    sql: str
    args: Args = []
    read: ReadLevel = "local"
    token: str | None = None
    timeout_ms: Timeout | None = None


class Status(Message, tag=3):
    number: Number


class Leader(Message, tag=4):
    number: Number


class Subscribe(Message, tag=5):
    """From now on ``Event`` frames with this number, until the connection ends."""

    number: Number


class Admin(Message, tag=6):
    number: Number
    op: str
    params: dict[str, Any] = {}


class Ping(Message, tag=7):
    number: Number


class Outcome(Message, tag=8):
    """What became of the write whose receipt names ``position``?  Answered by ``Info``."""

    number: Number
    position: str


Request = Execute | Query | Status | Leader | Subscribe | Admin | Ping | Outcome


# what a server sends


class Welcome(Message, tag=0):
    """Answer to ``Hello``.  ``leader_address`` is where the leader's native port is, when known."""

    version: int
    node: str
    cluster: str
    leader: str | None
    term: int
    leader_address: str | None = None


class Written(Message, tag=1):
    """Answer to ``Execute``: ``results`` or ``error`` (SQL that failed), and the receipt."""

    number: Number
    results: list[StatementResult] | None
    error: dict[str, Any] | None
    repeated_at: int | None
    receipt: Receipt | None


class Rows(Message, tag=2):
    """Answer to ``Query``."""

    number: Number
    columns: list[str]
    types: list[str | None]
    rows: list[list[Any]]
    position: str | None
    leader: str | None
    term: int
    node: str


class Info(Message, tag=3):
    """Answer to ``Status``, ``Leader``, ``Admin``, ``Outcome`` and (once, empty) ``Subscribe``."""

    number: Number
    info: dict[str, Any]


class Pong(Message, tag=4):
    number: Number


class Event(Message, tag=5):
    number: Number
    event: dict[str, Any]


class Failure(Message, tag=6):
    """The request was not done.  ``number`` None: the whole connection is refused, and closes now."""

    number: Number | None
    error: dict[str, Any]
    leader: str | None
    term: int
    leader_address: str | None = None


Reply = Welcome | Written | Rows | Info | Pong | Event | Failure

_encode: Final = msgspec.msgpack.Encoder().encode
_hello: Final = msgspec.msgpack.Decoder(Hello)
_request: Final = msgspec.msgpack.Decoder(Request)
_reply: Final = msgspec.msgpack.Decoder(Reply)


def encode_frame(message: Message) -> bytes:
    """The whole frame of ``message``.  Raises ``UsageError`` on values that cannot travel, ``TooLarge``."""
    try:
        body = _encode(message)
    except OverflowError:
        raise UsageError("an integer does not fit in 64 bits", hint="send it as text") from None
    except UnicodeEncodeError:
        raise UsageError(
            "a text contains surrogates, which UTF-8 cannot hold", hint="send it as bytes"
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"a value cannot be sent: {error}", hint="use None, int, float, str or bytes"
        ) from None
    if len(body) > CLIENT_FRAME_BYTES_MAX:
        raise TooLarge(f"a message of {len(body)} bytes is over the limit of {CLIENT_FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(body)) + body


_UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_request(body: Body) -> Request:
    """One request; raises ``ProtocolError``."""
    try:
        request: Request = _request.decode(body)
        return request
    except _UNDECODABLE as error:
        raise ProtocolError(f"bad request: {error}") from None


def decode_reply(body: Body) -> Reply:
    """One reply; raises ``ProtocolError``."""
    try:
        reply: Reply = _reply.decode(body)
        return reply
    except _UNDECODABLE as error:
        raise ProtocolError(f"bad reply: {error}") from None


def decode_hello(body: Body) -> tuple[Hello, int]:
    """The client's hello and the version to speak; raises ``ProtocolError`` when there is none in common."""
    try:
        hello = _hello.decode(body)
    except _UNDECODABLE as error:
        raise ProtocolError(f"bad hello: {error}", hint=_WHAT_THIS_IS) from None
    if hello.magic != MAGIC:
        raise ProtocolError("the first frame is not Paceline's hello", hint=_WHAT_THIS_IS)
    for version in VERSIONS:
        if version in hello.versions:
            return hello, version
    raise ProtocolError(
        f"no protocol version in common: this node speaks {list(VERSIONS)}, the client {hello.versions}",
        hint="upgrade the older side",
    )


_WHAT_THIS_IS: Final = "this port speaks Paceline's native protocol"
_HTTP_STARTS: Final = (
    b"GET ",
    b"HEAD",
    b"POST",
    b"PUT ",
    b"DELE",
    b"OPTI",
    b"PATC",
    b"CONN",
    b"TRAC",
    b"PRI ",
    b"HTTP",
)


def _oversize(header: bytes, length: int, limit: int) -> ProtocolError:
    """Say what the bytes look like when they are another protocol's."""
    if header in _HTTP_STARTS:
        return ProtocolError(
            "this looks like HTTP", hint=f"{_WHAT_THIS_IS}; the HTTP API has a port of its own"
        )
    if header[:2] == b"\x16\x03":
        return ProtocolError("this looks like TLS", hint=f"{_WHAT_THIS_IS}, without TLS")
    return ProtocolError(f"a frame of {length} bytes is over the limit of {limit}", hint=_WHAT_THIS_IS)


class FrameReader:
    """Cuts a stream of bytes into frame bodies.  Set ``limit`` higher once the peer has said hello.

    A body of 1 MiB and more is a view into the buffer: decode it before the next ``feed``.
    """

    __slots__ = ("_buffer", "_start", "empty", "limit")

    def __init__(self, limit: int = CLIENT_FRAME_BYTES_BEFORE_HELLO) -> None:
        self.limit = limit
        self.empty = True
        """Nothing waits here, not even a part of a frame."""
        self._buffer: bytes | bytearray = b""
        self._start = 0

    def feed(self, data: bytes) -> None:
        """Take bytes as they arrive."""
        if self.empty:
            self._buffer, self._start, self.empty = data, 0, not data
            return
        buffer, start = self._buffer, self._start
        if not isinstance(buffer, bytearray):
            self._buffer = buffer = bytearray(memoryview(buffer)[start:])
        elif start:
            del buffer[:start]
        self._start = 0
        buffer += data

    def next(self) -> Body | None:
        """The next whole body, None when it has not arrived yet; raises ``ProtocolError``."""
        buffer, start = self._buffer, self._start
        begin, size = start + HEADER_BYTES, len(buffer)
        if begin > size:
            return None
        length = int.from_bytes(buffer[start:begin], "big")
        if length > self.limit:
            raise _oversize(bytes(buffer[start:begin]), length, self.limit)
        end = begin + length
        if end > size:
            return None
        self._start, self.empty = end, end == size
        if length >= MIB:
            return memoryview(buffer)[begin:end]
        return buffer[begin:end]

    @property
    def buffered(self) -> int:
        """Bytes that wait here."""
        return len(self._buffer) - self._start
