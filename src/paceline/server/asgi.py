"""HTTP without a framework: requests, responses, and a router that is a table.

Knows ASGI and nothing of Paceline's API.  A handler takes a ``Request`` and
returns a ``Response`` or a ``Stream``; every ``PacelineError`` it raises becomes
the error's own status and JSON shape in one place (``http_api.py``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any, TypeVar
from urllib.parse import parse_qs

import msgspec

from paceline.errors import TooLarge, Unavailable, UsageError
from paceline.limits import HTTP_BODY_BYTES_MAX

__all__ = [
    "Handler",
    "Receive",
    "Request",
    "Response",
    "Scope",
    "Send",
    "Stream",
    "decode_json",
    "encode_json",
]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_JSON_HEADER = (b"content-type", b"application/json")


class Response(msgspec.Struct, gc=False):
    """A whole answer.  ``leader``/``term`` go to the headers; None: ask the service."""

    body: bytes
    status: int = 200
    term: int | None = None
    leader: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON_HEADER,)


class Stream(msgspec.Struct):
    """An answer that goes on until the client leaves.

    ``close`` is called in any case: a generator that was never started runs no ``finally``.
    """

    chunks: AsyncGenerator[bytes, None]
    close: Callable[[], None]
    headers: tuple[tuple[bytes, bytes], ...]


class Request:
    """One request: what the scope says, and the body on demand."""

    __slots__ = ("_receive", "scope", "tail")

    def __init__(self, scope: Scope, receive: Receive, tail: str) -> None:
        self.scope = scope
        self._receive = receive
        self.tail = tail
        """What stood in place of ``{op}`` (or another name in braces) in the path."""

    @property
    def client(self) -> str:
        peer = self.scope.get("client")
        return f"http@{peer[0]}:{peer[1]}" if peer else "http"

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.scope["headers"] if key == name), None)

    async def body(self) -> bytes:
        """The whole body.  Raises ``TooLarge`` as soon as it is over the limit, announced or not."""
        announced = self.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > HTTP_BODY_BYTES_MAX:
            raise _too_large()
        message = await self._receive()
        if not message.get("more_body"):
            return _chunk(message)
        body = bytearray(_chunk(message))
        while message.get("more_body"):
            message = await self._receive()
            body += _chunk(message)
            if len(body) > HTTP_BODY_BYTES_MAX:
                raise _too_large()
        return bytes(body)

    def parameters(self) -> dict[str, str]:
        """The query string; the last one of a name counts.  Raises ``UsageError``."""
        try:
            pairs = parse_qs(
                self.scope["query_string"].decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=100,
            )
        except ValueError as error:
            raise UsageError(f"bad query string: {error}", hint="percent-encode it as UTF-8") from None
        return {name: values[-1] for name, values in pairs.items()}

    async def disconnected(self) -> None:
        """Return when the client has gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


Handler = Callable[[Request], Awaitable[Response | Stream]]


def _chunk(message: MutableMapping[str, Any]) -> bytes:
    if message["type"] == "http.disconnect":
        raise Unavailable("the client went away")
    body: bytes = message.get("body", b"")
    return body


def _too_large() -> TooLarge:
    return TooLarge(f"the body is over the limit of {HTTP_BODY_BYTES_MAX} bytes", hint="split the request")


T = TypeVar("T")


def decode_json(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """A typed body, whatever its content type; raises ``UsageError`` that names the place."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise UsageError(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the body is not JSON: {error} (body of {len(body)} bytes)") from None


_encode = msgspec.json.Encoder().encode


def encode_json(value: Any) -> bytes:
    return _encode(value)
