"""One question to one member, without the client's patience: a member that is down says so at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from paceline.client.aio import AsyncClient
from paceline.client.routing import parse_address
from paceline.errors import Unavailable

__all__ = ["member_client"]

_CONNECT_SECONDS: Final = 1.0


@contextlib.asynccontextmanager
async def member_client(address: str, timeout_ms: int, *, direct: bool = False) -> AsyncIterator[AsyncClient]:
    """A client of the member at ``address``; raises ``Unavailable`` when nothing listens there."""
    host, port = parse_address(address)
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        raise Unavailable(f"{address} does not answer") from None
    except OSError as error:
        raise Unavailable(f"{address}: {error.strerror or error}") from None
    writer.transport.abort()
    async with AsyncClient([address], timeout_ms=timeout_ms, direct=direct) as client:
        yield client
