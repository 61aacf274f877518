"""The first frames of a connection on the peer port.

``Hello`` says who calls and why; ``Welcome`` accepts or refuses with a reason.
Then the connection belongs to its purpose:

    peer      messages of ``core/wire.py``, one direction (the answers come on the other node's own call)
    join      nothing more: the welcome holds what a new member needs to know
    snapshot  the conversation of ``snapshot/`` (also for backups)

Frames are ``u32 length | msgpack``; before the greeting they are at most 16 KiB.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Literal

import msgspec

from paceline.errors import PacelineError, ProtocolError, Unavailable, from_wire, to_wire

__all__ = ["Hello", "Welcome", "greet", "read_hello", "send_frame"]

MAGIC: Final = "paceline-peer"
VERSIONS: Final = (1,)
_GREETING_BYTES_MAX: Final = 16 * 1024
_WELCOME_BYTES_MAX: Final = 4 * 1024 * 1024
_GREETING_SECONDS: Final = 5.0

Purpose = Literal["peer", "join", "snapshot"]
DatabaseTuple = tuple[int, int, bytes]


class Hello(msgspec.Struct, kw_only=True, frozen=True):
    """``boot`` is drawn at each start of a process: two processes of one identity differ in it.

    ``founders``: names that the file of a founding member lists, when it asks to join.
    """

    magic: str = MAGIC
    versions: tuple[int, ...] = VERSIONS
    purpose: Purpose
    cluster: str | None
    cluster_name: str
    name: str
    incarnation: str
    boot: str
    address: str = ""
    http: str = ""
    peer: str = ""
    database: DatabaseTuple | None = None
    has_database: bool = False
    founders: tuple[str, ...] = ()


class Welcome(msgspec.Struct, kw_only=True, frozen=True):
    """``error`` (with ``fatal``: do not call again) or what the caller needs.

    ``leader`` is the peer address to ask instead.  For a join: ``membership`` (JSON), and ``position``
    where the log goes on when the caller's database is a state of it.
    """

    version: int
    name: str
    incarnation: str
    cluster: str | None
    error: dict[str, Any] | None = None
    fatal: bool = False
    leader: str | None = None
    membership: bytes | None = None
    position: str | None = None

    def raise_error(self) -> None:
        if self.error is not None:
            raise from_wire(self.error)


def refusal(
    error: PacelineError,
    *,
    name: str,
    incarnation: str = "",
    cluster: str | None = None,
    fatal: bool = False,
    leader: str | None = None,
) -> Welcome:
    return Welcome(
        version=0,
        name=name,
        incarnation=incarnation,
        cluster=cluster,
        error=to_wire(error),
        fatal=fatal,
        leader=leader,
    )


def send_frame(writer: asyncio.StreamWriter, message: msgspec.Struct) -> None:
    payload = msgspec.msgpack.encode(message)
    writer.write(len(payload).to_bytes(4, "big") + payload)


async def _read_frame(reader: asyncio.StreamReader, bytes_max: int) -> bytes:
    async with asyncio.timeout(_GREETING_SECONDS):
        length = int.from_bytes(await reader.readexactly(4), "big")
        if length > bytes_max:
            raise ProtocolError(
                f"a greeting of {length} bytes is not Paceline's peer protocol",
                hint="clients connect to the 'listen' port, not to the 'peer' port",
            )
        return await reader.readexactly(length)


async def read_hello(reader: asyncio.StreamReader) -> Hello:
    payload = await _read_frame(reader, _GREETING_BYTES_MAX)
    try:
        hello = msgspec.msgpack.decode(payload, type=Hello)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ProtocolError("this is not Paceline's peer protocol") from None
    if hello.magic != MAGIC:
        raise ProtocolError("this is not Paceline's peer protocol")
    if not set(hello.versions) & set(VERSIONS):
        raise ProtocolError(
            f"peer protocol versions {list(hello.versions)} are not spoken here (only {list(VERSIONS)})",
            hint="upgrade the older node",
        )
    return hello


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: Hello) -> Welcome:
    """Call: send the hello, await the welcome (which may be a refusal)."""
    send_frame(writer, hello)
    try:
        payload = await _read_frame(reader, _WELCOME_BYTES_MAX)
        return msgspec.msgpack.decode(payload, type=Welcome)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ProtocolError("the other side does not speak Paceline's peer protocol") from None
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        raise Unavailable(f"no answer to the greeting: {error or type(error).__name__}") from None
